"""Patches by one matrix product."""

from typing import ClassVar, final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._check import check_divisible
from .._init import TRUNC_NORMAL, Init
from .._resample import resize_kernel
from ._base import AbstractPatchEmbed
from ._conv import draw_kernel, weight_of


@final
class LinearPatchEmbed(AbstractPatchEmbed):
    """Cuts the image into patches and multiplies each, flattened, by one matrix.

    The same function as `ConvPatchEmbed` for the same weights, which are stored alike.

    ??? cite

        Dosovitskiy et al., *An Image is Worth 16x16 Words*, ICLR 2021, arXiv:2010.11929, equation 1.
    """

    decayed: ClassVar[tuple[str, ...]] = ("weight",)

    weight: Float[Array, "dim channels patch_height patch_width"]
    bias: Float[Array, " dim"] | None

    def __init__(
        self,
        dim: int,
        *,
        patch_size: tuple[int, int],
        channels: int,
        init: Init = TRUNC_NORMAL,
        bias: bool = True,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `dim`: the width of a token.
        - `patch_size`: height and width of a patch in pixels.
        - `channels`: of the image.
        - `init`: draws the weight; the bias starts at zero.
        - `bias`: whether there is one. CLIP has none.
        - `key`: for the weight.
        """
        self.weight = draw_kernel(dim, channels, patch_size, init, key)
        self.bias = jnp.zeros(dim, jnp.float32) if bias else None

    def __call__(self, image: Float[Array, "height width channels"]) -> Float[Array, "rows cols dim"]:
        """**Arguments:**

        - `image`: one image, channels last.

        **Returns:**

        The grid of patch tokens.

        **Raises:** `ValueError` where the image does not divide into whole patches.
        """
        dim, channels, height, width = self.weight.shape
        check_divisible("image", image.shape[:2], (height, width))
        rows, cols = image.shape[0] // height, image.shape[1] // width
        patches = image.reshape(rows, height, cols, width, channels).transpose(0, 2, 1, 3, 4).reshape(rows, cols, -1)
        grid = patches @ self.weight.transpose(2, 3, 1, 0).reshape(-1, dim)
        return grid if self.bias is None else grid + jnp.broadcast_to(self.bias, grid.shape)

    def resized(self, patch_size: tuple[int, int]) -> "LinearPatchEmbed":
        """**Arguments:**

        - `patch_size`: height and width of the new patches in pixels.

        **Returns:**

        The patch embedding with its kernel resampled as in FlexiViT (`resize_kernel`).
        """
        return eqx.tree_at(weight_of, self, resize_kernel(self.weight, patch_size))
