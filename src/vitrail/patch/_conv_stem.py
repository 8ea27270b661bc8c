"""The patch embedding `conv_stem`."""

from typing import Any, ClassVar, final

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from .._check import check_divisible
from ..nn import TRUNC_NORMAL, Init, LayerNorm, Linear, ParameterKinds, split_key
from ._base import AbstractPatchEmbed
from ._kernel import draw_kernel, mix_channels


@final
class ConvStemPatchEmbed(AbstractPatchEmbed):
    """Early convolutions: 3x3 convolutions of stride two, each with a norm and ReLU, then one 1x1 convolution.

    Each 3x3 convolution halves the image, so patches of 16 need four, and their widths double up to `dim` (48, 96, 192,
    384 for a width of 384), as in the paper. The paper normalises with BatchNorm, whose running statistics are state;
    here it is a LayerNorm over the channels of each pixel, which has none. The paper also removes one encoder block to
    pay for the stem: use a smaller depth for that.

    ??? cite

        Xiao et al., *Early Convolutions Help Transformers See Better*, NeurIPS 2021, arXiv:2106.14881.
    """

    parameter_kinds: ClassVar[ParameterKinds] = {"kernels": "matrix"}
    reads_neighbours: ClassVar[bool] = True

    kernels: tuple[Float[Array, "out_channels in_channels 3 3"], ...]
    norms: tuple[LayerNorm, ...]
    project: Linear
    patch_size: tuple[int, int] = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        *,
        patch_size: tuple[int, int],
        channels: int,
        init: Init = TRUNC_NORMAL,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `dim`: the width of a token, divisible by two once for each 3x3 convolution but the last.
        - `patch_size`: height and width of a patch in pixels, powers of two.
        - `channels`: the number of channels of an image.
        - `init`: draws the weights.
        - `key`: the random key of the weights.

        **Raises:** `ValueError` if `patch_size` has other numbers than powers of two or is (1, 1), or if `dim` cannot
        be halved often enough.
        """
        if any(size < 1 or size & (size - 1) for size in patch_size) or patch_size == (1, 1):
            raise ValueError(
                f"patch_size of a convolution stem must be powers of two, and not (1, 1), got {patch_size}: each "
                "convolution halves the image; use another patch size, or patch='conv'"
            )
        depth = max(size.bit_length() - 1 for size in patch_size)
        if dim % 2 ** (depth - 1):
            raise ValueError(
                f"dim of a convolution stem must be a multiple of {2 ** (depth - 1)} for patches of {patch_size}, got "
                f"{dim}: each of its {depth} convolutions has twice the width of the one before"
            )
        widths = (channels, *(dim // 2 ** (depth - 1 - i) for i in range(depth)))
        *keys, project_key = split_key(key, depth + 1)
        self.kernels = tuple(
            draw_kernel(width, fan_in, (3, 3), init, k)
            for fan_in, width, k in zip(widths[:-1], widths[1:], keys, strict=True)
        )
        self.norms = tuple(LayerNorm(width, eps=1e-6) for width in widths[1:])
        self.project = Linear(dim, dim, weight_init=init.patch, key=project_key)
        self.patch_size = patch_size

    def __call__(self, image: Float[Array, "height width channels"]) -> Float[Array, "rows cols dim"]:
        check_divisible("image", image.shape[:2], self.patch_size)
        height, width = self.patch_size
        x = image
        for i, (kernel, norm) in enumerate(zip(self.kernels, self.norms, strict=True)):
            # A patch that is not square halves its longer side more often.
            strides = (2 if height >> (i + 1) else 1, 2 if width >> (i + 1) else 1)
            x = jax.lax.conv_general_dilated(
                x[None],
                kernel,
                window_strides=strides,
                padding=((1, 1), (1, 1)),
                dimension_numbers=("NHWC", "OIHW", "NHWC"),
            )[0]
            x = jax.nn.relu(norm(x))
        return self.project(x)

    def resized(self, patch_size: tuple[int, int]) -> "ConvStemPatchEmbed":
        """**Raises:** `ValueError`, because the stem cannot be resized."""
        raise ValueError(
            f"patch_size of a convolution stem must stay {self.patch_size}, got {patch_size}: another patch size "
            "needs another number of convolutions, so build a new model and train it"
        )

    def with_channels(self, mix: Float[Array, "new_channels channels"]) -> "ConvStemPatchEmbed":
        return eqx.tree_at(_get_first_kernel, self, mix_channels(self.kernels[0], mix))


# Equinox passes a placeholder to this, so no narrower type holds.
def _get_first_kernel(patch: Any) -> Any:
    return patch.kernels[0]
