"""Resampling of tables and kernels along their axes, by the rules of published code."""

from collections.abc import Sequence
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ._dtype import at_least_float32

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
    return weigh_axes(
        table, [make_interpolation(old, new, rule) for old, new in zip(table.shape[:-1], size, strict=True)]
    )


def weigh_axes(
    table: Float[Array, "*old dim"], weights: Sequence[Float[np.ndarray, "_new _old"]]
) -> Float[Array, "*new dim"]:
    """Resamples all axes but the last by how much each new sample takes from each old one, axis by axis."""
    for axis, along in enumerate(weights):
        table = jnp.moveaxis(jnp.tensordot(along.astype(table.dtype), table, (1, axis), precision="highest"), 0, axis)
    return table


def resample_at(
    table: Float[Array, "*old dim"],
    points: tuple[Int[Array, " points"], ...],
    size: tuple[int | Float[Array, ""], ...],
    rule: ResizeRule,
) -> Float[Array, "points dim"]:
    """Returns some of what `resample` gives: for each point its row, for a size that may be traced.

    `points` has an index for each axis but the last, counted from zero.
    """
    dtype = at_least_float32(table.dtype)
    weights = jnp.ones((points[0].shape[0], 1), dtype)
    # A table that has the size already stays what it is, as in `resample`; by one of the rules it would not.
    same = jnp.all(jnp.asarray([new == old for old, new in zip(table.shape[:-1], size, strict=True)]))
    for index, old, new in zip(points, table.shape[:-1], size, strict=True):
        resampled = weigh_samples(index.astype(dtype), old, new, rule)
        along = jnp.where(same, jax.nn.one_hot(index, old, dtype=dtype), resampled)
        weights = (weights[:, :, None] * along[:, None, :]).reshape(len(weights), -1)
    rows = jnp.matmul(weights, table.reshape(-1, table.shape[-1]).astype(dtype), precision="highest")
    return rows.astype(table.dtype)


def make_interpolation(old: int, new: int, rule: ResizeRule) -> Float[np.ndarray, "new old"]:
    """Returns how much each new sample of an axis takes from each old one. Rows sum to one."""
    return weigh_samples(np.arange(new, dtype=np.float64), old, new, rule)


@overload
def weigh_samples(
    index: Float[np.ndarray, " points"], old: int, new: int, rule: ResizeRule
) -> Float[np.ndarray, "points old"]: ...
@overload
def weigh_samples(
    index: Float[Array, " points"], old: int, new: int | Float[Array, ""], rule: ResizeRule
) -> Float[Array, "points old"]: ...
def weigh_samples(
    index: Float[Array | np.ndarray, " points"], old: int, new: int | Float[Array, ""], rule: ResizeRule
) -> Float[Array | np.ndarray, "points old"]:
    """Returns how much the new samples at some points of an axis take from each old one. Rows sum to one.

    With an array of NumPy it is computed by NumPy, otherwise by JAX; then `new` may be traced.

    Source: PyTorch's `UpSampleKernel` for the names that begin with `torch_` and the bilinear ones, with
    `align_corners=True` for `"bilinear_corners"`, which is `scipy.ndimage.zoom` of order 1; DINOv2's
    `interpolate_pos_encoding`, whose scale is off by 0.1 of a sample; torchvision's `interpolate_embeddings`, which
    aligns the first and the last samples.
    """
    xp: Any = np if isinstance(index, np.ndarray) else jnp
    scale = (new + 0.1) / old if rule == "dinov2_offset" else new / old
    centres = (index + 0.5) / scale - 0.5
    if rule in ("bilinear_corners", "torchvision_corners"):
        centres = index * ((old - 1) / xp.maximum(new - 1, 1))
    antialias = rule in ("torch_bicubic_antialias", "bilinear_antialias")
    stretch = xp.maximum(1.0, 1 / scale) if antialias else 1.0
    # Without antialiasing, PyTorch repeats the first and the last sample beyond the ends; with it, it leaves them out.
    reach = 0 if antialias else 3
    samples = np.arange(-reach, old + reach)
    offsets = (xp.asarray(samples, index.dtype)[None] - centres[:, None]) / stretch
    if rule in ("bilinear", "bilinear_antialias", "bilinear_corners"):
        weights = xp.maximum(0.0, 1 - xp.abs(offsets))
    else:
        weights = _evaluate_cubic(xp, offsets, -0.5 if antialias else -0.75)
    if antialias:
        return weights / weights.sum(axis=1, keepdims=True)
    return weights @ xp.asarray(np.clip(samples, 0, old - 1)[:, None] == np.arange(old), weights.dtype)


def _evaluate_cubic(
    xp: Any, offsets: Float[Array | np.ndarray, "points samples"], a: float
) -> Float[Array | np.ndarray, "points samples"]:
    """Keys's cubic convolution kernel (1981, equation 15)."""
    x = xp.abs(offsets)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return xp.where(x <= 1, near, xp.where(x < 2, far, 0.0))


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
