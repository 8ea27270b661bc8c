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

    class_token: Float[Array, " dim"] | None
    registers: Float[Array, "registers dim"] | None
    patches: Float[Array, "rows cols dim"]
    covers_prefix: bool | Literal["class"] = eqx.field(static=True)
    resize: ResizeRule = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        *,
        grid: tuple[int, int],
        class_token: bool = False,
        num_registers: int = 0,
        head_dim: int | None = None,
        init: Init = TRUNC_NORMAL,
        covers_prefix: bool | Literal["class"] = True,
        resize: ResizeRule = "torch_bicubic_antialias",
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `dim`: the width of a token.
        - `grid`: rows and columns of patches.
        - `class_token`: whether there is a class token.
        - `num_registers`: how many registers there are.
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
        class_key, registers_key = jax.random.split(prefix_key)
        covers_class_token, covers_registers = class_token and bool(covers_prefix), covers_prefix is True
        self.class_token = init.position(class_key, (1, dim), dtype)[0] if covers_class_token else None
        self.registers = (
            init.position(registers_key, (num_registers, dim), dtype) if covers_registers and num_registers else None
        )
        self.patches = init.position(patches_key, (*grid, dim), dtype)
        self.covers_prefix = covers_prefix
        self.resize = resize

    def __call__(self, tokens: Tokens) -> Tokens:
        """**Arguments:**

        - `tokens`: on the grid that the table was made for.

        **Returns:**

        The tokens plus their positions.

        **Raises:** `ValueError` if the grid, the class token or the registers are not those that the table was made
        for.
        """
        _check_grid(tokens.grid, self.patches.shape[:2])
        class_token, registers = tokens.class_token, tokens.registers
        if self.covers_prefix:
            class_token = _add("class token", class_token, self.class_token)
        if self.covers_prefix is True:
            registers = _add("registers", registers, self.registers)
        patches = tokens.patches + tokens.at_places(self.patches.reshape(-1, tokens.dim))
        return dataclasses.replace(tokens, class_token=class_token, registers=registers, patches=patches)

    def rotation(self, tokens: Tokens) -> Rotation | None:
        """**Returns:**

        `None`: this position does not rotate.
        """
        return None

    def resized(self, grid: tuple[int, int]) -> "LearnedPosition":
        """**Arguments:**

        - `grid`: the new rows and columns.

        **Returns:**

        The position embedding with its table resampled by its rule. Class token and registers keep
        their rows.
        """
        return eqx.tree_at(_patches, self, resample(self.patches, grid, self.resize))

    def with_class_token(self, row: Float[Array, " dim"] | None) -> "LearnedPosition":
        """**Arguments:**

        - `row`: the position of the new class token; `None` if the class token is taken away.

        **Returns:**

        The position embedding with that row; itself if it has no row for the class token.
        """
        if not self.covers_prefix:
            return self
        return eqx.tree_at(_class_token, self, row, is_leaf=_is_none)


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
        class_token: bool = False,
        num_registers: int = 0,
        head_dim: int | None = None,
        init: Init = TRUNC_NORMAL,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `dim`: the width of a token.
        - `grid`: rows and columns of patches.
        - `class_token`, `num_registers`, `head_dim`: part of the contract; do not matter here.
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
        return dataclasses.replace(tokens, patches=tokens.patches + tokens.at_places(table.reshape(-1, tokens.dim)))

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


def _class_token(position: Any) -> Any:
    return position.class_token


def _is_none(leaf: object) -> bool:
    return leaf is None


def _add(
    name: str, tokens: Float[Array, "*tokens"] | None, rows: Float[Array, "*tokens"] | None
) -> Float[Array, "*tokens"] | None:
    """Class token or registers plus their positions; a `ValueError` unless there is one for each."""
    shapes = [None if array is None else array.shape for array in (tokens, rows)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"this position embedding has positions of shape {shapes[1]} for the {name}, got {name} of shape "
            f"{shapes[0]}: build it anew with class_token= and num_registers= of these tokens"
        )
    return None if tokens is None or rows is None else tokens + rows


def _rows_and_cols(position: Any) -> Any:
    return position.rows, position.cols


def _check_grid(grid: tuple[int, int], made_for: tuple[int, ...]) -> None:
    if grid != made_for:
        raise ValueError(
            f"tokens must lie on the grid {made_for}, for which this position embedding was made, but the grid {grid} "
            f"came: resample it with position.resized({grid}), or a whole model with model.resized(image_size)"
        )
