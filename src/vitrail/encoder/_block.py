"""One block of the encoder."""

from typing import final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from ..nn import (
    MLP,
    NO_TAP,
    PRODUCT,
    Attention,
    AttentionStrategy,
    InAttention,
    Init,
    Norm,
    Tap,
    checkpoint_name,
    drop_branch,
    drop_elements,
    make_norm,
    prevent_fusion,
    split_key,
)
from ._options import EncoderOptions, EncoderSize


@final
class Block(eqx.Module):
    """A block of a Transformer: `x + attention(norm1(x))`, then `x + mlp(norm2(x))`.

    With `EncoderOptions(post_norm=True)` the norms come after the branches: `x + norm1(attention(x))`, then
    `x + norm2(mlp(x))`.

    ??? cite

        Dosovitskiy et al., *An Image is Worth 16x16 Words*, ICLR 2021, arXiv:2010.11929, equations 2 and 3. LayerScale:
        Touvron et al., *Going deeper with Image Transformers*, 2021, arXiv:2103.17239.
    """

    norm1: Norm
    attention: Attention
    scale1: Float[Array, " dim"] | None
    norm2: Norm
    mlp: MLP
    scale2: Float[Array, " dim"] | None
    post_norm: bool = eqx.field(static=True)

    def __init__(self, size: EncoderSize, *, options: EncoderOptions, init: Init, key: PRNGKeyArray):
        """**Arguments:**

        - `size`: the size of the encoder. Its depth has no effect.
        - `options`: the options of the encoder.
        - `init`: draws the weights.
        - `key`: the random key of the weights.
        """
        attention_key, mlp_key = split_key(key)
        scale = None if options.layer_scale is None else jnp.full(size.dim, options.layer_scale, jnp.float32)
        self.norm1 = make_norm(options.norm, size.dim, eps=options.norm_eps)
        self.attention = Attention(
            size.dim,
            size.num_heads,
            qkv_bias=options.qkv_bias,
            bias=options.bias,
            qk_norm=options.qk_norm,
            inner_norm=options.attention_norm,
            norm=options.norm,
            norm_eps=options.norm_eps,
            init=init,
            key=attention_key,
        )
        self.scale1 = scale
        self.norm2 = make_norm(options.norm, size.dim, eps=options.norm_eps)
        self.mlp = MLP(
            size.dim,
            size.mlp_dim,
            activation=options.activation,
            bias=options.bias,
            inner_norm=options.norm if options.mlp_norm else None,
            norm_eps=options.norm_eps,
            init=init,
            key=mlp_key,
        )
        self.scale2 = scale
        self.post_norm = options.post_norm

    def __call__(
        self,
        x: Float[Array, "tokens dim"],
        *,
        mask: Bool[Array, " tokens"] | Bool[Array, "tokens tokens"] | None = None,
        position: InAttention | None = None,
        strategy: AttentionStrategy = "auto",
        dropout_rate: float = 0.0,
        drop_path_rate: Float[Array, ""] | None = None,
        tap: Tap = NO_TAP,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "tokens dim"]:
        """Applies the block.

        **Arguments:**

        - `x`: the tokens.
        - `mask`: true for each token that counts, `(tokens,)`, or for each pair of a query (row) and a key (column),
            `(tokens, tokens)`; `None` if all count.
        - `position`: a rotation of queries and keys, or a bias of their scores.
        - `strategy`: how attention is computed, as in `Execution`.
        - `dropout_rate`: the probability of dropping an element in the MLP, and at the end of each branch.
        - `drop_path_rate`: the probability of dropping each of the two branches; `None` for none.
        - `tap`: records and edits intermediates, for the encoder; leave it out.
        - `key`: for dropout and stochastic depth; `None` means inference.

        **Returns:**

        The tokens after this block.
        """
        attended = self.attention(self.start(x), mask=mask, position=position, strategy=strategy, tap=tap)
        return self.finish(x, attended, dropout_rate=dropout_rate, drop_path_rate=drop_path_rate, tap=tap, key=key)

    def start(self, x: Float[Array, "tokens dim"]) -> Float[Array, "tokens dim"]:
        """Computes the input of the attention.

        **Arguments:**

        - `x`: the tokens before the block.

        **Returns:**

        The tokens after the first norm; `x` with `post_norm`.
        """
        return self._normalise_before(self.norm1, x)

    def finish(
        self,
        x: Float[Array, "tokens dim"],
        attended: Float[Array, "tokens dim"],
        *,
        dropout_rate: float = 0.0,
        drop_path_rate: Float[Array, ""] | None = None,
        tap: Tap = NO_TAP,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "tokens dim"]:
        """Applies the rest of the block after its attention.

        **Arguments:**

        - `x`: the tokens before the block.
        - `attended`: the output of the attention for `start(x)`.
        - `dropout_rate`, `drop_path_rate`, `tap`, `key`: as for `__call__`.

        **Returns:**

        The tokens after this block.
        """
        mlp_key, *keys = split_key(key, 5)

        def finish_branch(
            branch: Float[Array, "tokens dim"],
            norm: Norm,
            scale: Float[Array, " dim"] | None,
            keys: list[PRNGKeyArray | None],
        ) -> Float[Array, "tokens dim"]:
            dropout_key, drop_path_key = keys
            if self.post_norm:
                branch = norm(branch)
            if scale is not None:
                branch = branch * jnp.broadcast_to(scale, branch.shape)
            branch = drop_elements(branch, dropout_rate, key=dropout_key)
            return branch if drop_path_rate is None else drop_branch(branch, drop_path_rate, key=drop_path_key)

        x = x + tap("attention_branch", finish_branch(attended, self.norm1, self.scale1, keys[:2]))
        x = checkpoint_name(x, PRODUCT)
        mlp = self.mlp(self._normalise_before(self.norm2, x), dropout_rate=dropout_rate, tap=tap, key=mlp_key)
        return tap("tokens", x + tap("mlp_branch", finish_branch(mlp, self.norm2, self.scale2, keys[2:])))

    def _normalise_before(self, norm: Norm, x: Float[Array, "tokens dim"]) -> Float[Array, "tokens dim"]:
        return x if self.post_norm else prevent_fusion(norm(x))
