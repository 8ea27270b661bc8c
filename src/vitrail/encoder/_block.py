"""One block of the encoder."""

from typing import final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from .._init import Init
from .._layers import PRODUCT, LayerNorm, drop_path, dropout, keep, split_key, unfused
from .._mlp import MLP
from .._tokens import Rotation
from ._attention import Attention
from ._options import EncoderOptions, EncoderSize
from ._window import Surroundings, from_windows, to_windows


@final
class Block(eqx.Module):
    """A pre-norm block: `x + attention(norm1(x))`, then `x + mlp(norm2(x))`.

    ??? cite

        Dosovitskiy et al., *An Image is Worth 16x16 Words*, ICLR 2021, arXiv:2010.11929, equations 2 and 3. LayerScale:
        Touvron et al., *Going deeper with Image Transformers*, 2021, arXiv:2103.17239.
    """

    norm1: LayerNorm
    attention: Attention
    scale1: Float[Array, " dim"] | None
    norm2: LayerNorm
    mlp: MLP
    scale2: Float[Array, " dim"] | None
    dropout: float = eqx.field(static=True)

    def __init__(self, size: EncoderSize, *, options: EncoderOptions, init: Init, key: PRNGKeyArray):
        """**Arguments:**

        - `size`: of the encoder; all but its depth counts here.
        - `options`: of the encoder.
        - `init`: draws the weights.
        - `key`: for the weights.
        """
        attention_key, mlp_key = jax.random.split(key)
        scale = None if options.layer_scale is None else jnp.full(size.dim, options.layer_scale, jnp.float32)
        self.norm1 = LayerNorm(size.dim, eps=options.norm_eps)
        self.attention = Attention(size.dim, size.num_heads, options=options, init=init, key=attention_key)
        self.scale1 = scale
        self.norm2 = LayerNorm(size.dim, eps=options.norm_eps)
        self.mlp = MLP(
            size.dim,
            size.mlp_dim,
            activation=options.activation,
            dropout=options.dropout,
            init=init,
            key=mlp_key,
        )
        self.scale2 = scale
        self.dropout = options.dropout

    def __call__(
        self,
        x: Float[Array, "tokens dim"],
        *,
        mask: Bool[Array, " tokens"] | None = None,
        rotation: Rotation | None = None,
        surroundings: Surroundings | None = None,
        drop_path_rate: Float[Array, ""] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "tokens dim"]:
        """**Arguments:**

        - `x`: the tokens.
        - `mask`: true for each token that counts; `None` if all count.
        - `rotation`: of queries and keys, where the position is rotary.
        - `surroundings`: how far the attention looks; `None` for all tokens alike.
        - `drop_path_rate`: the probability of dropping each of the two branches; `None` for none.
        - `key`: for dropout and stochastic depth; `None` means inference.

        **Returns:**

        The tokens after this block.
        """
        mlp_key, *keys = split_key(key, 5)

        def residual(
            branch: Float[Array, "tokens dim"], scale: Float[Array, " dim"] | None, keys: list[PRNGKeyArray | None]
        ) -> Float[Array, "tokens dim"]:
            dropout_key, drop_path_key = keys
            if scale is not None:
                branch = branch * jnp.broadcast_to(scale, branch.shape)
            branch = dropout(branch, self.dropout, key=dropout_key)
            return branch if drop_path_rate is None else drop_path(branch, drop_path_rate, key=drop_path_key)

        x = x + residual(self._attend(unfused(self.norm1(x)), mask, rotation, surroundings), self.scale1, keys[:2])
        x = keep(x, PRODUCT)
        return x + residual(self.mlp(unfused(self.norm2(x)), key=mlp_key), self.scale2, keys[2:])

    def _attend(
        self,
        x: Float[Array, "tokens dim"],
        mask: Bool[Array, " tokens"] | None,
        rotation: Rotation | None,
        around: Surroundings | None,
    ) -> Float[Array, "tokens dim"]:
        if around is None:
            return self.attention(x, mask=mask, rotation=rotation)
        if around.window is None:
            return self.attention(x, rotation=rotation, relative=around.relative, grid=around.grid)
        side = around.window, around.window
        windows = to_windows(x, around.grid, around.window)

        def attend(window: Float[Array, "tokens dim"]) -> Float[Array, "tokens dim"]:
            return self.attention(window, relative=around.relative, grid=side)

        return from_windows(jax.vmap(attend)(windows), around.grid, around.window)
