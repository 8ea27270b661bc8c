"""Positions of keys relative to the query."""

from typing import ClassVar, final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._check import check_positive
from ..nn import ParameterKinds, resample


@final
class RelativePosition(eqx.Module):
    r"""Adds to the score of a query and a key a term for the distance between them, in rows and in columns.

    The score of a query $q$ at row $r$ and column $c$ for the key at $r'$, $c'$ grows by
    $q \cdot R_{r - r'} + q \cdot C_{c - c'}$, with $q$ not scaled. On a larger or smaller grid the tables are
    interpolated linearly.

    ??? cite

        Li et al., *MViTv2*, CVPR 2022, arXiv:2112.01526, section 4.1; Kirillov et al., *Segment Anything*, ICCV 2023,
        arXiv:2304.02643, and its `image_encoder.py`.
    """

    parameter_kinds: ClassVar[ParameterKinds] = {"rows": "position", "cols": "position"}

    rows: Float[Array, "row_distances head_dim"]
    cols: Float[Array, "col_distances head_dim"]

    def __init__(self, grid: tuple[int, int], head_dim: int):
        """**Arguments:**

        - `grid`: rows and columns of the tokens. A side of `n` tokens has `2n - 1` distances, whose vectors start at
            zero.
        - `head_dim`: the width of a head.
        """
        check_positive(grid=grid, head_dim=head_dim)
        self.rows = jnp.zeros((2 * grid[0] - 1, head_dim), jnp.float32)
        self.cols = jnp.zeros((2 * grid[1] - 1, head_dim), jnp.float32)

    def __call__(
        self, q: Float[Array, "heads tokens head_dim"], grid: tuple[int, int]
    ) -> Float[Array, "heads tokens tokens"]:
        """Computes what is added to the scores.

        **Arguments:**

        - `q`: the queries, not scaled, row-major over the grid.
        - `grid`: rows and columns of the queries and keys.

        **Returns:**

        A term for each head, query and key.
        """
        heads, _, head_dim = q.shape
        q = q.reshape(heads, *grid, head_dim)
        by_row = jnp.einsum("hrcd,rsd->hrcs", q, _spread_pairs(self.rows, grid[0]).astype(q.dtype))
        by_col = jnp.einsum("hrcd,ctd->hrct", q, _spread_pairs(self.cols, grid[1]).astype(q.dtype))
        scores = by_row[..., :, None] + by_col[..., None, :]
        return scores.reshape(heads, grid[0] * grid[1], grid[0] * grid[1])


def _spread_pairs(table: Float[Array, "distances head_dim"], length: int) -> Float[Array, "{length} {length} head_dim"]:
    """The vector of each pair of query and key along one axis."""
    distances = jnp.arange(length)[:, None] - jnp.arange(length)[None, :] + length - 1
    return resample(table, (2 * length - 1,), "bilinear")[distances]
