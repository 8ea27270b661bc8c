"""Colours, and images lit by weights."""

from typing import Final

import numpy as np
from jaxtyping import Float, Float32, UInt8

from ..images import Preprocess

FULL_GLOW: Final = 4.0
"""How many times an equal share of the weights is drawn with full light."""
PAPER: Final = "#fbfaf7"
INK: Final = "#22252b"
FAINT: Final = "#6d7280"
RIGHT: Final = "#1d7a46"
WRONG: Final = "#c0332b"
_GLOW: Final = (1.0, 0.62, 0.11)


def to_rgb(images: UInt8[np.ndarray, "images height width channels"]) -> Float[np.ndarray, "images height width 3"]:
    """Converts grey or RGB pixels to RGB in [0, 1]. Of other channels the first three are drawn, or the first."""
    shown = images[..., :3] if images.shape[-1] >= 3 else images[..., :1]
    return np.broadcast_to(shown / 255, (*images.shape[:3], 3))


def restore_pixels(
    images: Float32[np.ndarray, "images height width channels"], preprocess: Preprocess
) -> UInt8[np.ndarray, "images height width channels"]:
    """Turns images that were prepared for a model back into pixels.

    **Arguments:**

    - `images`: normalised images.
    - `preprocess`: how they were prepared.

    **Returns:**

    The pixels in [0, 255], rounded. The images keep the size that they were resized to.
    """
    mean, std = (np.broadcast_to(np.asarray(values), images.shape) for values in (preprocess.mean, preprocess.std))
    return np.clip(np.round((images * std + mean) * 255), 0, 255).astype(np.uint8)


def add_glow(
    images: UInt8[np.ndarray, "images height width channels"], shares: Float[np.ndarray, "images height width"]
) -> Float[np.ndarray, "images height width 3"]:
    """Lights images by the weights of their pixels: dark where a weight is zero, warm and bright where it is four times
    the mean weight or more.

    **Arguments:**

    - `images`: grey or RGB pixels in [0, 255].
    - `shares`: the weight of each pixel, divided by the mean weight of its image.

    **Returns:**

    The lit images, RGB in [0, 1].
    """
    glow = np.clip(shares / FULL_GLOW, 0, 1)[..., None]
    lit = to_rgb(images) * (0.4 + 0.6 * glow)
    return lit + (1 - lit) * 0.75 * glow * np.asarray(_GLOW)
