"""Pictures of maps: a depth in colours, and the classes of pixels in colours."""

from typing import Final

import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from ..nn import ResizeRule, make_interpolation

_BAND: Final = 2**22
"""How many scores are held at once: those of a large picture for 150 classes need gigabytes."""
_FAR_TO_NEAR: Final = (
    (94, 79, 162),
    (50, 136, 189),
    (102, 194, 165),
    (171, 221, 164),
    (230, 245, 152),
    (255, 255, 191),
    (254, 224, 139),
    (253, 174, 97),
    (244, 109, 67),
    (213, 62, 79),
    (158, 1, 66),
)
"""The colours of ColorBrewer's scheme Spectral, from blue to red, as Depth Anything's code draws."""


def resize_depth(
    depth: Float[Array | np.ndarray, "rows cols 1"], size: tuple[int, int]
) -> Float[np.ndarray, "height width"]:
    """Resizes a depth to the size of a picture, as Hugging Face does it: bicubic, without antialiasing.

    **Arguments:**

    - `depth`: what a model with one channel returns.
    - `size`: height and width of the picture.

    **Returns:**

    The depth of each pixel.
    """
    rows, cols = _make_weights(depth.shape, size, "torch_bicubic")
    return rows @ np.asarray(depth, np.float32)[..., 0] @ cols.T


def choose_classes(
    scores: Float[Array | np.ndarray, "rows cols classes"], size: tuple[int, int]
) -> Int[np.ndarray, "height width"]:
    """The class of each pixel of a picture, as Hugging Face finds it: the highest of the scores, resized bilinearly.

    **Arguments:**

    - `scores`: what a model with classes returns.
    - `size`: height and width of the picture.

    **Returns:**

    The numbers of the classes.
    """
    rows, cols = _make_weights(scores.shape, size, "bilinear")
    given = np.asarray(scores, np.float32)
    height = max(1, _BAND // (size[1] * given.shape[-1]))
    bands = [
        np.argmax(np.tensordot(np.tensordot(rows[start : start + height], given, 1), cols, (1, 1)), axis=1)
        for start in range(0, size[0], height)
    ]
    return np.concatenate(bands)


def draw_depth(depth: Float[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width 3"]:
    """Draws a depth in colours: blue where it is smallest, red where it is largest.

    The numbers of models for relative depth are inverse, so that red is near. Those in metres are not, so that red is
    far.

    **Arguments:**

    - `depth`: of each pixel.

    **Returns:**

    A picture.
    """
    low, high = float(depth.min()), float(depth.max())
    shares = (depth - low) / (high - low) if high > low else np.zeros_like(depth)
    places = np.linspace(0, 1, len(_FAR_TO_NEAR))
    channels = [np.interp(shares, places, channel) for channel in zip(*_FAR_TO_NEAR, strict=True)]
    return np.round(np.stack(channels, axis=-1)).astype(np.uint8)


def draw_classes(classes: Int[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width 3"]:
    """Draws the classes of pixels, each in a colour of its own: the palette of PASCAL VOC, whose first colour is black.

    **Arguments:**

    - `classes`: the number of the class of each pixel.

    **Returns:**

    A picture.
    """
    # The bits of the number go in turn to red, green and blue, from the highest bit down.
    numbers = np.arange(max(int(classes.max()) + 1, 1))
    palette = np.zeros((len(numbers), 3), int)
    for place in range(8):
        for channel in range(3):
            palette[:, channel] |= (numbers >> (3 * place + channel) & 1) << (7 - place)
    return palette.astype(np.uint8)[classes]


def _make_weights(
    shape: tuple[int, ...], size: tuple[int, int], rule: ResizeRule
) -> tuple[Float[np.ndarray, "height rows"], Float[np.ndarray, "width cols"]]:
    """How much each pixel takes from each cell, along both axes."""
    rows, cols = (make_interpolation(old, new, rule).astype(np.float32) for old, new in zip(shape, size, strict=False))
    return rows, cols
