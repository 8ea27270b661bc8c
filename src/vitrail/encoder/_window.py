"""Attention within windows, and positions relative to the query: what SAM adds to a ViT."""

from dataclasses import dataclass
from typing import final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._check import check_positive
from .._resample import resample


@final
class RelativePosition(eqx.Module):
    r"""A learned vector for each distance in rows, and for each in columns, that the queries are multiplied by.

    The score of a query $q$ at row $r$ and column $c$ for the key at $r'$, $c'$ grows by
    $q \cdot R_{r - r'} + q \cdot C_{c - c'}$, with $q$ not scaled. On a larger or smaller grid the tables are
    interpolated linearly.

    ??? cite

        Li et al., *MViTv2*, CVPR 2022, arXiv:2112.01526, section 4.1; Kirillov et al., *Segment Anything*, ICCV 2023,
        arXiv:2304.02643, and its `image_encoder.py`.
    """

    rows: Float[Array, "row_distances head_dim"]
    cols: Float[Array, "col_distances head_dim"]

    def __init__(self, grid: tuple[int, int], head_dim: int):
        """**Arguments:**

        - `grid`: the rows and columns of the tokens that look at each other; `2n - 1` distances each.
        - `head_dim`: the width of a head.

        All start at zero.
        """
        check_positive(grid=grid, head_dim=head_dim)
        self.rows = jnp.zeros((2 * grid[0] - 1, head_dim), jnp.float32)
        self.cols = jnp.zeros((2 * grid[1] - 1, head_dim), jnp.float32)

    def __call__(
        self, q: Float[Array, "heads tokens head_dim"], grid: tuple[int, int]
    ) -> Float[Array, "heads tokens tokens"]:
        """**Arguments:**

        - `q`: the queries, before they are scaled.
        - `grid`: the rows and columns in which they lie.

        **Returns:**

        What is added to the scores.
        """
        heads, _, head_dim = q.shape
        q = q.reshape(heads, *grid, head_dim)
        by_row = jnp.einsum("hrcd,rsd->hrcs", q, _of_pairs(self.rows, grid[0]).astype(q.dtype))
        by_col = jnp.einsum("hrcd,ctd->hrct", q, _of_pairs(self.cols, grid[1]).astype(q.dtype))
        scores = by_row[..., :, None] + by_col[..., None, :]
        return scores.reshape(heads, grid[0] * grid[1], grid[0] * grid[1])


def _of_pairs(table: Float[Array, "distances head_dim"], length: int) -> Float[Array, "{length} {length} head_dim"]:
    """The vector of each pair of query and key along one axis."""
    distances = jnp.arange(length)[:, None] - jnp.arange(length)[None, :] + length - 1
    return resample(table, (2 * length - 1,), "bilinear")[distances]


def to_windows(
    x: Float[Array, "tokens dim"], grid: tuple[int, int], size: int
) -> Float[Array, "windows window_tokens dim"]:
    """The tokens window by window. Windows that reach beyond the grid are filled up with zeros."""
    rows, cols = (-(-n // size) for n in grid)
    padding = ((0, rows * size - grid[0]), (0, cols * size - grid[1]), (0, 0))
    padded = jnp.pad(x.reshape(*grid, -1), padding)
    return padded.reshape(rows, size, cols, size, -1).transpose(0, 2, 1, 3, 4).reshape(rows * cols, size * size, -1)


def from_windows(
    windows: Float[Array, "windows window_tokens dim"], grid: tuple[int, int], size: int
) -> Float[Array, "tokens dim"]:
    """The inverse of `to_windows`: what the filling gave is left out."""
    rows, cols = (-(-n // size) for n in grid)
    laid = windows.reshape(rows, cols, size, size, -1).transpose(0, 2, 1, 3, 4).reshape(rows * size, cols * size, -1)
    return laid[: grid[0], : grid[1]].reshape(grid[0] * grid[1], -1)


@dataclass(frozen=True)
class Surroundings:
    """How far a block looks, and by what it tells near from far."""

    grid: tuple[int, int]
    """Rows and columns of the patches."""
    window: int | None
    """The side of the windows that it looks within; `None` for all tokens."""
    relative: RelativePosition | None
    """The positions relative to the query."""
