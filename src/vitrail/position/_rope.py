"""The position embedding `rope`."""

import math
from typing import Literal, final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._check import check_above_zero, check_positive
from .._tokens import Tokens
from ..nn import Rotation
from ._base import AbstractPosition
from ._grid import read_grid


@final
class RotaryPosition(AbstractPosition):
    r"""Rotates queries and keys by angles that grow with row and column, half of each head's channels for each axis.

    Nothing is added to the tokens, and the prefix tokens are not rotated. With $D$ the width of a head, $b$ the base,
    $c$ a coordinate of the patch and $i = 0 \dots D/4 - 1$, the published rules are:

    - `"axial"`: the angles are $c \cdot b^{-4i/D}$, with the column first, then the row, both counted from 0. The
      channels $2j$ and $2j+1$ are a pair.
    - `"eva"`: the same, with the row first.
    - `"dinov3"`: the angles are $2 \pi c \cdot b^{-4i/D}$, with the row first. The coordinates are those of the centre
      of the patch, in $[-1, 1]$. The channels $j$ and $j + D/2$ are a pair.

    The first two can count from another number than 0 (`offset`), and scale the coordinates of an image to the grid
    that the model was trained on (`reference`). DINOv3 also jitters and rescales the coordinates in training; this
    class does not.

    ??? cite

        Heo et al., *Rotary Position Embedding for Vision Transformer*, ECCV 2024, arXiv:2403.13298 (`"axial"`);
        Fang et al., *EVA-02*, 2023, arXiv:2303.11331 (`"eva"`, in timm's order of the axes);
        Siméoni et al., *DINOv3*, 2025, arXiv:2508.10104, and its `rope_position_encoding.py` (`"dinov3"`).
    """

    rule: Literal["axial", "eva", "dinov3"] = eqx.field(static=True)
    base: float = eqx.field(static=True)
    offset: float = eqx.field(static=True)
    reference: tuple[int, int] | None = eqx.field(static=True)
    head_dim: int = eqx.field(static=True)

    def __init__(
        self,
        *,
        head_dim: int,
        rule: Literal["axial", "eva", "dinov3"] = "axial",
        base: float = 100.0,
        offset: float = 0.0,
        reference: tuple[int, int] | None = None,
    ):
        """**Arguments:**

        - `head_dim`: the width of an attention head, a multiple of four.
        - `rule`: `"axial"`, `"eva"` or `"dinov3"`.
        - `base`: the base of the frequencies. RoPE-ViT and DINOv3 use 100, EVA-02 and Perception Encoder 10,000.
        - `offset`: what is added to rows and columns: 1 in most of Perception Encoder.
        - `reference`: rows and columns of the grid that the coordinates of every image are scaled to; `None` to count
            patches.

        **Raises:** `ValueError` if `head_dim` does not fit, or `"dinov3"`, which has its own coordinates, gets an
        offset or a reference.
        """
        if head_dim % 4:
            raise ValueError(
                f"head_dim must be a multiple of 4 for rotary positions of two axes, got {head_dim}: change dim or "
                "num_heads (head_dim = dim / num_heads), or use position='learned'"
            )
        check_above_zero(base=base)
        if rule == "dinov3" and (offset != 0 or reference is not None):
            raise ValueError(
                f"offset and reference belong to the rules 'axial' and 'eva', got {offset} and {reference} with "
                "rule='dinov3': leave them out"
            )
        if reference is not None:
            check_positive(reference=reference)
        self.rule = rule
        self.base = base
        self.offset = offset
        self.reference = reference
        self.head_dim = head_dim

    def __call__(self, tokens: Tokens) -> Tokens:
        return tokens

    def in_attention(self, tokens: Tokens) -> Rotation | None:
        exponents = jnp.arange(self.head_dim // 4, dtype=jnp.float32) / (self.head_dim // 4)
        frequencies = self.base**-exponents
        rows, cols = (index.astype(jnp.float32) for index in tokens.coordinates)
        if self.rule == "dinov3":
            frequencies = 2 * math.pi * frequencies
            first, second = (2 * (c + 0.5) / n - 1 for c, n in zip((rows, cols), read_grid(tokens), strict=True))
        else:
            rows, cols = rows + self.offset, cols + self.offset
            if self.reference is not None:
                rows, cols = (
                    c / n * r for c, n, r in zip((rows, cols), read_grid(tokens), self.reference, strict=True)
                )
            first, second = (rows, cols) if self.rule == "eva" else (cols, rows)
        angles = jnp.concatenate([jnp.outer(first, frequencies), jnp.outer(second, frequencies)], axis=1)
        return Rotation(angles, num_prefix=tokens.num_prefix, interleaved=self.rule != "dinov3")

    def resized(self, grid: tuple[int, int]) -> "RotaryPosition":
        return self

    def with_class_token(self, row: Float[Array, " dim"] | None) -> "RotaryPosition":
        return self

    def with_registers(self, rows: Float[Array, "added dim"] | None, *, kept: int) -> "RotaryPosition":
        return self
