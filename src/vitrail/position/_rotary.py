"""Rotary position embeddings of the two axes."""

import math
from typing import Literal, final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._check import check_above_zero
from .._init import Init
from .._tokens import Rotation, Tokens
from ._base import AbstractPosition
from ._fixed import grid_coordinates


@final
class RotaryPosition(AbstractPosition):
    r"""Turns queries and keys by angles that grow with row and column, half of each head's channels for each axis.

    Nothing is added to the tokens, and the prefix is not turned. With $D$ the width of a head and
    $i = 0 \dots D/4 - 1$, the published rules are:

    | rule | coordinates of a patch | angle | order | pairs |
    |---|---|---|---|---|
    | `"axial"` | row and column, from 0 | $c \cdot b^{-4i/D}$ | column, row | channels $2j, 2j+1$ |
    | `"dinov3"` | of its centre, in $[-1, 1]$ | $2 \pi c \cdot b^{-4i/D}$ | row, column | channels $j, j + D/2$ |

    DINOv3 jitters and rescales the coordinates as an augmentation in training; that is not done here, so this is its
    inference.

    ??? cite

        Heo et al., *Rotary Position Embedding for Vision Transformer*, ECCV 2024, arXiv:2403.13298 (`"axial"`);
        Siméoni et al., *DINOv3*, 2025, arXiv:2508.10104, and its `rope_position_encoding.py` (`"dinov3"`).
    """

    rule: Literal["axial", "dinov3"] = eqx.field(static=True)
    base: float = eqx.field(static=True)
    head_dim: int = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        *,
        grid: tuple[int, int] | None = None,
        class_token: bool = False,
        num_registers: int = 0,
        head_dim: int,
        init: Init | None = None,
        rule: Literal["axial", "dinov3"] = "axial",
        base: float = 100.0,
        key: PRNGKeyArray | None = None,
    ):
        """**Arguments:**

        - `head_dim`: the width of a head, a multiple of four.
        - `dim`, `grid`, `class_token`, `num_registers`, `init`, `key`: part of the contract; do not matter here.
        - `rule`: `"axial"` or `"dinov3"`.
        - `base`: of the frequencies. Both papers take 100.

        **Raises:** `ValueError` where `head_dim` does not fit.
        """
        if head_dim % 4:
            raise ValueError(
                f"head_dim must be a multiple of 4 for rotary positions of two axes, but {head_dim} came: "
                "head_dim is dim / num_heads, so change one of the two, or take position='learned'"
            )
        check_above_zero(base=base)
        self.rule = rule
        self.base = base
        self.head_dim = head_dim

    def __call__(self, tokens: Tokens) -> Tokens:
        """**Arguments:**

        - `tokens`: on any grid.

        **Returns:**

        The tokens as they came: this position acts in the attention.
        """
        return tokens

    def rotation(self, tokens: Tokens) -> Rotation | None:
        """**Arguments:**

        - `tokens`: what the encoder is about to read.

        **Returns:**

        The rotation for their grid.
        """
        exponents = jnp.arange(self.head_dim // 4, dtype=jnp.float32) / (self.head_dim // 4)
        frequencies = self.base**-exponents
        rows, cols = grid_coordinates(tokens.grid)
        if self.rule == "dinov3":
            frequencies = 2 * math.pi * frequencies
            first, second = (2 * (c + 0.5) / n - 1 for c, n in zip((rows, cols), tokens.grid, strict=True))
        else:
            first, second = cols, rows
        angles = jnp.concatenate([jnp.outer(first, frequencies), jnp.outer(second, frequencies)], axis=1)
        return Rotation(tokens.at_places(angles), num_prefix=tokens.num_prefix, interleaved=self.rule == "axial")

    def resized(self, grid: tuple[int, int]) -> "RotaryPosition":
        """**Returns:**

        Itself: the angles are computed for whichever grid comes.
        """
        return self

    def with_class_token(self, row: Float[Array, " dim"] | None) -> "RotaryPosition":
        """**Returns:**

        Itself: the prefix tokens have no position here.
        """
        return self
