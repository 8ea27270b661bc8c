"""The preprocessing with which a data set is loaded."""

import numpy as np
from jaxtyping import UInt8

from .._check import check_positive
from .._extras import require
from ._preprocess import Preprocess


def choose_channels(preprocess: Preprocess | None, channels: int | None) -> int | None:
    """Returns the channels to load images with; `None` if neither argument says.

    **Raises:** `ValueError` if `preprocess` pads or gives each image its own size, or has others than `channels`, or
    these are neither 1 nor 3.
    """
    if channels not in (None, 1, 3):
        raise ValueError(f"channels must be 1 for grey or 3 for RGB, got {channels}")
    if preprocess is None:
        return channels
    if preprocess.fit == "pad":
        raise ValueError(
            "preprocess must not have fit='pad', which pads after normalising, as stored pixels cannot: use "
            "fit='squash' or fit='cover'"
        )
    if preprocess.fit in ("keep", "native"):
        raise ValueError(
            f"preprocess must not have fit={preprocess.fit!r}, which gives each image its own size, as one "
            "array cannot hold: use fit='squash' or fit='cover'"
        )
    if channels not in (None, preprocess.channels):
        raise ValueError(
            f"preprocess has {preprocess.channels} channels, got channels={channels}: leave channels out, or use a "
            "preprocess with that many"
        )
    return preprocess.channels


def make_resizer(preprocess: Preprocess | None, channels: int) -> Preprocess:
    """The preprocessing to resize with: the given one, or a centre crop by bicubic interpolation."""
    if preprocess is not None:
        return preprocess
    return Preprocess("cover", "bicubic", (0.5,) * channels, (0.5,) * channels)


def resize_all(
    images: UInt8[np.ndarray, "images height width"],
    size: tuple[int, int] | None,
    preprocess: Preprocess | None,
    channels: int | None,
) -> UInt8[np.ndarray, "images new_height new_width channels"]:
    """Grey images, resized and in as many channels as asked for."""
    channels = choose_channels(preprocess, channels) or 1
    if size is None:
        size = images.shape[1], images.shape[2]
    check_positive(image_size=size)
    if size == images.shape[1:] and (preprocess is None or preprocess.compute_scaled_size(size) == size):
        return np.repeat(images[..., None], channels, axis=-1)
    require("PIL", extra="train")
    resizer = make_resizer(preprocess, channels)
    return np.stack([resizer.resize(image, size) for image in images])
