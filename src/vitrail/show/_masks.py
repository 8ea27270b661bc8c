"""Draws masks over a picture, and the prompt that asked for them."""

import colorsys
from collections.abc import Sequence
from typing import Final

import numpy as np
from jaxtyping import Bool, UInt8

_GOLDEN: Final = 0.61803398875
"""Steps of this fraction around the circle of colours are far apart, however many there are."""
_TINT: Final = 0.5
_IN_OBJECT: Final = (46, 204, 113)
_IN_BACKGROUND: Final = (231, 76, 60)
_BOX: Final = (255, 255, 255)


def add_masks(
    picture: UInt8[np.ndarray, "height width 3"],
    masks: Sequence[Bool[np.ndarray, "height width"]],
    *,
    points: Sequence[tuple[float, float]] = (),
    labels: Sequence[int] | None = None,
    box: tuple[float, float, float, float] | None = None,
) -> UInt8[np.ndarray, "height width 3"]:
    """Draws masks over a picture, each in a colour of its own with a bright edge, smaller ones on top.

    **Arguments:**

    - `picture`: the pixels.
    - `masks`: true in each object, at the size of the picture.
    - `points`: x and y of points to draw.
    - `labels`: for each point, 1 to draw it green, for the object, and 0 to draw it red; `None` for all green.
    - `box`: left, top, right and bottom of a box to draw.

    **Returns:**

    The pixels with all that drawn.
    """
    drawn = picture.astype(np.float32)
    thick = max(1, round(max(picture.shape[:2]) / 500))
    for number, mask in enumerate(sorted(masks, key=np.sum, reverse=True)):
        colour = np.asarray(colorsys.hsv_to_rgb(0.58 + _GOLDEN * number, 0.75, 1.0), np.float32) * 255
        drawn[mask] = (1 - _TINT) * drawn[mask] + _TINT * colour
        drawn[mask & ~_shrink(mask, thick)] = colour
    if box is not None:
        left, top, right, bottom = (round(edge) for edge in box)
        frame = np.zeros(picture.shape[:2], bool)
        frame[top : bottom + 1, left : right + 1] = True
        drawn[frame & ~_shrink(frame, thick)] = _BOX
    rows, cols = np.ogrid[: picture.shape[0], : picture.shape[1]]
    for (x, y), label in zip(points, labels or [1] * len(points), strict=True):
        distance = (cols - x) ** 2 + (rows - y) ** 2
        drawn[distance <= (4 * thick) ** 2] = 255
        drawn[distance <= (3 * thick) ** 2] = _IN_OBJECT if label else _IN_BACKGROUND
    return np.round(drawn).astype(np.uint8)


def _shrink(mask: Bool[np.ndarray, "height width"], steps: int) -> Bool[np.ndarray, "height width"]:
    """A mask without the pixels at its edge, which may be the edge of the picture."""
    for _ in range(steps):
        framed = np.pad(mask, 1)
        mask = mask & framed[:-2, 1:-1] & framed[2:, 1:-1] & framed[1:-1, :-2] & framed[1:-1, 2:]
    return mask
