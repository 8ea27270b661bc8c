"""Finds all masks of a picture: a grid of points as prompts, of whose masks the good and different ones stay."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from .._check import check_not_negative, check_positive, check_rate
from ..images import to_picture
from ._sam import EmbeddedImage, SegmentAnything
from ._sam_filter import (
    Crop,
    find_boxes,
    is_cut,
    list_crops,
    make_point_grid,
    remove_small_regions,
    suppress_overlaps,
)
from ._sam_prompt import NO_POINT

_PIXELS: Final = 2**25
"""About how many pixels of masks are looked at together: 128 MB in float32."""
_MOST: Final = 64


@dataclass(frozen=True, kw_only=True)
class MaskSearch:
    """How `find_masks` searches. The defaults are those of Meta's `SamAutomaticMaskGenerator`."""

    points_per_side: int = 32
    """The number of points along each side of the grid."""
    batch_size: int = 64
    """How many points are decoded at a time. It changes speed and memory, not the masks."""
    min_quality: float = 0.88
    """A mask with a predicted quality at or below this number is dropped; 0 drops none."""
    min_stability: float = 0.95
    """A mask with a stability below this number is dropped; 0 drops none. The stability is the intersection over union
    of the pixels with logits above `stability_offset` and of those with logits above `-stability_offset`."""
    stability_offset: float = 1.0
    """How far the threshold of the logits moves up and down to measure the stability."""
    max_overlap: float = 0.7
    """Of two masks whose boxes have a larger intersection over union than this, only the one of higher quality
    stays."""
    crop_layers: int = 0
    """How many times the search is repeated in crops: the first time in 4 crops, then in 16, and so on."""
    crop_max_overlap: float = 0.7
    """As `max_overlap`, for masks of different crops. The mask of the smaller crop stays."""
    crop_overlap: float = 512 / 1500
    """How far the crops of the first layer overlap, as a fraction of the shorter side. Later layers overlap less."""
    crop_points_divisor: int = 1
    """Each layer of crops divides the number of points along a side by this number."""
    min_area: int = 0
    """Holes and islands with fewer pixels than this are removed, then overlapping masks once more; 0 removes none."""

    def __post_init__(self) -> None:
        check_positive(
            points_per_side=self.points_per_side,
            batch_size=self.batch_size,
            crop_points_divisor=self.crop_points_divisor,
        )
        check_not_negative(
            min_quality=self.min_quality,
            min_stability=self.min_stability,
            stability_offset=self.stability_offset,
            max_overlap=self.max_overlap,
            crop_layers=self.crop_layers,
            crop_max_overlap=self.crop_max_overlap,
            min_area=self.min_area,
        )
        check_rate(crop_overlap=self.crop_overlap)
        if self.points_per_side // self.crop_points_divisor**self.crop_layers < 1:
            raise ValueError(
                f"points_per_side must be at least crop_points_divisor**crop_layers, got {self.points_per_side}, "
                f"{self.crop_points_divisor} and {self.crop_layers}: the last layer would have no points"
            )


@dataclass(frozen=True)
class FoundMask:
    """A mask that `find_masks` found."""

    mask: Bool[np.ndarray, "height width"]
    """True in the object, at the size of the picture."""
    box: tuple[int, int, int, int]
    """Left, top, right and bottom: the first and the last column and row of the mask, in pixels of the picture."""
    quality: float
    """The predicted intersection over union of the mask with the object."""
    stability: float
    """How little the mask changes with the threshold, from 0 to 1: see `MaskSearch.min_stability`."""
    point: tuple[float, float]
    """x and y of the point that was the prompt, in pixels of the picture."""
    crop: tuple[int, int, int, int]
    """Left, top, right and bottom of the crop in which the mask was found, in pixels of the picture."""

    @property
    def area(self) -> int:
        """The number of pixels of the mask."""
        return int(self.mask.sum())


@dataclass(frozen=True)
class _Candidates:
    """Masks before they are chosen from, with a row for each in every array."""

    packed: Shaped[np.ndarray, "masks bytes"]
    """Eight pixels of the picture a byte."""
    boxes: Int[np.ndarray, "masks 4"]
    quality: Float[np.ndarray, " masks"]
    stability: Float[np.ndarray, " masks"]
    points: Float[np.ndarray, "masks 2"]
    crops: Int[np.ndarray, "masks 4"]

    def take(self, chosen: Shaped[np.ndarray, " chosen"]) -> "_Candidates":
        """Those with these numbers, or for which it is true."""
        return _Candidates(*(array[chosen] for array in vars(self).values()))

    @staticmethod
    def join(parts: list["_Candidates"]) -> "_Candidates":
        """Those of all parts."""
        return _Candidates(*map(np.concatenate, zip(*(vars(part).values() for part in parts), strict=True)))


