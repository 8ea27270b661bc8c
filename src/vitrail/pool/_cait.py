"""The pool `cait`."""

from typing import ClassVar, final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from .._check import check_above_zero, check_positive
from .._tokens import Tokens
from ..nn import BIG_VISION, MLP, Attention, Init, LayerNorm, ParameterKinds, choose_heads, split_key
from ._base import AbstractWeighingPool
from ._read import read_patches


@final
class ClassAttentionBlock(eqx.Module):
    r"""One block, in which a class token reads the patches. The patches do not change.

    With $Z = \mathrm{LN}([c; X])$: $c \leftarrow c + \lambda_1 \odot \mathrm{MultiHead}(Z_0, Z, Z)$, then
    $c \leftarrow c + \lambda_2 \odot \mathrm{MLP}(\mathrm{LN}(c))$.
    """

    norm1: LayerNorm
    attention: Attention
    scale1: Float[Array, " dim"]
    norm2: LayerNorm
    mlp: MLP
    scale2: Float[Array, " dim"]

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_dim: int,
        *,
        layer_scale: float,
        norm_eps: float,
        init: Init,
        key: PRNGKeyArray,
    ):
        r"""**Arguments:**

        - `dim`: the width of a token.
        - `num_heads`: of the attention.
        - `mlp_dim`: the width of the MLP's hidden layer.
        - `layer_scale`: $\lambda_1$ and $\lambda_2$ at the start.
        - `norm_eps`: what the norms add to the variance.
        - `init`: draws the weights.
        - `key`: the random key of the weights.
        """
        attention_key, mlp_key = split_key(key)
        scale = jnp.full(dim, layer_scale, jnp.float32)
        self.norm1 = LayerNorm(dim, eps=norm_eps)
        self.attention = Attention(dim, num_heads, init=init, key=attention_key)
        self.scale1 = scale
        self.norm2 = LayerNorm(dim, eps=norm_eps)
        self.mlp = MLP(dim, mlp_dim, init=init, key=mlp_key)
        self.scale2 = scale

    def __call__(
        self,
        token: Float[Array, "one dim"],
        patches: Float[Array, "patches dim"],
        mask: Bool[Array, " tokens"] | None,
    ) -> Float[Array, "one dim"]:
        """**Arguments:**

        - `token`: the class token.
        - `patches`: the patch tokens.
        - `mask`: of the class token and the patches.

        **Returns:**

        The class token after this block.
        """
        tokens = self._normalise(token, patches)
        token = token + self.scale1[None] * self.attention(tokens[:1], tokens, mask=mask)
        return token + self.scale2[None] * self.mlp(self.norm2(token))

    def weights(
        self,
        token: Float[Array, "one dim"],
        patches: Float[Array, "patches dim"],
        mask: Bool[Array, " tokens"] | None,
    ) -> Float[Array, "heads patches"]:
        """**Arguments:** those of `__call__`.

        **Returns:**

        The weight of each patch, by head. The class token has the rest of the weight, so a row sums to less than one.
        """
        tokens = self._normalise(token, patches)
        return self.attention.weights(tokens[:1], tokens, mask=mask)[:, 0, 1:]

    def _normalise(
        self, token: Float[Array, "one dim"], patches: Float[Array, "patches dim"]
    ) -> Float[Array, "tokens dim"]:
        return self.norm1(jnp.concatenate([token, patches]))


@final
class ClassAttentionPool(AbstractWeighingPool):
    r"""CaiT's class attention: a class token of its own reads the patches in a few blocks.

    Use it if a deeper readout may pay. A second block can look for what the first did not find. It has
    $B (12 d^2 + 15 d) + d$ parameters for the width $d$, $B$ blocks and the default MLP. It needs no class token of the
    model. With `norm_order="pool_norm"` the final norm follows it, as in CaiT.

    ??? cite

        Touvron et al., *Going deeper with Image Transformers*, ICCV 2021, arXiv:2103.17239, section 3. Two blocks, and
        scales that start at 0.1 in models of up to 18 blocks, are theirs.
    """

    class_token: Float[Array, "1 dim"]
    blocks: tuple[ClassAttentionBlock, ...]
    out_dim: int = eqx.field(static=True)
    needs_class_token: ClassVar[bool] = False
    order_invariant: ClassVar[bool] = True
    parameter_kinds: ClassVar[ParameterKinds] = {"class_token": "token"}

    def __init__(
        self,
        dim: int,
        *,
        depth: int = 2,
        num_heads: int | None = None,
        mlp_dim: int | None = None,
        layer_scale: float = 0.1,
        norm_eps: float = 1e-6,
        init: Init = BIG_VISION,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `dim`: the width of a token.
        - `depth`: the number of blocks.
        - `num_heads`: the number of attention heads; `None` for `dim / 64`, or 1 if 64 does not divide `dim`.
        - `mlp_dim`: the width of the hidden layers of the MLPs; `None` for `4 * dim`.
        - `layer_scale`: the initial scale of each branch.
        - `norm_eps`: what the norms add to the variance.
        - `init`: draws the weights and the class token.
        - `key`: the random key of the weights.

        **Raises:** `ValueError` if `dim` does not divide into heads, or a number is not positive.
        """
        mlp_dim = 4 * dim if mlp_dim is None else mlp_dim
        check_positive(depth=depth, mlp_dim=mlp_dim)
        check_above_zero(layer_scale=layer_scale, norm_eps=norm_eps)
        token_key, *block_keys = split_key(key, depth + 1)
        heads = choose_heads(dim, num_heads)
        self.class_token = init.class_token(token_key, (1, dim), jnp.dtype(jnp.float32))
        self.blocks = tuple(
            ClassAttentionBlock(dim, heads, mlp_dim, layer_scale=layer_scale, norm_eps=norm_eps, init=init, key=k)
            for k in block_keys
        )
        self.out_dim = dim

    def __call__(self, tokens: Tokens, *, key: PRNGKeyArray | None = None) -> Float[Array, " {self.out_dim}"]:
        patches, mask = read_patches(tokens)
        mask = _add_class_token(mask)
        token = self.class_token
        for block in self.blocks:
            token = block(token, patches, mask)
        return token[0]

    def weights(self, tokens: Tokens) -> Float[Array, "maps patches"]:
        """**Arguments:**

        - `tokens`: after the encoder.

        **Returns:**

        The weight of each patch: one row for each block and head, blocks first. The class token of the pool has the
        rest of the weight, so a row sums to less than one.
        """
        patches, mask = read_patches(tokens)
        mask = _add_class_token(mask)
        token, rows = self.class_token, list[Float[Array, "heads patches"]]()
        for block in self.blocks:
            rows.append(block.weights(token, patches, mask))
            token = block(token, patches, mask)
        return jnp.concatenate(rows)


def _add_class_token(mask: Bool[Array, " patches"] | None) -> Bool[Array, " tokens"] | None:
    """Returns the mask of the class token and the patches."""
    return None if mask is None else jnp.concatenate([jnp.ones(1, bool), mask])
