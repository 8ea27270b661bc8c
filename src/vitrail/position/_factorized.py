"""The position embedding `factorized`."""

import dataclasses
from typing import Any, ClassVar, final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._tokens import Tokens
from ..nn import TRUNC_NORMAL, Init, ParameterKinds, ResizeRule, Rotation, resample, resample_at, split_key
from ._base import AbstractPosition
from ._grid import check_grid, cover_grid, cover_own_grid


@final
class FactorizedPosition(AbstractPosition):
    """A learned vector for each row and one for each column. A patch gets the sum of its two, the prefix tokens none.

    It has `(rows + cols) * dim` parameters instead of `rows * cols * dim`, and a shape of image that never occurred in
    training still has positions. For images of another size each table is resampled along its axis.

    ??? cite

        Dehghani et al., *Patch n' Pack: NaViT*, NeurIPS 2023, arXiv:2307.06304, section 2.1.
    """

    parameter_kinds: ClassVar[ParameterKinds] = {"rows": "position", "cols": "position"}

    rows: Float[Array, "rows dim"]
    cols: Float[Array, "cols dim"]
    resize: ResizeRule = eqx.field(static=True)
    keep_aspect: bool = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        *,
        grid: tuple[int, int],
        init: Init = TRUNC_NORMAL,
        resize: ResizeRule = "torch_bicubic_antialias",
        keep_aspect: bool = False,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `dim`: the width of a token.
        - `grid`: rows and columns of patches.
        - `init`: draws the two tables.
        - `resize`: the rule that resamples the tables, as in `LearnedPosition`. timm's `naflexvit` has `"bilinear"`.
        - `keep_aspect`: whether both are resampled to the longer side of the grid and then cut off, as there.
        - `key`: for the two tables.
        """
        rows_key, cols_key = split_key(key)
        self.rows = init.position(rows_key, (grid[0], dim), jnp.dtype(jnp.float32))
        self.cols = init.position(cols_key, (grid[1], dim), jnp.dtype(jnp.float32))
        self.resize = resize
        self.keep_aspect = keep_aspect

    def __call__(self, tokens: Tokens) -> Tokens:
        return dataclasses.replace(tokens, patches=tokens.patches + self._find_sums(tokens))

    def _find_sums(self, tokens: Tokens) -> Float[Array, "patches dim"]:
        if tokens.own_grid is not None:
            size = cover_own_grid(tokens.own_grid, keep_aspect=self.keep_aspect)
            rows, cols = (
                resample_at(table, (index,), (length,), self.resize)
                for table, index, length in zip((self.rows, self.cols), tokens.coordinates, size, strict=True)
            )
            return rows + cols
        check_grid(tokens.grid, (self.rows.shape[0], self.cols.shape[0]))
        table = self.rows[:, None, :] + self.cols[None, :, :]
        return tokens.at_places(table.reshape(-1, tokens.dim))

    def in_attention(self, tokens: Tokens) -> Rotation | None:
        return None

    def resized(self, grid: tuple[int, int]) -> "FactorizedPosition":
        """**Arguments:**

        - `grid`: the new rows and columns.

        **Returns:**

        The position embedding with each table resampled along its axis by its rule.
        """
        rows, cols = (
            resample(table, (length,), self.resize)[:number]
            for table, length, number in zip(
                (self.rows, self.cols), cover_grid(grid, keep_aspect=self.keep_aspect), grid, strict=True
            )
        )
        return eqx.tree_at(_get_rows_and_cols, self, (rows, cols))

    def with_class_token(self, row: Float[Array, " dim"] | None) -> "FactorizedPosition":
        return self

    def with_registers(self, rows: Float[Array, "added dim"] | None, *, kept: int) -> "FactorizedPosition":
        return self


# Equinox passes a placeholder to this, so no narrower type holds.
def _get_rows_and_cols(position: Any) -> Any:
    return position.rows, position.cols
