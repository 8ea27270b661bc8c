"""The grid of patches."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .._tokens import Tokens


def grid_coordinates(grid: tuple[int, int]) -> tuple[Float[Array, " patches"], Float[Array, " patches"]]:
    """Returns the row and the column of each patch, row-major, counted from zero."""
    rows, cols = jnp.meshgrid(
        jnp.arange(grid[0], dtype=jnp.float32), jnp.arange(grid[1], dtype=jnp.float32), indexing="ij"
    )
    return rows.reshape(-1), cols.reshape(-1)


def read_grid(tokens: Tokens) -> tuple[int | Float[Array, ""], int | Float[Array, ""]]:
    """Returns the rows and columns of patches in the image: traced numbers for an image of its own grid."""
    return tokens.grid if tokens.own_grid is None else cover_own_grid(tokens.own_grid, keep_aspect=False)


def cover_grid(grid: tuple[int, int], *, keep_aspect: bool) -> tuple[int, int]:
    """Returns the size that a table is resampled to for a grid: with its aspect kept, a square that covers the grid."""
    return (max(grid), max(grid)) if keep_aspect else grid


def cover_own_grid(grid: Int[Array, "2"], *, keep_aspect: bool) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns what `cover_grid` does for the grid of one image, as traced numbers."""
    rows, cols = grid.astype(jnp.float32)
    side = jnp.maximum(rows, cols)
    return (side, side) if keep_aspect else (rows, cols)


def check_grid(grid: tuple[int, int], expected: tuple[int, ...]) -> None:
    """Raises a `ValueError` if tokens stand on another grid than the position embedding was made for."""
    if grid != expected:
        raise ValueError(
            f"tokens must have the grid {expected} that this position embedding was made for, got the grid {grid}: "
            f"use position.resized({grid}), or model.resized(image_size) for a whole model"
        )
