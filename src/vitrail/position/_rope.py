"""The position embedding `rope`."""

import math
from typing import Literal, final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._check import check_above_zero
from .._tokens import Tokens
from ..nn import Rotation
from ._base import AbstractPosition
from ._grid import read_grid


@final
class RotaryPosition(AbstractPosition):
    r"""Rotates queries and keys by angles that grow with row and column, half of each head's channels for each axis.

    Nothing is added to the tokens, and the prefix tokens are not rotated. With $D$ the width of a head and
    $i = 0 \dots D/4 - 1$, the published rules are:

    | rule | coordinates of a patch | angle | order | pairs |
    |---|---|---|---|---|
    | `"axial"` | row and column, from 0 | $c \cdot b^{-4i/D}$ | column, row | channels $2j, 2j+1$ |
    | `"dinov3"` | of its centre, in $[-1, 1]$ | $2 \pi c \cdot b^{-4i/D}$ | row, column | channels $j, j + D/2$ |

    In training DINOv3 also jitters and rescales the coordinates; this is its inference.

    ??? cite

        Heo et al., *Rotary Position Embedding for Vision Transformer*, ECCV 2024, arXiv:2403.13298 (`"axial"`);
        Siméoni et al., *DINOv3*, 2025, arXiv:2508.10104, and its `rope_position_encoding.py` (`"dinov3"`).
    """

    rule: Literal["axial", "dinov3"] = eqx.field(static=True)
    base: float = eqx.field(static=True)
    head_dim: int = eqx.field(static=True)

    def __init__(self, *, head_dim: int, rule: Literal["axial", "dinov3"] = "axial", base: float = 100.0):
        """**Arguments:**

        - `head_dim`: the width of an attention head, a multiple of four.
        - `rule`: `"axial"` or `"dinov3"`.
        - `base`: the base of the frequencies. Both papers use 100.

        **Raises:** `ValueError` if `head_dim` does not fit.
        """
        if head_dim % 4:
            raise ValueError(
                f"head_dim must be a multiple of 4 for rotary positions of two axes, got {head_dim}: change dim or "
                "num_heads (head_dim = dim / num_heads), or use position='learned'"
            )
        check_above_zero(base=base)
        self.rule = rule
        self.base = base
        self.head_dim = head_dim

    def __call__(self, tokens: Tokens) -> Tokens:
        return tokens

    def rotation(self, tokens: Tokens) -> Rotation | None:
        exponents = jnp.arange(self.head_dim // 4, dtype=jnp.float32) / (self.head_dim // 4)
        frequencies = self.base**-exponents
        rows, cols = (index.astype(jnp.float32) for index in tokens.coordinates)
        if self.rule == "dinov3":
            frequencies = 2 * math.pi * frequencies
            first, second = (2 * (c + 0.5) / n - 1 for c, n in zip((rows, cols), read_grid(tokens), strict=True))
        else:
            first, second = cols, rows
        angles = jnp.concatenate([jnp.outer(first, frequencies), jnp.outer(second, frequencies)], axis=1)
        return Rotation(angles, num_prefix=tokens.num_prefix, interleaved=self.rule == "axial")

    def resized(self, grid: tuple[int, int]) -> "RotaryPosition":
        return self

    def with_class_token(self, row: Float[Array, " dim"] | None) -> "RotaryPosition":
        return self
