"""The patch embedding `conv`."""

from typing import Any, ClassVar, Literal, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._check import check_divisible
from ..nn import TRUNC_NORMAL, Init, Norm, NormName, ParameterKinds, make_norm, resize_kernel
from ._base import AbstractPatchEmbed
from ._kernel import draw_kernel, mix_channels


@final
class ConvPatchEmbed(AbstractPatchEmbed):
    """One convolution whose kernel and stride are the patch size, without padding: the patch embedding of ViT.

    ??? cite

        Dosovitskiy et al., *An Image is Worth 16x16 Words*, ICLR 2021, arXiv:2010.11929, equation 1.
    """

    parameter_kinds: ClassVar[ParameterKinds] = {"weight": "matrix", "bias": "bias"}

    weight: Float[Array, "dim channels patch_height patch_width"]
    bias: Float[Array, " dim"] | None
    norm: Norm | None
    implementation: Literal["conv", "matmul"] = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        *,
        patch_size: tuple[int, int],
        channels: int,
        init: Init = TRUNC_NORMAL,
        bias: bool = True,
        norm: NormName | None = None,
        norm_eps: float = 1e-6,
        implementation: Literal["conv", "matmul"] = "conv",
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `dim`: the width of a token.
        - `patch_size`: height and width of a patch in pixels.
        - `channels`: the number of channels of an image.
        - `init`: draws the weight. The bias starts at zero.
        - `bias`: whether there is a bias. CLIP has none.
        - `norm`, `norm_eps`: the norm of each token, `None` for none, and what it adds to the variance. AIMv2 has
            `"rms"`.
        - `implementation`: `"conv"`, or `"matmul"` to flatten the patches and multiply them by one matrix. The weights
            are the same, and so are the tokens; which of the two is faster depends on the device.
        - `key`: for the weight.
        """
        self.weight = draw_kernel(dim, channels, patch_size, init, key)
        self.bias = jnp.zeros(dim, jnp.float32) if bias else None
        self.norm = None if norm is None else make_norm(norm, dim, eps=norm_eps)
        self.implementation = implementation

    def __call__(self, image: Float[Array, "height width channels"]) -> Float[Array, "rows cols dim"]:
        check_divisible("image", image.shape[:2], self.weight.shape[2:])
        # Patches in one column, as those of a PatchedImage, are flattened already: then the product takes a quarter of
        # the time of XLA's convolution (ViT-B/16, 8 x 256 patches, two cores).
        convolves = self.implementation == "conv" and image.shape[1] > self.weight.shape[3]
        grid = self._convolve(image) if convolves else self._multiply(image)
        if self.bias is not None:
            grid = grid + jnp.broadcast_to(self.bias, grid.shape)
        return grid if self.norm is None else self.norm(grid)

    def _convolve(self, image: Float[Array, "height width channels"]) -> Float[Array, "rows cols dim"]:
        return jax.lax.conv_general_dilated(
            image[None],
            self.weight,
            window_strides=self.weight.shape[2:],
            padding="VALID",
            dimension_numbers=("NHWC", "OIHW", "NHWC"),
        )[0]

    def _multiply(self, image: Float[Array, "height width channels"]) -> Float[Array, "rows cols dim"]:
        dim, channels, height, width = self.weight.shape
        rows, cols = image.shape[0] // height, image.shape[1] // width
        patches = image.reshape(rows, height, cols, width, channels).transpose(0, 2, 1, 3, 4).reshape(rows, cols, -1)
        return patches @ self.weight.transpose(2, 3, 1, 0).reshape(-1, dim)

    def resized(self, patch_size: tuple[int, int]) -> "ConvPatchEmbed":
        """**Arguments:**

        - `patch_size`: height and width of the new patches in pixels.

        **Returns:**

        The patch embedding with its kernel resampled as in FlexiViT (`resize_kernel`).
        """
        return eqx.tree_at(_get_weight, self, resize_kernel(self.weight, patch_size))

    def with_channels(self, mix: Float[Array, "new_channels channels"]) -> "ConvPatchEmbed":
        return eqx.tree_at(_get_weight, self, mix_channels(self.weight, mix))


# Equinox passes a placeholder to this, so no narrower type holds.
def _get_weight(patch: Any) -> Any:
    return patch.weight