def find_masks(model: SegmentAnything, picture: object, *, search: MaskSearch = MaskSearch()) -> list[FoundMask]:
    """Finds all masks of a picture, as `SamAutomaticMaskGenerator` does.

    Each point of a grid is a prompt with several masks. Masks of low predicted quality or low stability are dropped,
    and so are masks that the edge of a crop cuts off. Of masks whose boxes overlap, the best stays.

    !!! example

        ```python
        found = vitrail.find_masks(sam, PIL.Image.open("photo.jpg"))
        largest = max(found, key=lambda one: one.area)
        ```

    **Arguments:**

    - `model`: the model.
    - `picture`: a Pillow picture or a NumPy array, as [`SegmentAnything.embed`][vitrail.SegmentAnything.embed] takes
        it.
    - `search`: the grid and the thresholds.

    **Returns:**

    The masks, sorted by quality, the highest first; with `crop_layers` those of the smallest crops come first. The list
    is empty if no mask passes the thresholds.

    **Raises:** what `SegmentAnything.embed` raises; `ValueError` if a crop would have no pixels; `FloatingPointError`
    if the predicted quality is not finite.
    """
    whole = to_picture(picture, model.config.image.channels)
    size = whole.height, whole.width
    pixels = np.asarray(whole)
    crops = list_crops(size, search.crop_layers, search.crop_overlap)
    found = _Candidates.join([_search_crop(model, pixels, crop, search) for crop in crops])
    if len(crops) > 1:
        left, top, right, bottom = found.crops.T
        found = found.take(
            suppress_overlaps(found.boxes, 1 / ((right - left) * (bottom - top)), search.crop_max_overlap)
        )
    if search.min_area:
        found = _clean(found, size, search)
    return list(_unpack(found, size))


