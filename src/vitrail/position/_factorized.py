"""The position embedding `factorized`."""

import dataclasses
from typing import Any, ClassVar, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._tokens import Tokens
from ..nn import TRUNC_NORMAL, Init, ParameterKinds, Rotation, resample
from ._base import AbstractPosition
from ._grid import check_grid


@final
class FactorizedPosition(AbstractPosition):
    """A learned vector for each row and one for each column. A patch gets the sum of its two, the prefix tokens none.

    It has `(rows + cols) * dim` parameters instead of `rows * cols * dim`, and a shape of image that never occurred in
    training still has positions.

    ??? cite

        Dehghani et al., *Patch n' Pack: NaViT*, NeurIPS 2023, arXiv:2307.06304, section 2.1.
    """

    parameter_kinds: ClassVar[ParameterKinds] = {"rows": "position", "cols": "position"}

    rows: Float[Array, "rows dim"]
    cols: Float[Array, "cols dim"]

    def __init__(self, dim: int, *, grid: tuple[int, int], init: Init = TRUNC_NORMAL, key: PRNGKeyArray):
        """**Arguments:**

        - `dim`: the width of a token.
        - `grid`: rows and columns of patches.
        - `init`: draws the two tables.
        - `key`: for the two tables.
        """
        rows_key, cols_key = jax.random.split(key)
        self.rows = init.position(rows_key, (grid[0], dim), jnp.dtype(jnp.float32))
        self.cols = init.position(cols_key, (grid[1], dim), jnp.dtype(jnp.float32))

    def __call__(self, tokens: Tokens) -> Tokens:
        check_grid(tokens.grid, (self.rows.shape[0], self.cols.shape[0]))
        table = self.rows[:, None, :] + self.cols[None, :, :]
        return dataclasses.replace(tokens, patches=tokens.patches + tokens.at_places(table.reshape(-1, tokens.dim)))

    def rotation(self, tokens: Tokens) -> Rotation | None:
        return None

    def resized(self, grid: tuple[int, int]) -> "FactorizedPosition":
        """**Arguments:**

        - `grid`: the new rows and columns.

        **Returns:**

        The position embedding with each table resampled along its axis: cubic, antialiased when it shrinks.
        """
        rows, cols = (
            resample(table, (length,), "torch_bicubic_antialias")
            for table, length in zip((self.rows, self.cols), grid, strict=True)
        )
        return eqx.tree_at(_get_rows_and_cols, self, (rows, cols))

    def with_class_token(self, row: Float[Array, " dim"] | None) -> "FactorizedPosition":
        return self


# Equinox passes a placeholder to this, so no narrower type holds.
def _get_rows_and_cols(position: Any) -> Any:
    return position.rows, position.cols
