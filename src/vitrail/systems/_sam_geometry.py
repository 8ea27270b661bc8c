"""From pixels of the user's picture to those of the image that SAM reads, and back."""

import functools
from collections.abc import Sequence
from typing import Final

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Int, Shaped

from ..nn import make_interpolation
from ._sam_prompt import CORNERS, NO_POINT, NOTHING

Points = Sequence[Sequence[float]] | Shaped[Array | np.ndarray, "..."]
"""Points, x and y of each."""
Labels = Sequence[int] | Shaped[Array | np.ndarray, "..."]
"""A label for each point."""
Box = Sequence[float] | Shaped[Array | np.ndarray, "..."]
"""Left, top, right and bottom."""
_FEWEST_SLOTS: Final = 4


def place_prompt(
    size: tuple[int, int],
    scaled_size: tuple[int, int],
    points: Points | None,
    labels: Labels | None,
    box: Box | None,
    *,
    alone: bool,
) -> tuple[Float[Array, "points 2"], Int[Array, " points"]]:
    """The points and the box of a prompt as points with labels, in pixels of the image that the model reads.

    They are filled up to a power of two, so that one program serves prompts with some more or fewer points. `alone`
    says that the prompt has no mask, so that it needs a point or a box.

    **Raises:** `ValueError` if there is none, or if they do not fit the picture.
    """
    if points is None and labels is not None:
        raise ValueError("labels must come with points, got labels alone: pass points=[(x, y)] too")
    if points is None and box is None and alone:
        raise ValueError("a prompt must have points, a box or a mask, got none: pass points=[(x, y)]")
    places = [] if points is None else [_check_points(points, size)]
    kinds = [] if points is None else [_check_labels(labels, len(places[0]))]
    if box is not None:
        places.append(_check_box(box, size).reshape(2, 2))
        kinds.append(np.asarray(CORNERS))
    scale = np.asarray([scaled_size[1] / size[1], scaled_size[0] / size[0]])
    flat = np.concatenate([*places, np.zeros((0, 2))]) * scale
    codes = np.concatenate([*kinds, np.zeros(0, int)])
    if points is not None and box is None:
        flat, codes = np.concatenate([flat, np.zeros((1, 2))]), np.concatenate([codes, [NO_POINT]])
    slots = _FEWEST_SLOTS
    while slots < len(flat):
        slots *= 2
    fill = slots - len(flat)
    return (
        jnp.asarray(np.pad(flat, ((0, fill), (0, 0))), jnp.float32),
        jnp.asarray(np.pad(codes, (0, fill), constant_values=NOTHING), jnp.int32),
    )


def check_prompt(size: tuple[int, int], *, points: Points | None = None, box: Box | None = None) -> None:
    """Checks the points and the box of a prompt before the picture is embedded.

    **Arguments:**

    - `size`: height and width of the picture.
    - `points`, `box`: as in `SegmentAnything.segment`.

    **Raises:** `ValueError` if one does not fit the picture.
    """
    if points is not None:
        _check_points(points, size)
    if box is not None:
        _check_box(box, size)


def _check_points(points: Points, size: tuple[int, int]) -> Float64[np.ndarray, "points 2"]:
    places = _to_numbers("points", points)
    if places.ndim != 2 or places.shape[1] != 2 or not len(places):
        raise ValueError(
            f"points must have shape (points, 2), x and y of each, got {places.shape}: pass a single point as [(x, y)]"
        )
    height, width = size
    inside = (places >= 0) & (places < [width, height])
    if not inside.all():
        x, y = places[np.argmin(inside.all(axis=1))]
        raise ValueError(
            f"points must be in the picture, whose width is {width} and height {height}, got x = {x:g} and y = {y:g}: "
            "x counts pixels from the left and y from the top, each from 0"
        )
    return places


def _check_labels(labels: Labels | None, number: int) -> Int[np.ndarray, " points"]:
    if labels is None:
        return np.ones(number, int)
    codes = _to_numbers("labels", labels)
    if codes.shape != (number,) or not np.isin(codes, (0, 1)).all():
        raise ValueError(
            f"labels must have a 1 (in the object) or a 0 (in the background) for each of the {number} points, got "
            f"{codes.tolist()}"
        )
    return codes.astype(int)


def _check_box(box: Box, size: tuple[int, int]) -> Float64[np.ndarray, " 4"]:
    edges = _to_numbers("box", box)
    if edges.shape != (4,):
        raise ValueError(f"box must be (left, top, right, bottom), got shape {edges.shape}: pass one box at a time")
    left, top, right, bottom = edges
    if not (left < right and top < bottom):
        raise ValueError(
            f"box must be (left, top, right, bottom) with left < right and top < bottom, got {tuple(edges.tolist())}: "
            "it is not (left, top, width, height)"
        )
    height, width = size
    if left < 0 or top < 0 or right > width or bottom > height:
        raise ValueError(
            f"box must be in the picture, whose width is {width} and height {height}, got {tuple(edges.tolist())}: cut "
            "it to the picture"
        )
    return edges


def _to_numbers(name: str, values: object) -> Float64[np.ndarray, "..."]:
    """An argument as an array of finite numbers."""
    try:
        numbers = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers, got values that NumPy cannot convert ({error})") from error
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return numbers


def check_mask(
    mask: Shaped[Array | np.ndarray, "..."] | None, mask_size: tuple[int, int]
) -> Float[Array, "height width"] | None:
    """The mask of a prompt as a JAX array.

    **Raises:** `ValueError` if it is not the logits of an earlier mask.
    """
    if mask is None:
        return None
    if mask.shape != mask_size or not jnp.issubdtype(mask.dtype, jnp.floating):
        raise ValueError(
            f"mask must be the logits of one mask, floating point with shape {mask_size}, got {mask.dtype} with shape "
            f"{mask.shape}: pass one of the logits of an earlier call, segmentation.logits[i]"
        )
    return jnp.asarray(mask, jnp.float32)


def enlarge_masks(
    logits: Float[Array, "masks rows cols"],
    image_size: tuple[int, int],
    scaled_size: tuple[int, int],
    size: tuple[int, int],
) -> Float[Array, "masks height width"]:
    """Masks at the size of the picture: enlarged to the image, cut to what is not padding, resized to the picture."""
    rows, cols = (
        _make_resize(*lengths) for lengths in zip(logits.shape[1:], image_size, scaled_size, size, strict=True)
    )
    return _resize(logits, rows, cols)


@functools.lru_cache(maxsize=32)
def _make_resize(low: int, image: int, scaled: int, picture: int) -> Float[np.ndarray, "picture low"]:
    """How much each pixel of a side of the picture takes from each number of the mask."""
    enlarge = make_interpolation(low, image, "bilinear")[:scaled]
    return (make_interpolation(scaled, picture, "bilinear") @ enlarge).astype(np.float32)


@eqx.filter_jit
def _resize(
    logits: Float[Array, "masks rows cols"],
    down: Float[Array | np.ndarray, "height rows"],
    across: Float[Array | np.ndarray, "width cols"],
) -> Float[Array, "masks height width"]:
    narrow = jnp.einsum("hr,mrc->mhc", down, logits, precision="highest")
    return jnp.einsum("wc,mhc->mhw", across, narrow, precision="highest")
