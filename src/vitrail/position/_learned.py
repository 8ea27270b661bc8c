"""Learned position embeddings: one table over the grid, or one for each of its two axes."""

import dataclasses
from typing import Any, Literal, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._check import check_positive
from .._init import TRUNC_NORMAL, Init
from .._resample import ResizeRule, resample
from .._tokens import Rotation, Tokens
from ._base import AbstractPosition


@final
class LearnedPosition(AbstractPosition):
    """A learned vector for each patch, and by choice for each prefix token, added to the tokens: ViT's own.

    For images of another size the table is resampled. The code that a checkpoint comes from has its own rule for that,
    and another rule gives other tokens:

    | rule | what it is | whose |
    |---|---|---|
    | `"torch_bicubic_antialias"` | PyTorch's antialiased bicubic ($a = -0.5$) | timm; DINOv2 with registers |
    | `"torch_bicubic"` | PyTorch's bicubic ($a = -0.75$, borders repeated) | Hugging Face but for the others |
    | `"dinov2_offset"` | the same with a scale of $(n + 0.1) / m$ | Meta's DINO and DINOv2 without registers |
    | `"torchvision_corners"` | bicubic ($a = -0.75$), corners on corners | torchvision |
    | `"bilinear_antialias"` | PyTorch's antialiased bilinear | SigLIP 2 of native aspect |
    | `"big_vision_zoom"` | linear, corners on corners (`scipy.ndimage.zoom`) | big_vision, vision_transformer |

    ??? cite

        Dosovitskiy et al., *An Image is Worth 16x16 Words*, ICLR 2021, arXiv:2010.11929, equation 1 and section 3.2.
    """

    prefix: Float[Array, "prefix dim"] | None
    patches: Float[Array, "rows cols dim"]
    covers_prefix: bool | Literal["class"] = eqx.field(static=True)
    resize: ResizeRule = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        *,
        grid: tuple[int, int],
        num_prefix: int = 0,
        has_class_token: bool = True,
        head_dim: int | None = None,
        init: Init = TRUNC_NORMAL,
        covers_prefix: bool | Literal["class"] = True,
        resize: ResizeRule = "torch_bicubic_antialias",
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `dim`: the width of a token.
        - `grid`: rows and columns of patches.
        - `num_prefix`: how many prefix tokens there are.
        - `has_class_token`: whether the first of them, where there are any, is the class token.
        - `head_dim`: part of the contract; does not matter here.
        - `init`: draws the table.
        - `covers_prefix`: whether the prefix tokens have a position of their own, as in ViT, DeiT and CLIP; or only the
            patches have, as in big_vision and timm's `no_embed_class`; or `"class"`, where the class token has one and
            the registers have none, as in DINOv2.
        - `resize`: the rule by which the table is resampled for another grid.
        - `key`: for the table.
        """
        check_positive(dim=dim, grid=grid)
        prefix_key, patches_key = jax.random.split(key)
        dtype = jnp.dtype(jnp.float32)
        num_rows = int(has_class_token and num_prefix > 0) if covers_prefix == "class" else num_prefix
        self.prefix = init.position(prefix_key, (num_rows, dim), dtype) if covers_prefix else None
        self.patches = init.position(patches_key, (*grid, dim), dtype)
        self.covers_prefix = covers_prefix
        self.resize = resize

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
        covered = int(tokens.has_class_token) if self.covers_prefix == "class" else tokens.num_prefix
        if covered != self.prefix.shape[0]:
            raise ValueError(
                f"tokens must have {self.prefix.shape[0]} prefix tokens with a position, for which this position "
                f"embedding was made, but {covered} came: make it anew with num_prefix={tokens.num_prefix}"
            )
        rows = jnp.pad(self.prefix, ((0, tokens.num_prefix - covered), (0, 0)))
        return dataclasses.replace(tokens, prefix=tokens.prefix + rows, patches=patches)

    def rotation(self, tokens: Tokens) -> Rotation | None:
        """**Returns:**

        `None`: this position does not rotate.
        """
        return None

    def resized(self, grid: tuple[int, int]) -> "LearnedPosition":
        """**Arguments:**

        - `grid`: the new rows and columns.

        **Returns:**

        The position embedding with its table resampled by its rule. The prefix rows stay as they are.
        """
        return eqx.tree_at(_patches, self, resample(self.patches, grid, self.resize))

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
        rows, cols = (
            resample(table, (length,), "torch_bicubic_antialias")
            for table, length in zip((self.rows, self.cols), grid, strict=True)
        )
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
