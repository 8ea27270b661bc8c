"""The grid of patches."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def grid_coordinates(grid: tuple[int, int]) -> tuple[Float[Array, " patches"], Float[Array, " patches"]]:
    """Returns the row and the column of each patch, row-major, counted from zero."""
    rows, cols = jnp.meshgrid(
        jnp.arange(grid[0], dtype=jnp.float32), jnp.arange(grid[1], dtype=jnp.float32), indexing="ij"
    )
    return rows.reshape(-1), cols.reshape(-1)


def check_grid(grid: tuple[int, int], expected: tuple[int, ...]) -> None:
    """Raises a `ValueError` if tokens stand on another grid than the position embedding was made for."""
    if grid != expected:
        raise ValueError(
            f"tokens must have the grid {expected} that this position embedding was made for, got the grid {grid}: "
            f"use position.resized({grid}), or model.resized(image_size) for a whole model"
        )
