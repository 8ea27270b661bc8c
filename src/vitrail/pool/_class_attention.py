"""Class attention."""

from typing import ClassVar, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from .._check import check_above_zero, check_positive
from .._init import BIG_VISION, Init
from .._layers import LayerNorm
from .._mlp import MLP
from .._tokens import Tokens
from ._base import AbstractWeighingPool
from ._cross_attention import CrossAttention, default_heads
from ._mask import kept_patches


@final
class ClassAttentionBlock(eqx.Module):
    r"""One block in which a class token reads the patches, which stay as they are.

    With $Z = \mathrm{LN}([c; X])$: $c \leftarrow c + \lambda_1 \odot \mathrm{MultiHead}(Z_0, Z, Z)$, then
    $c \leftarrow c + \lambda_2 \odot \mathrm{MLP}(\mathrm{LN}(c))$.
    """

    norm1: LayerNorm
    attention: CrossAttention
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
        - `layer_scale`: where $\lambda_1$ and $\lambda_2$ start.
        - `norm_eps`: of the norms.
        - `init`: draws the weights.
        - `key`: for the weights.
        """
        attention_key, mlp_key = jax.random.split(key)
        scale = jnp.full(dim, layer_scale, jnp.float32)
        self.norm1 = LayerNorm(dim, eps=norm_eps)
        self.attention = CrossAttention(dim, num_heads, init=init, key=attention_key)
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
        tokens = self._normed(token, patches)
        token = token + self.scale1[None] * self.attention(tokens[:1], tokens, mask)
        return token + self.scale2[None] * self.mlp(self.norm2(token))

    def weights(
        self,
        token: Float[Array, "one dim"],
        patches: Float[Array, "patches dim"],
        mask: Bool[Array, " tokens"] | None,
    ) -> Float[Array, "heads patches"]:
        """**Arguments:** those of a call.

        **Returns:**

        How much the class token takes from each patch, by head. The rest of each row's one it takes from itself.
        """
        tokens = self._normed(token, patches)
        return self.attention.weights(tokens[:1], tokens, mask)[:, 0, 1:]

    def _normed(
        self, token: Float[Array, "one dim"], patches: Float[Array, "patches dim"]
    ) -> Float[Array, "tokens dim"]:
        return self.norm1(jnp.concatenate([token, patches]))


@final
class ClassAttentionPool(AbstractWeighingPool):
    r"""CaiT's class attention: a class token of the pool's own reads the patches in a few blocks.

    Pick it where a deep read-out may pay: it can look again at what it did not find in the first block. It has
    $B (12 d^2 + 15 d) + d$ parameters for the width $d$, $B$ blocks and the default MLP. It needs no class token of the
    model's, and does not depend on the order of the patches. With `norm_order="pool_norm"` the final norm comes after
    it, as in CaiT.

    ??? cite

        Touvron et al., *Going deeper with Image Transformers*, ICCV 2021, arXiv:2103.17239, section 3; two blocks, and
        scales that start at 0.1 in models of up to 18 blocks, are its.
    """

    class_token: Float[Array, "1 dim"]
    blocks: tuple[ClassAttentionBlock, ...]
    out_dim: int = eqx.field(static=True)
    needs_class_token: ClassVar[bool] = False
    order_invariant: ClassVar[bool] = True

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
        - `depth`: how many blocks there are.
        - `num_heads`: of the attention; `None` for one for each 64 channels, or one where these do not divide.
        - `mlp_dim`: the width of the MLPs' hidden layers; `None` for `4 * dim`.
        - `layer_scale`: where the scales of the branches start.
        - `norm_eps`: of the norms.
        - `init`: draws the weights and the class token.
        - `key`: for the weights.

        **Raises:** `ValueError` where `dim` does not divide into heads, or a number is not positive.
        """
        mlp_dim = 4 * dim if mlp_dim is None else mlp_dim
        check_positive(dim=dim, depth=depth, mlp_dim=mlp_dim)
        check_above_zero(layer_scale=layer_scale, norm_eps=norm_eps)
        token_key, *block_keys = jax.random.split(key, depth + 1)
        heads = default_heads(dim, num_heads)
        self.class_token = init.class_token(token_key, (1, dim), jnp.dtype(jnp.float32))
        self.blocks = tuple(
            ClassAttentionBlock(dim, heads, mlp_dim, layer_scale=layer_scale, norm_eps=norm_eps, init=init, key=k)
            for k in block_keys
        )
        self.out_dim = dim

    def __call__(self, tokens: Tokens, *, key: PRNGKeyArray | None = None) -> Float[Array, " {self.out_dim}"]:
        """**Arguments:**

        - `tokens`: after the encoder.
        - `key`: part of the contract; nothing is random here.

        **Returns:**

        One vector.
        """
        patches, mask = kept_patches(tokens)
        mask = _with_class_token(mask)
        token = self.class_token
        for block in self.blocks:
            token = block(token, patches, mask)
        return token[0]

    def weights(self, tokens: Tokens) -> Float[Array, "maps patches"]:
        """**Arguments:**

        - `tokens`: after the encoder.

        **Returns:**

        How much the class token takes from each patch in each block: one row for each block and head, blocks outermost.
        What is missing to one it takes from itself.
        """
        patches, mask = kept_patches(tokens)
        mask = _with_class_token(mask)
        token, rows = self.class_token, list[Float[Array, "heads patches"]]()
        for block in self.blocks:
            rows.append(block.weights(token, patches, mask))
            token = block(token, patches, mask)
        return jnp.concatenate(rows)


def _with_class_token(mask: Bool[Array, " patches"] | None) -> Bool[Array, " tokens"] | None:
    return None if mask is None else jnp.concatenate([jnp.ones(1, bool), mask])
