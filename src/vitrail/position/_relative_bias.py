"""The position embedding `relative_bias`."""

from typing import Any, ClassVar, Final, Literal, final

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._tokens import Tokens
from ..nn import ParameterKinds, RelativeBias, resample, weigh_axes
from ._base import AbstractPosition
from ._grid import check_grid

_FROM_PREFIX, _TO_PREFIX, _WITHIN_PREFIX = 0, 1, 2
"""The rows of the table for pairs in which a prefix token is the query, the key, or both."""
_STEP: Final = 1e-6
"""How exactly the ratio of the geometric progression is found."""


@final
class RelativeBiasPosition(AbstractPosition):
    r"""Adds to the score of a query and a key a number for their distance in rows and in columns: the position of BEiT.

    Each head of each block learns a number for each distance, or all blocks share them. Pairs with a prefix token have
    three numbers of their own: from the prefix to a patch, from a patch to the prefix, and within the prefix. All start
    at zero.

    For images of another size the table of distances is resampled: by the rule `"geometric"` of BEiT, in which the
    distances of the old table grow geometrically to cover those of the new one, near ones more densely than far ones,
    with linear interpolation as in timm, where both sides are resampled even if only one changes; or as an image by
    `"bilinear"`, as in Hugging Face.

    ??? cite

        Bao et al., *BEiT: BERT Pre-Training of Image Transformers*, ICLR 2022, arXiv:2106.08254; the tables:
        Raffel et al., *T5*, JMLR 2020, arXiv:1910.10683. Resampling: BEiT's `run_class_finetuning.py` and timm's
        `resize_rel_pos_bias_table`.
    """

    parameter_kinds: ClassVar[ParameterKinds] = {"patches": "position", "prefix": "position"}

    patches: Float[Array, "*blocks row_distances col_distances heads"]
    prefix: Float[Array, "*blocks 3 heads"]
    resize: Literal["geometric", "bilinear"] = eqx.field(static=True)

    def __init__(
        self,
        *,
        grid: tuple[int, int],
        num_heads: int,
        depth: int,
        shared: bool = False,
        resize: Literal["geometric", "bilinear"] = "geometric",
    ):
        """**Arguments:**

        - `grid`: rows and columns of patches.
        - `num_heads`: the number of heads.
        - `depth`: the number of blocks.
        - `shared`: whether all blocks share one table, as BEiT does in pretraining.
        - `resize`: the rule that resamples the table for another grid.
        """
        blocks = () if shared else (depth,)
        self.patches = jnp.zeros((*blocks, 2 * grid[0] - 1, 2 * grid[1] - 1, num_heads), jnp.float32)
        self.prefix = jnp.zeros((*blocks, 3, num_heads), jnp.float32)
        self.resize = resize

    @property
    def block_fields(self) -> tuple[str, ...]:
        """The tables that have an axis over the blocks, where they are not shared."""
        return tuple(name for name, axes in (("patches", 3), ("prefix", 2)) if np.ndim(getattr(self, name)) > axes)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patches that the table was made for."""
        rows, cols = self.patches.shape[-3:-1]
        return (rows + 1) // 2, (cols + 1) // 2

    def __call__(self, tokens: Tokens) -> Tokens:
        self._check(tokens)
        return tokens

    def in_attention(self, tokens: Tokens) -> RelativeBias:
        self._check(tokens)
        num_distances = self.patches.shape[-3] * self.patches.shape[-2]
        table = jnp.concatenate(
            [self.patches.reshape(*self.patches.shape[:-3], num_distances, -1), self.prefix], axis=-2
        )
        return RelativeBias(table.astype(jnp.float32), self._number_pairs(tokens, num_distances))

    def _number_pairs(self, tokens: Tokens, num_distances: int) -> Int[Array, "tokens tokens"]:
        """For each query and key the row of the table."""
        rows, cols = (
            index[:, None] - index[None, :] + n - 1 for index, n in zip(tokens.coordinates, self.grid, strict=True)
        )
        among_patches = rows * self.patches.shape[-2] + cols
        prefix = tokens.num_prefix
        pairs = jnp.full((prefix + len(rows),) * 2, num_distances + _WITHIN_PREFIX)
        pairs = pairs.at[:prefix, prefix:].set(num_distances + _FROM_PREFIX)
        pairs = pairs.at[prefix:, :prefix].set(num_distances + _TO_PREFIX)
        return pairs.at[prefix:, prefix:].set(among_patches)

    def _check(self, tokens: Tokens) -> None:
        if tokens.own_grid is not None:
            raise ValueError(
                "the position embedding 'relative_bias' has one grid, got tokens of an image with its own grid: use "
                "position='learned' or 'rope' for images of native aspect"
            )
        check_grid(tokens.grid, self.grid)

    def resized(self, grid: tuple[int, int]) -> "RelativeBiasPosition":
        """**Arguments:**

        - `grid`: the new rows and columns.

        **Returns:**

        The position embedding with its table of distances resampled by its rule.
        """
        size = 2 * grid[0] - 1, 2 * grid[1] - 1
        by_block = self.patches.reshape(-1, *self.patches.shape[-3:])
        # The blocks go last, beside the heads: every axis but the last is resampled.
        table = by_block.transpose(1, 2, 0, 3).reshape(*self.patches.shape[-3:-1], -1)
        new = resample(table, size, "bilinear") if self.resize == "bilinear" else _resample_geometric(table, size)
        new = new.reshape(*size, len(by_block), -1).transpose(2, 0, 1, 3)
        return eqx.tree_at(_get_patches, self, new.reshape(*self.patches.shape[:-3], *size, -1))

    def with_class_token(self, row: Float[Array, " dim"] | None) -> "RelativeBiasPosition":
        return self

    def with_registers(self, rows: Float[Array, "added dim"] | None, *, kept: int) -> "RelativeBiasPosition":
        return self


# Equinox passes a placeholder to this, so no narrower type holds.
def _get_patches(position: Any) -> Any:
    return position.patches


def _resample_geometric(
    table: Float[Array, "rows cols heads"], size: tuple[int, int]
) -> Float[Array, "new_rows new_cols heads"]:
    if table.shape[:2] == size:
        return table
    # Where one side alone changes, timm resamples the other too, by the smallest ratio that it tries.
    return weigh_axes(table, [_weigh_distances(old, new) for old, new in zip(table.shape[:2], size, strict=True)])


def _weigh_distances(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """How much each new distance takes from each old one.

    The old distances become $0, 1, 1 + q, 1 + q + q^2, \\dots$ with the ratio $q$ that reaches the largest new one.
    """
    far = np.cumsum(_find_ratio(old // 2, new // 2) ** np.arange(old // 2))
    places = np.concatenate([-far[::-1], [0.0], far])
    wanted = np.arange(new) - new // 2
    return np.stack([np.interp(wanted, places, row) for row in np.eye(old)], axis=1)


def _find_ratio(number: int, reach: int) -> float:
    low, high = 1.01, 1.5
    ratio = low
    while high - low > _STEP:
        ratio = (low + high) / 2
        too_far = (1 - ratio**number) / (1 - ratio) > reach
        low, high = (low, ratio) if too_far else (ratio, high)
    return ratio