def _search_crop(
    model: SegmentAnything, pixels: Shaped[np.ndarray, "..."], crop: Crop, search: MaskSearch
) -> _Candidates:
    """The masks that are found in a crop, in pixels of the picture."""
    left, top, right, bottom = crop.box
    image = model.embed(pixels[top:bottom, left:right])
    grid = make_point_grid(search.points_per_side // search.crop_points_divisor**crop.layer)
    points = grid * [right - left, bottom - top]
    parts = [
        _judge_masks(model, image, logits, quality, prompts, crop, pixels.shape[:2], search)
        for logits, quality, prompts in _decode_grid(model, image, points, search)
    ]
    found = _Candidates.join(parts)
    return found.take(suppress_overlaps(found.boxes, found.quality, search.max_overlap))


def _decode_grid(
    model: SegmentAnything, image: EmbeddedImage, points: Float[np.ndarray, "points 2"], search: MaskSearch
) -> Iterator[tuple[Float[np.ndarray, "masks rows cols"], Float[np.ndarray, " masks"], Float[np.ndarray, "masks 2"]]]:
    """The masks of each batch of points that are of high predicted quality, and the points."""
    scale = np.asarray([image.scaled_size[1] / image.size[1], image.scaled_size[0] / image.size[0]])
    number = model.config.num_masks
    for start in range(0, len(points), search.batch_size):
        batch = points[start : start + search.batch_size]
        fill = min(search.batch_size, len(points)) - len(batch)  # so that each batch is of one size
        places = jnp.asarray(np.pad(batch * scale, ((0, fill), (0, 0))), jnp.float32)
        logits, quality = _decode_points(model, image.tokens, places)
        quality = np.asarray(quality)[: len(batch)].reshape(-1)
        if not np.isfinite(quality).all():
            raise FloatingPointError(
                "the predicted quality must be finite, got NaN or infinity: look for NaN in the weights of the model"
            )
        good = quality > search.min_quality if search.min_quality > 0 else np.ones(len(quality), bool)
        kept = np.asarray(logits)[: len(batch)].reshape(-1, *logits.shape[2:])[good]
        yield kept, quality[good], np.repeat(batch, number, axis=0)[good]


@eqx.filter_jit
def _decode_points(
    model: SegmentAnything, tokens: Float[Array, "rows cols dim"], points: Float[Array, "batch 2"]
) -> tuple[Float[Array, "batch masks height width"], Float[Array, "batch masks"]]:
    """The masks of points, each of which is a prompt."""
    labels = jnp.asarray([1, NO_POINT], jnp.int32)

    def decode(point: Float[Array, " 2"]) -> tuple[Float[Array, "masks height width"], Float[Array, " masks"]]:
        logits, quality = model(tokens, jnp.stack([point, jnp.zeros_like(point)]), labels)
        return logits[1:], quality[1:]

    return jax.vmap(decode)(points)


def _judge_masks(
    model: SegmentAnything,
    image: EmbeddedImage,
    logits: Float[np.ndarray, "masks rows cols"],
    quality: Float[np.ndarray, " masks"],
    points: Float[np.ndarray, "masks 2"],
    crop: Crop,
    size: tuple[int, int],
    search: MaskSearch,
) -> _Candidates:
    """Those of the masks that are stable and not cut off by the edge of the crop, in pixels of the picture."""
    left, top, right, bottom = crop.box
    together = min(max(_PIXELS // (image.size[0] * image.size[1]), 1), _MOST)
    parts = [_make_no_candidates(size)]
    for start in range(0, len(logits), together):
        chosen = slice(start, start + together)
        part = logits[chosen]
        filled = np.pad(part, ((0, together - len(part)), (0, 0), (0, 0)))
        masks, stability = _measure_stability(model.enlarge(image, jnp.asarray(filled)), search.stability_offset)
        stability = np.asarray(stability)[: len(part)]
        stable = stability >= search.min_stability if search.min_stability > 0 else np.ones(len(part), bool)
        kept = np.asarray(masks)[: len(part)][stable]
        boxes = find_boxes(kept)
        whole = np.zeros((len(kept), *size), bool)
        whole[:, top:bottom, left:right] = kept
        candidates = _Candidates(
            _pack(whole),
            boxes + np.asarray([left, top, left, top]),
            quality[chosen][stable],
            stability[stable],
            points[chosen][stable] + np.asarray([left, top]),
            np.tile(crop.box, (len(kept), 1)),
        )
        parts.append(candidates.take(~is_cut(candidates.boxes, crop.box, size)))
    return _Candidates.join(parts)


@eqx.filter_jit
def _measure_stability(
    large: Float[Array, "masks height width"], offset: float
) -> tuple[Bool[Array, "masks height width"], Float[Array, " masks"]]:
    """The masks, and their intersection over union for a higher and a lower threshold."""
    inner, outer = (jnp.sum(large > threshold, axis=(1, 2), dtype=jnp.int32) for threshold in (offset, -offset))
    return large > 0, inner / outer


def _make_no_candidates(size: tuple[int, int]) -> _Candidates:
    none, boxes = np.zeros(0, np.float32), np.zeros((0, 4), int)
    return _Candidates(_pack(np.zeros((0, *size), bool)), boxes, none, none, np.zeros((0, 2)), boxes)


def _pack(masks: Bool[np.ndarray, "masks height width"]) -> Shaped[np.ndarray, "masks bytes"]:
    return np.packbits(masks.reshape(len(masks), masks.shape[1] * masks.shape[2]), axis=1)


def _unpack(found: _Candidates, size: tuple[int, int]) -> Iterator[FoundMask]:
    for row in range(len(found.packed)):
        mask = np.unpackbits(found.packed[row], count=size[0] * size[1]).reshape(size).astype(bool)
        x, y = found.points[row].tolist()
        yield FoundMask(
            mask,
            _to_box(found.boxes[row]),
            float(found.quality[row]),
            float(found.stability[row]),
            (x, y),
            _to_box(found.crops[row]),
        )


def _to_box(edges: Int[np.ndarray, " 4"]) -> tuple[int, int, int, int]:
    left, top, right, bottom = edges.tolist()
    return left, top, right, bottom


def _clean(found: _Candidates, size: tuple[int, int], search: MaskSearch) -> _Candidates:
    """The masks without small holes and islands. Where two then overlap, one that did not change stays."""
    if not len(found.packed):
        return found
    cleaned = [remove_small_regions(one.mask, search.min_area) for one in _unpack(found, size)]
    changed = np.asarray([had_any for _, had_any in cleaned])
    stacked = np.stack([mask for mask, _ in cleaned])
    boxes = find_boxes(stacked)
    kept = suppress_overlaps(boxes, (~changed).astype(np.float32), max(search.max_overlap, search.crop_max_overlap))
    packed = _pack(stacked)
    return dataclasses.replace(found, packed=packed, boxes=np.where(changed[:, None], boxes, found.boxes)).take(kept)
