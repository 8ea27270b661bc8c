"""Rotary positions: queries and keys turned by where their tokens lie."""

from typing import final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float


@final
class Rotation(eqx.Module):
    """A rotation of queries and keys by position (RoPE).

    Each pair of channels of a head is rotated by an angle that depends on the place of the token. The scores of
    attention then depend on the offset between two tokens. Tokens before the patches are not rotated. The angles are
    the same for all heads, or each head has its own, or each head of each block.

    ??? cite

        Su et al., *RoFormer: Enhanced Transformer with Rotary Position Embedding*, 2021, arXiv:2104.09864.
    """

    cos: Float[Array, "*blocks_and_heads tokens pairs"]
    sin: Float[Array, "*blocks_and_heads tokens pairs"]
    interleaved: bool = eqx.field(static=True)

    def __init__(
        self,
        angles: Float[Array, "*blocks_and_heads patches pairs"],
        *,
        num_prefix: int,
        interleaved: bool,
    ):
        """**Arguments:**

        - `angles`: the angles in radians, one for each patch token and each pair of channels of a head. Axes over the
            blocks and the heads, or over the heads alone, may come before these two.
        - `num_prefix`: the number of tokens before the patches.
        - `interleaved`: whether a pair is the channels `2i` and `2i + 1` (RoFormer, RoPE-ViT), or `i` and
            `i + head_dim / 2` (DINOv3, GPT-NeoX).
        """
        angles = jnp.pad(angles, (*((0, 0) for _ in angles.shape[:-2]), (num_prefix, 0), (0, 0)))
        self.cos = jnp.cos(angles)
        self.sin = jnp.sin(angles)
        self.interleaved = interleaved

    @property
    def per_block(self) -> bool:
        """Whether each block has a rotation of its own, which an encoder gives it."""
        return self.cos.ndim == 4

    def __call__(self, x: Float[Array, "heads tokens head_dim"]) -> Float[Array, "heads tokens head_dim"]:
        """Rotates queries or keys.

        **Arguments:**

        - `x`: the queries or the keys.

        **Returns:**

        The rotated array in the dtype of `x`. It is computed at least in float32.
        """
        heads, tokens, head_dim = x.shape
        pairs = (head_dim // 2, 2) if self.interleaved else (2, head_dim // 2)
        axis = -1 if self.interleaved else -2
        first, second = jnp.moveaxis(x.reshape(heads, tokens, *pairs).astype(self.cos.dtype), axis, 0)
        cos, sin = (part if part.ndim == 3 else part[None] for part in (self.cos, self.sin))
        turned = jnp.stack([first * cos - second * sin, first * sin + second * cos], axis)
        return turned.reshape(x.shape).astype(x.dtype)
