"""Learned position embeddings: one table over the grid, or one for each of its two axes."""

import dataclasses
from typing import Any, cast, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._check import check_positive
from .._init import TRUNC_NORMAL, Init
from .._tokens import Rotation, Tokens
from ._base import AbstractPosition


@final
class LearnedPosition(AbstractPosition):
    """A learned vector for each patch, and by choice for each prefix token, added to the tokens: ViT's own.

    ??? cite

        Dosovitskiy et al., *An Image is Worth 16x16 Words*, ICLR 2021, arXiv:2010.11929, equation 1.
    """

    prefix: Float[Array, "prefix dim"] | None
    patches: Float[Array, "rows cols dim"]

    def __init__(
        self,
        dim: int,
        *,
        grid: tuple[int, int],
        num_prefix: int = 0,
        head_dim: int | None = None,
        init: Init = TRUNC_NORMAL,
        covers_prefix: bool = True,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `dim`: the width of a token.
        - `grid`: rows and columns of patches.
        - `num_prefix`: how many prefix tokens there are.
        - `head_dim`: part of the contract; does not matter here.
        - `init`: draws the table.
        - `covers_prefix`: whether the prefix tokens have a position of their own, as in ViT, DeiT and CLIP, or only the
            patches have, as in big_vision and timm's `no_embed_class`.
        - `key`: for the table.
        """
        check_positive(dim=dim, grid=grid)
        prefix_key, patches_key = jax.random.split(key)
        dtype = jnp.dtype(jnp.float32)
        self.prefix = init.position(prefix_key, (num_prefix, dim), dtype) if covers_prefix else None
        self.patches = init.position(patches_key, (*grid, dim), dtype)

    def __call__(self, tokens: Tokens) -> Tokens:
        """**Arguments:**

        - `tokens`: on the grid that the table was made for.

        **Returns:**

        The tokens plus their positions.

        **Raises:** `ValueError` where the grid, or the number of prefix tokens, is not what the table was made for.
        """
        _check_grid(tokens.grid, self.patches.shape[:2])
        patches = tokens.patches + self.patches.reshape(-1, tokens.dim)
        if self.prefix is None:
            return dataclasses.replace(tokens, patches=patches)
        if tokens.num_prefix != self.prefix.shape[0]:
            raise ValueError(
                f"tokens must have {self.prefix.shape[0]} prefix tokens, for which this position embedding was made, "
                f"but {tokens.num_prefix} came: make it anew with num_prefix={tokens.num_prefix}"
            )
        return dataclasses.replace(tokens, prefix=tokens.prefix + self.prefix, patches=patches)

    def rotation(self, tokens: Tokens) -> Rotation | None:
        """**Returns:**

        `None`: this position does not rotate.
        """
        return None

    def resized(self, grid: tuple[int, int]) -> "LearnedPosition":
        """**Arguments:**

        - `grid`: the new rows and columns.

        **Returns:**

        The position embedding with its table resampled: bicubic, antialiased when it shrinks, which equals
        `torch.nn.functional.interpolate(mode="bicubic", antialias=True)`. The prefix rows stay as they are.
        """
        return eqx.tree_at(_patches, self, _resample(self.patches, grid))

    def with_class_token(self, row: Float[Array, " dim"] | None) -> "LearnedPosition":
        """**Arguments:**

        - `row`: the position of the class token that is put first; `None` where the first is taken away.

        **Returns:**

        The position embedding with one row more, or one fewer, for the prefix; itself where it does not cover it.
        """
        if self.prefix is None:
            return self
        kept = self.prefix[1:] if row is None else jnp.concatenate([row[None], self.prefix])
        return eqx.tree_at(_prefix, self, kept)


@final
class FactorizedPosition(AbstractPosition):
    """A learned vector for each row and one for each column; a patch gets the sum of its two. The prefix gets none.

    It has `(rows + cols) * dim` parameters instead of `rows * cols * dim`, and shapes that were never seen together in
    training still have positions.

    ??? cite

        Dehghani et al., *Patch n' Pack: NaViT*, NeurIPS 2023, arXiv:2307.06304, section 2.1.
    """

    rows: Float[Array, "rows dim"]
    cols: Float[Array, "cols dim"]

    def __init__(
        self,
        dim: int,
        *,
        grid: tuple[int, int],
        num_prefix: int = 0,
        head_dim: int | None = None,
        init: Init = TRUNC_NORMAL,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `dim`: the width of a token.
        - `grid`: rows and columns of patches.
        - `num_prefix`, `head_dim`: part of the contract; do not matter here.
        - `init`: draws the two tables.
        - `key`: for the tables.
        """
        check_positive(dim=dim, grid=grid)
        rows_key, cols_key = jax.random.split(key)
        self.rows = init.position(rows_key, (grid[0], dim), jnp.dtype(jnp.float32))
        self.cols = init.position(cols_key, (grid[1], dim), jnp.dtype(jnp.float32))

    def __call__(self, tokens: Tokens) -> Tokens:
        """**Arguments:**

        - `tokens`: on the grid that the tables were made for.

        **Returns:**

        The tokens, their patches plus the positions of row and column.

        **Raises:** `ValueError` where the grid is not what the tables were made for.
        """
        _check_grid(tokens.grid, (self.rows.shape[0], self.cols.shape[0]))
        table = self.rows[:, None, :] + self.cols[None, :, :]
        return dataclasses.replace(tokens, patches=tokens.patches + table.reshape(-1, tokens.dim))

    def rotation(self, tokens: Tokens) -> Rotation | None:
        """**Returns:**

        `None`: this position does not rotate.
        """
        return None

    def resized(self, grid: tuple[int, int]) -> "FactorizedPosition":
        """**Arguments:**

        - `grid`: the new rows and columns.

        **Returns:**

        The position embedding with both tables resampled along their one axis: cubic, antialiased when they shrink.
        """
        rows, cols = _resample(self.rows, grid[:1]), _resample(self.cols, grid[1:])
        return eqx.tree_at(_rows_and_cols, self, (rows, cols))

    def with_class_token(self, row: Float[Array, " dim"] | None) -> "FactorizedPosition":
        """**Returns:**

        Itself: the prefix tokens have no position here.
        """
        return self


# Equinox hands placeholders to these, so that no narrower type holds.
def _patches(position: Any) -> Any:
    return position.patches


def _prefix(position: Any) -> Any:
    return position.prefix


def _rows_and_cols(position: Any) -> Any:
    return position.rows, position.cols


def _check_grid(grid: tuple[int, int], made_for: tuple[int, ...]) -> None:
    if grid != made_for:
        raise ValueError(
            f"tokens must lie on the grid {made_for}, for which this position embedding was made, but the grid {grid} "
            f"came: resample it with position.resized({grid}), or a whole model with model.resized(image_size)"
        )


def _resample(table: Float[Array, "*old dim"], size: tuple[int, ...]) -> Float[Array, "*new dim"]:
    """Cubic interpolation of all axes but the last, with antialiasing where one shrinks."""
    return cast(Array, jax.image.resize(table, (*size, table.shape[-1]), "bicubic"))
