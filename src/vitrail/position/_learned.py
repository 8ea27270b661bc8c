"""The position embedding `learned`."""

import dataclasses
from typing import Any, ClassVar, Literal, final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._tokens import Tokens
from ..nn import TRUNC_NORMAL, Init, ParameterKinds, ResizeRule, Rotation, keep_rows, resample, resample_at, split_key
from ._base import AbstractPosition
from ._grid import check_grid, cover_grid, cover_own_grid


@final
class LearnedPosition(AbstractPosition):
    """A learned vector for each patch, and by choice for each prefix token, added to the tokens: the position of ViT.

    For images of another size the table is resampled: once by `resized`, or for each `PatchedImage` to its own grid.
    Each library has its own rule, and another rule gives other tokens:

    - `"torch_bicubic_antialias"`: PyTorch's antialiased bicubic ($a = -0.5$). timm, and DINOv2 with registers.
    - `"torch_bicubic"`: PyTorch's bicubic ($a = -0.75$), borders repeated. Hugging Face, except for DPT.
    - `"dinov2_offset"`: the same with a scale of $(n + 0.1) / m$ from $m$ to $n$ cells. Meta's DINO, and its DINOv2
      without registers.
    - `"torchvision_corners"`: bicubic ($a = -0.75$), corners on corners. torchvision.
    - `"bilinear_antialias"`: PyTorch's antialiased bilinear. SigLIP 2 of native aspect.
    - `"bilinear"`: PyTorch's bilinear, borders repeated. Hugging Face for DPT; C-RADIOv4.
    - `"bilinear_corners"`: bilinear, corners on corners, as `scipy.ndimage.zoom`. big_vision and vision_transformer.

    ??? cite

        Dosovitskiy et al., *An Image is Worth 16x16 Words*, ICLR 2021, arXiv:2010.11929, equation 1 and section 3.2.
    """

    parameter_kinds: ClassVar[ParameterKinds] = {
        "class_token": "position",
        "registers": "position",
        "patches": "position",
    }

    class_token: Float[Array, " dim"] | None
    registers: Float[Array, "registers dim"] | None
    patches: Float[Array, "rows cols dim"]
    covers_prefix: bool | Literal["class"] = eqx.field(static=True)
    resize: ResizeRule = eqx.field(static=True)
    keep_aspect: bool = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        *,
        grid: tuple[int, int],
        class_token: bool = False,
        num_registers: int = 0,
        init: Init = TRUNC_NORMAL,
        covers_prefix: bool | Literal["class"] = True,
        resize: ResizeRule = "torch_bicubic_antialias",
        keep_aspect: bool = False,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `dim`: the width of a token.
        - `grid`: rows and columns of patches.
        - `class_token`: whether there is a class token.
        - `num_registers`: the number of registers.
        - `init`: draws the table.
        - `covers_prefix`: `True` if the prefix tokens have a position, as in ViT, DeiT and CLIP; `False` if only the
            patches have one, as in big_vision and timm's `no_embed_class`; `"class"` if the class token has one and the
            registers have none, as in DINOv2.
        - `resize`: the rule that resamples the table for another grid.
        - `keep_aspect`: whether it is resampled to a square that covers the grid and then cut off at the bottom and the
            right, as in some of timm's `naflexvit` and C-RADIO.
        - `key`: for the table.
        """
        prefix_key, patches_key = split_key(key)
        dtype = jnp.dtype(jnp.float32)
        class_key, registers_key = split_key(prefix_key)
        covers_class_token, covers_registers = class_token and bool(covers_prefix), covers_prefix is True
        self.class_token = init.position(class_key, (1, dim), dtype)[0] if covers_class_token else None
        self.registers = (
            init.position(registers_key, (num_registers, dim), dtype) if covers_registers and num_registers else None
        )
        self.patches = init.position(patches_key, (*grid, dim), dtype)
        self.covers_prefix = covers_prefix
        self.resize = resize
        self.keep_aspect = keep_aspect

    def __call__(self, tokens: Tokens) -> Tokens:
        class_token, registers = tokens.class_token, tokens.registers
        if self.covers_prefix:
            class_token = _add("class token", class_token, self.class_token)
        if self.covers_prefix is True:
            registers = _add("registers", registers, self.registers)
        patches = tokens.patches + self._find_rows(tokens)
        return dataclasses.replace(tokens, class_token=class_token, registers=registers, patches=patches)

    def _find_rows(self, tokens: Tokens) -> Float[Array, "patches dim"]:
        if tokens.own_grid is not None:
            size = cover_own_grid(tokens.own_grid, keep_aspect=self.keep_aspect)
            return resample_at(self.patches, tokens.coordinates, size, self.resize)
        check_grid(tokens.grid, self.patches.shape[:2])
        return tokens.at_places(self.patches.reshape(-1, tokens.dim))

    def in_attention(self, tokens: Tokens) -> Rotation | None:
        return None

    def resized(self, grid: tuple[int, int]) -> "LearnedPosition":
        """**Arguments:**

        - `grid`: the new rows and columns.

        **Returns:**

        The position embedding with its table resampled by its rule. Class token and registers keep their rows.
        """
        size = cover_grid(grid, keep_aspect=self.keep_aspect)
        return eqx.tree_at(_get_patches, self, resample(self.patches, size, self.resize)[: grid[0], : grid[1]])

    def with_class_token(self, row: Float[Array, " dim"] | None) -> "LearnedPosition":
        """**Arguments:**

        - `row`: the position of the new class token; `None` if the class token is removed.

        **Returns:**

        The position embedding with that row; itself if class tokens have no position here.
        """
        if not self.covers_prefix:
            return self
        return eqx.tree_at(_get_class_token, self, row, is_leaf=_is_none)

    def with_registers(self, rows: Float[Array, "added dim"] | None, *, kept: int) -> "LearnedPosition":
        """**Arguments:**

        - `rows`: the positions of the new registers; `None` if there is none.
        - `kept`: how many of the registers stay, the first ones.

        **Returns:**

        The position embedding with these rows after those that stay; itself if registers have no positions here.
        """
        if self.covers_prefix is not True:
            return self
        return eqx.tree_at(_get_registers, self, keep_rows(self.registers, rows, kept=kept), is_leaf=_is_none)


# Equinox passes placeholders to these, so no narrower type holds.
def _get_patches(position: Any) -> Any:
    return position.patches


def _get_class_token(position: Any) -> Any:
    return position.class_token


def _get_registers(position: Any) -> Any:
    return position.registers


def _is_none(leaf: object) -> bool:
    return leaf is None


def _add(
    name: str, tokens: Float[Array, "*tokens"] | None, rows: Float[Array, "*tokens"] | None
) -> Float[Array, "*tokens"] | None:
    """Returns class token or registers plus their positions, or raises a `ValueError` if the shapes differ."""
    shapes = [None if array is None else array.shape for array in (tokens, rows)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"this position embedding has positions of shape {shapes[1]} for the {name}, got {name} of shape "
            f"{shapes[0]}: build a new one with class_token= and num_registers= of these tokens"
        )
    return None if tokens is None or rows is None else tokens + rows
