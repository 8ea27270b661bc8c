"""Patches by a stem of small convolutions."""

from typing import ClassVar, final

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from .._check import check_divisible, check_positive
from .._init import TRUNC_NORMAL, Init
from .._layers import LayerNorm, Linear
from ._base import AbstractPatchEmbed
from ._conv import draw_kernel


@final
class ConvStemPatchEmbed(AbstractPatchEmbed):
    """Early convolutions: 3x3 convolutions of stride two, each with a norm and ReLU, then one 1x1 convolution.

    There is one convolution for each halving, so patches of 16 have four, and their widths double up to `dim`
    (48, 96, 192, 384 for a width of 384), as in the paper. The paper normalises with BatchNorm, whose running
    statistics would be state; here it is a LayerNorm over the channels of each position, which has none. The paper also
    takes one encoder block away to pay for the stem: pass a smaller depth for that.

    ??? cite

        Xiao et al., *Early Convolutions Help Transformers See Better*, NeurIPS 2021, arXiv:2106.14881.
    """

    decayed: ClassVar[tuple[str, ...]] = ("kernels",)

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

        - `dim`: the width of a token, divisible by two once for each halving but the last.
        - `patch_size`: height and width of a patch in pixels: powers of two.
        - `channels`: of the image.
        - `init`: draws the weights.
        - `key`: for the weights.

        **Raises:** `ValueError` where `patch_size` is not made of powers of two or is (1, 1), or `dim` cannot be halved
        often enough.
        """
        check_positive(dim=dim, channels=channels, patch_size=patch_size)
        if any(size & (size - 1) for size in patch_size) or patch_size == (1, 1):
            raise ValueError(
                f"patch_size of a convolution stem must be powers of two, and not (1, 1), but {patch_size} came: each "
                "convolution halves the image; take such a patch size, or patch='conv'"
            )
        depth = max(size.bit_length() - 1 for size in patch_size)
        if dim % 2 ** (depth - 1):
            raise ValueError(
                f"dim of a convolution stem must be a multiple of {2 ** (depth - 1)} for patches of {patch_size}, but "
                f"{dim} came: its {depth} convolutions double their width up to dim"
            )
        widths = (channels, *(dim // 2 ** (depth - 1 - i) for i in range(depth)))
        *keys, project_key = jax.random.split(key, depth + 1)
        self.kernels = tuple(
            draw_kernel(width, fan_in, (3, 3), init, k)
            for fan_in, width, k in zip(widths[:-1], widths[1:], keys, strict=True)
        )
        self.norms = tuple(LayerNorm(width, eps=1e-6) for width in widths[1:])
        self.project = Linear(dim, dim, weight_init=init.patch, key=project_key)
        self.patch_size = patch_size

    def __call__(self, image: Float[Array, "height width channels"]) -> Float[Array, "rows cols dim"]:
        """**Arguments:**

        - `image`: one image, channels last.

        **Returns:**

        The grid of patch tokens.

        **Raises:** `ValueError` where the image does not divide into whole patches.
        """
        check_divisible("image", image.shape[:2], self.patch_size)
        height, width = self.patch_size
        x = image
        for i, (kernel, norm) in enumerate(zip(self.kernels, self.norms, strict=True)):
            # A patch that is longer than wide halves its longer side more often.
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
        """**Raises:** `ValueError` always: the convolutions of a stem are made for one patch size."""
        raise ValueError(
            f"patch_size of a convolution stem must stay {self.patch_size}, but {patch_size} came: its convolutions "
            "are as many as it takes to halve the image to that; build a new one and train it"
        )
