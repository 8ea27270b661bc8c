"""Resampling of tables and kernels along their axes, by the rules of published code."""

from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

ResizeRule = Literal[
    "torch_bicubic",
    "torch_bicubic_antialias",
    "torchvision_corners",
    "dinov2_offset",
    "bilinear",
    "bilinear_antialias",
    "bilinear_corners",
]
"""The names of the rules by which position embeddings and maps are resampled."""


def resample(table: Float[Array, "*old dim"], size: tuple[int, ...], rule: ResizeRule) -> Float[Array, "*new dim"]:
    """Resamples all axes but the last to other lengths."""
    if table.shape[:-1] == size:
        return table
    for axis, length in enumerate(size):
        weights = make_interpolation(table.shape[axis], length, rule).astype(table.dtype)
        table = jnp.moveaxis(jnp.tensordot(weights, table, (1, axis), precision="highest"), 0, axis)
    return table


def make_interpolation(old: int, new: int, rule: ResizeRule) -> Float[np.ndarray, "new old"]:
    """Returns how much each new sample of an axis takes from each old one. Rows sum to one.

    Source: PyTorch's `UpSampleKernel` for the names that begin with `torch_` or `bilinear`, with `align_corners=True`
    for `"bilinear_corners"`, which is `scipy.ndimage.zoom` of order 1; DINOv2's `interpolate_pos_encoding`, whose scale
    is off by 0.1 of a sample; torchvision's `interpolate_embeddings`, which aligns the first and the last samples.
    """
    scale = (new + 0.1) / old if rule == "dinov2_offset" else new / old
    centres = (np.arange(new) + 0.5) / scale - 0.5
    if rule in ("bilinear_corners", "torchvision_corners"):
        centres = np.arange(new) * ((old - 1) / (new - 1) if new > 1 else 0.0)
    antialias = rule in ("torch_bicubic_antialias", "bilinear_antialias")
    stretch = max(1.0, 1 / scale) if antialias else 1.0
    # Without antialiasing, PyTorch repeats the first and the last sample beyond the ends; with it, it leaves them out.
    reach = int(np.ceil(2 * stretch)) + 1
    samples = np.arange(-reach, old + reach)
    offsets = (samples[None] - centres[:, None]) / stretch
    if rule in ("bilinear", "bilinear_antialias", "bilinear_corners"):
        weights = np.maximum(0.0, 1 - np.abs(offsets))
    else:
        weights = _evaluate_cubic(offsets, -0.5 if antialias else -0.75)
    inside = np.clip(samples, 0, old - 1)
    if antialias:
        weights = np.where(samples == inside, weights, 0.0)
        weights /= weights.sum(axis=1, keepdims=True)
    return weights @ (inside[:, None] == np.arange(old))


def _evaluate_cubic(offsets: Float[np.ndarray, "new samples"], a: float) -> Float[np.ndarray, "new samples"]:
    """Keys's cubic convolution kernel (1981, equation 15)."""
    x = np.abs(offsets)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def resize_kernel(
    kernel: Float[Array, "dim channels height width"], size: tuple[int, int]
) -> Float[Array, "dim channels new_height new_width"]:
    r"""The kernel of a patch embedding for patches of another size.

    The new kernel gives an enlarged patch the same token as the old kernel gives the patch: $\hat w = (B^\top)^+ w$,
    with $B$ the bilinear resize. This is exact for larger patches, and least squares for smaller ones.

    Source: Beyer et al., *FlexiViT: One Model for All Patch Sizes*, CVPR 2023, arXiv:2212.08013, section 3.4.
    """
    rows, cols = (
        np.linalg.pinv(make_interpolation(old, new, "bilinear").T).astype(np.float32)
        for old, new in zip(kernel.shape[2:], size, strict=True)
    )
    return jnp.einsum("dchw,yh,xw->dcyx", kernel, rows, cols, precision="highest")
