"""The rules by which SAM's automatic masks are chosen, on arrays of NumPy.

Source: facebookresearch/segment-anything `utils/amg.py`, and torchvision's `nms`.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Final, cast

import numpy as np
from jaxtyping import Bool, Float, Int

from .._extras import require

_NEAR: Final = 20
"""How many pixels from the edge of a crop a box may end and is still taken to be cut off by it."""


@dataclass(frozen=True)
class Crop:
    """A part of a picture."""

    box: tuple[int, int, int, int]
    """Left, top, right and bottom, the last two not included."""
    layer: int
    """0 for the whole picture; layer n has 4 to the power of n crops."""


def list_crops(size: tuple[int, int], layers: int, overlap: float) -> list[Crop]:
    """The whole picture, then for each layer its crops, from left to right and within a column from top to bottom.

    **Raises:** `ValueError` if a crop would have no pixels.
    """
    height, width = size
    crops = [Crop((0, 0, width, height), 0)]
    for layer in range(1, layers + 1):
        number = 2**layer
        shared = int(overlap * min(height, width) * (2 / number))
        across, down = (math.ceil((shared * (number - 1) + side) / number) for side in (width, height))
        lefts, tops = ([(side - shared) * i for i in range(number)] for side in (across, down))
        for left, top in itertools.product(lefts, tops):
            crops.append(Crop((left, top, min(left + across, width), min(top + down, height)), layer))
    if any(left >= right or top >= bottom for left, top, right, bottom in (crop.box for crop in crops)):
        raise ValueError(
            f"crop_layers must leave pixels in each crop, got {layers} for a picture of {height} x {width} pixels: use "
            "fewer layers"
        )
    return crops


def make_point_grid(per_side: int) -> Float[np.ndarray, "points 2"]:
    """x and y of the middles of the cells of a grid over the unit square, row by row."""
    middles = np.linspace(1 / (2 * per_side), 1 - 1 / (2 * per_side), per_side)
    x, y = np.meshgrid(middles, middles)
    return np.stack([x, y], axis=-1).reshape(-1, 2)


def find_boxes(masks: Bool[np.ndarray, "masks height width"]) -> Int[np.ndarray, "masks 4"]:
    """The first and the last columns and rows of masks as left, top, right and bottom; zeros for an empty mask."""
    boxes = np.zeros((len(masks), 4), int)
    for box, mask in zip(boxes, masks, strict=True):
        rows, cols = (np.flatnonzero(np.any(mask, axis=axis)) for axis in (1, 0))
        if len(rows):
            box[:] = cols[0], rows[0], cols[-1], rows[-1]
    return boxes


def is_cut(
    boxes: Int[np.ndarray, "masks 4"], crop: tuple[int, int, int, int], size: tuple[int, int]
) -> Bool[np.ndarray, " masks"]:
    """Whether boxes end near the edge of a crop that is not the edge of the picture."""
    near_crop = np.abs(boxes - crop) <= _NEAR
    near_picture = np.abs(boxes - [0, 0, size[1], size[0]]) <= _NEAR
    return np.any(near_crop & ~near_picture, axis=1)


def suppress_overlaps(
    boxes: Int[np.ndarray, "masks 4"], scores: Float[np.ndarray, " masks"], most: float
) -> Int[np.ndarray, " kept"]:
    """Non-maximum suppression: the numbers of the boxes that stay, those of high scores first.

    A box stays if its intersection over union with each box of a higher score that stays is at most `most`.
    """
    edges = boxes.astype(np.float32)
    areas = (edges[:, 2] - edges[:, 0]) * (edges[:, 3] - edges[:, 1])
    waiting = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while len(waiting):
        best, waiting = waiting[0], waiting[1:]
        kept.append(int(best))
        corner = np.maximum(edges[best, :2], edges[waiting, :2])
        sides = np.maximum(np.minimum(edges[best, 2:], edges[waiting, 2:]) - corner, 0)
        shared = sides[:, 0] * sides[:, 1]
        with np.errstate(invalid="ignore"):  # boxes without an area overlap nothing: 0 / 0 is above no threshold
            overlap = (shared / (areas[best] + areas[waiting] - shared)).astype(np.float64)
        waiting = waiting[~(overlap > most)]
    return np.asarray(kept, int)


def remove_small_regions(
    mask: Bool[np.ndarray, "height width"], area: int
) -> tuple[Bool[np.ndarray, "height width"], bool]:
    """A mask without holes and then without islands of fewer pixels than `area`, and whether it had any.

    The largest island stays, even if it is that small.
    """
    sizes, regions = _label(~mask)
    holes = [i for i, size in sizes if size < area]
    mask = mask | np.isin(regions, holes)
    sizes, regions = _label(mask)
    islands = [i for i, size in sizes if size < area]
    removed = islands
    if len(islands) == len(sizes) and islands:
        largest = max(sizes, key=_get_size)[0]
        removed = [i for i in islands if i != largest]
    return mask & ~np.isin(regions, removed), bool(holes or islands)


def _label(mask: Bool[np.ndarray, "height width"]) -> tuple[list[tuple[int, int]], Int[np.ndarray, "height width"]]:
    """The numbers and sizes of the regions of a mask, whose pixels touch by a side or a corner, and their numbers."""
    label = require("scipy.ndimage", extra="weights").label
    regions = cast("np.ndarray", label(mask, structure=np.ones((3, 3), int))[0])
    sizes: list[int] = np.bincount(regions.reshape(-1)).tolist()
    return list(enumerate(sizes))[1:], regions


def _get_size(numbered: tuple[int, int]) -> int:
    return numbered[1]
