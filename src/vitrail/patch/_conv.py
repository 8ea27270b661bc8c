"""Patches by a strided convolution."""

from typing import Any, ClassVar, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._check import check_divisible, check_positive
from .._init import TRUNC_NORMAL, Init
from .._resample import resize_kernel
from ._base import AbstractPatchEmbed


def draw_kernel(
    dim: int, channels: int, patch_size: tuple[int, int], init: Init, key: PRNGKeyArray
) -> Float[Array, "dim channels patch_height patch_width"]:
    """The weight of a patch embedding, its fan-in all the pixels of a patch."""
    check_positive(dim=dim, channels=channels, patch_size=patch_size)
    height, width = patch_size
    flat = init.patch(key, (dim, channels * height * width), jnp.dtype(jnp.float32))
    return flat.reshape(dim, channels, height, width)


# Equinox hands a placeholder to this, so that no narrower type holds.
def weight_of(patch: Any) -> Any:
    """The kernel of a patch embedding."""
    return patch.weight


@final
class ConvPatchEmbed(AbstractPatchEmbed):
    """One convolution whose kernel and stride are the patch size, without padding: the patch embedding of ViT.

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
        height, width = self.weight.shape[2:]
        check_divisible("image", image.shape[:2], (height, width))
        grid = jax.lax.conv_general_dilated(
            image[None],
            self.weight,
            window_strides=(height, width),
            padding="VALID",
            dimension_numbers=("NHWC", "OIHW", "NHWC"),
        )[0]
        return grid if self.bias is None else grid + jnp.broadcast_to(self.bias, grid.shape)

    def resized(self, patch_size: tuple[int, int]) -> "ConvPatchEmbed":
        """**Arguments:**

        - `patch_size`: height and width of the new patches in pixels.

        **Returns:**

        The patch embedding with its kernel resampled as in FlexiViT (`resize_kernel`).
        """
        return eqx.tree_at(weight_of, self, resize_kernel(self.weight, patch_size))
