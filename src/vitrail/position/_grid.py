"""The grid of patches."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._tokens import Tokens


def grid_coordinates(grid: tuple[int, int]) -> tuple[Float[Array, " patches"], Float[Array, " patches"]]:
    """Returns the row and the column of each patch, row-major, counted from zero."""
    rows, cols = jnp.meshgrid(
        jnp.arange(grid[0], dtype=jnp.float32), jnp.arange(grid[1], dtype=jnp.float32), indexing="ij"
    )
    return rows.reshape(-1), cols.reshape(-1)


Side = int | Float[Array, ""]
"""How many patches there are along an axis: a traced number for an image of its own grid."""


def read_grid(tokens: Tokens) -> tuple[Side, Side]:
    """Returns the rows and columns of patches in the image."""
    if tokens.own_grid is None:
        return tokens.grid
    own = tokens.own_grid.astype(jnp.float32)
    return own[0], own[1]


def compute_size(grid: tuple[Side, Side], keep_aspect: bool) -> tuple[Side, Side]:
    """Returns the size that a table is resampled to for a grid: with its aspect kept, a square that covers the grid."""
    if not keep_aspect:
        return grid
    rows, cols = grid
    side = max(rows, cols) if isinstance(rows, int) and isinstance(cols, int) else jnp.maximum(rows, cols)
    return side, side


def check_grid(grid: tuple[int, int], expected: tuple[int, ...]) -> None:
    """Raises a `ValueError` if tokens stand on another grid than the position embedding was made for."""
    if grid != expected:
        raise ValueError(
            f"tokens must have the grid {expected} that this position embedding was made for, got the grid {grid}: "
            f"use position.resized({grid}), or model.resized(image_size) for a whole model"
        )
