"""The position embedding `rope_mixed`."""

import math
from typing import ClassVar, final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._check import check_above_zero
from .._tokens import Tokens
from ..nn import ParameterKinds, Rotation
from ._base import AbstractPosition


@final
class MixedRotaryPosition(AbstractPosition):
    r"""Rotates queries and keys by angles that mix row and column. Each head of each block learns the frequencies.

    A pair of channels of a patch in row $r$ and column $c$ is turned by $\theta_x c + \theta_y r$. The pairs are the
    channels $2j, 2j+1$. Nothing is added to the tokens, and the prefix tokens are not rotated. At first the frequencies
    are those of axial rotation, each head's turned by a random angle.

    ??? cite

        Heo et al., *Rotary Position Embedding for Vision Transformer*, ECCV 2024, arXiv:2403.13298, section 3.2
        (RoPE-Mixed).
    """

    parameter_kinds: ClassVar[ParameterKinds] = {"frequencies": "position"}
    block_fields: ClassVar[tuple[str, ...]] = ("frequencies",)

    frequencies: Float[Array, "depth 2 heads pairs"]

    def __init__(self, *, head_dim: int, num_heads: int, depth: int, base: float = 10.0, key: PRNGKeyArray):
        """**Arguments:**

        - `head_dim`: the width of an attention head, a multiple of four.
        - `num_heads`: the number of heads.
        - `depth`: the number of blocks.
        - `base`: the base of the frequencies at the start.
        - `key`: for the angles.

        **Raises:** `ValueError` if `head_dim` does not fit.
        """
        if head_dim % 4:
            raise ValueError(
                f"head_dim must be a multiple of 4 for rotary positions of two axes, got {head_dim}: change dim or "
                "num_heads (head_dim = dim / num_heads), or use position='learned'"
            )
        check_above_zero(base=base)
        lengths = base ** -(jnp.arange(head_dim // 4, dtype=jnp.float32) / (head_dim // 4))
        turns = jax.random.uniform(key, (depth, num_heads, 1), jnp.float32, 0.0, 2 * math.pi)
        both = jnp.concatenate([turns, turns + math.pi / 2], axis=-1)
        waves = [
            (jnp.broadcast_to(lengths, (*both.shape, len(lengths))) * along(both)[..., None]).reshape(
                depth, num_heads, -1
            )
            for along in (jnp.cos, jnp.sin)
        ]
        self.frequencies = jnp.stack(waves, axis=1)

    def __call__(self, tokens: Tokens) -> Tokens:
        return tokens

    def in_attention(self, tokens: Tokens) -> Rotation | None:
        rows, cols = (index.astype(jnp.float32) for index in tokens.coordinates)
        along_cols, along_rows = self.frequencies.astype(jnp.float32).swapaxes(0, 1)
        angles = jnp.einsum("dhp,n->dhnp", along_cols, cols, precision="highest")
        angles = angles + jnp.einsum("dhp,n->dhnp", along_rows, rows, precision="highest")
        return Rotation(angles, num_prefix=tokens.num_prefix, interleaved=True)

    def resized(self, grid: tuple[int, int]) -> "MixedRotaryPosition":
        return self

    def with_class_token(self, row: Float[Array, " dim"] | None) -> "MixedRotaryPosition":
        return self

    def with_registers(self, rows: Float[Array, "added dim"] | None, *, kept: int) -> "MixedRotaryPosition":
        return self
