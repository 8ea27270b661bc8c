"""`vitrail segment`: the masks of objects in an image."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
from jaxtyping import Bool, UInt8, UInt16

from .._extras import require
from ..images import raise_problems, to_picture
from ..show import add_masks
from ..systems import FoundMask, MaskSearch, SegmentAnything, check_prompt, find_masks
from ..train import check_outputs
from ._options import LoadOptions, refuse_options
from ._pictures import PICTURES, read_picture, write_picture
from ._setup import check_out

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage
else:
    PILImage = object  # annotations are read when functions are defined, and Pillow may not be installed

_MASK: Final = (".png",)
_SHOWN: Final = 8


@dataclass(frozen=True)
class Segment(LoadOptions):
    """Finds the mask of an object, or of all objects in an image, with Segment Anything (SAM).

    The object is given by points or by a box.
    """

    file: Path
    """The whole of SAM: a safetensors file, an index of several, or a folder with one."""
    image: Path
    """An image file."""
    out: Path = Path("mask.png")
    """The file for the mask (.png), at the size of the image: the best mask in white on black. With --everything, each
    pixel is the number of its mask in 16 bits, zero for none. Where masks overlap, it is the number of the smaller."""
    point: tuple[str, ...] = ()
    """A point in the object as x,y in pixels from the top left corner. Can be given several times."""
    background: tuple[str, ...] = ()
    """A point outside of the object as x,y in pixels. Can be given several times."""
    box: str | None = None
    """A box around the object as left,top,right,bottom in pixels."""
    single: bool = False
    """Predict one mask, for a clear prompt. Default: the best of several masks."""
    everything: bool = False
    """Find all objects, from a grid of points."""
    points_per_side: int | None = None
    """With --everything: the number of points along a side of the grid. Default: 32."""
    min_quality: float | None = None
    """With --everything: leave out masks whose predicted quality is not above this. Default: 0.88."""
    min_stability: float | None = None
    """With --everything: the least stability of a mask when the threshold changes. Default: 0.95."""
    picture: Path | None = None
    """Draw the image with its masks in colours into this file: .png, .jpg or .webp."""


@dataclass(frozen=True)
class _Prompt:
    """The prompt of a command line."""

    points: list[tuple[float, float]]
    labels: list[int]
    box: tuple[float, float, float, float] | None


def run_segment(command: Segment) -> None:
    """Finds masks, prints their quality and writes them."""
    require("PIL", extra="weights")
    prompt = _parse_prompt(command)
    search = _make_search(command)
    _check_files(command)
    problems: list[str] = []
    pixels = read_picture(command.image, _to_rgb, problems)
    raise_problems(problems)
    if pixels is None:
        return
    if not command.everything:
        check_prompt((pixels.shape[0], pixels.shape[1]), points=prompt.points or None, box=prompt.box)
    what = "the whole of SAM, with its prompt encoder and its mask decoder"
    command.check_kind(command.file, "segment_anything", what, "use the file that was published")
    model: SegmentAnything = command.load_model(command.file)
    print(command.image)
    masks = _find_all(model, pixels, search) if command.everything else [_find_one(model, pixels, prompt, command)]
    size = pixels.shape[0], pixels.shape[1]
    write_picture(_number_masks(masks, size) if command.everything else masks[0].astype(np.uint8) * 255, command.out)
    print(f"mask: {command.out}")
    if command.picture is not None:
        drawn = add_masks(pixels, masks, points=prompt.points, labels=prompt.labels, box=prompt.box)
        write_picture(drawn, command.picture)
        print(f"picture: {command.picture}")


def _find_one(
    model: SegmentAnything, pixels: UInt8[np.ndarray, "height width 3"], prompt: _Prompt, command: Segment
) -> Bool[np.ndarray, "height width"]:
    """The best mask for a prompt."""
    image = model.embed(pixels)
    found = model.segment(
        image,
        points=prompt.points or None,
        labels=prompt.labels or None,
        box=prompt.box,
        multiple=not command.single,
    )
    check_outputs(f"masks for {command.image}", np.asarray(found.logits))
    for number, quality in enumerate(np.asarray(found.quality)):
        best = "  (the best)" if number == found.best and not command.single else ""
        print(f"  mask {number + 1}  quality {quality:.3f}  {int(found.masks[number].sum()):,} pixels{best}")
    return np.asarray(found.masks[found.best])


def _find_all(
    model: SegmentAnything, pixels: UInt8[np.ndarray, "height width 3"], search: MaskSearch
) -> list[Bool[np.ndarray, "height width"]]:
    """All masks, the largest first."""
    found = find_masks(model, pixels, search=search)
    found.sort(key=_get_area, reverse=True)
    for number, one in enumerate(found[:_SHOWN]):
        box = ",".join(map(str, one.box))
        print(f"  mask {number + 1}  quality {one.quality:.3f}  {one.area:,} pixels  in {box}")
    print(f"  {len(found)} mask{'' if len(found) == 1 else 's'} in all")
    return [one.mask for one in found]


def _make_search(command: Segment) -> MaskSearch:
    given = {name: value for name, value in _list_search_options(command).items() if value is not None}
    return replace(MaskSearch(), **cast(Any, given))


def _list_search_options(command: Segment) -> dict[str, float | None]:
    """The options of a search for everything, `None` for the default."""
    return {name: getattr(command, name) for name in ("points_per_side", "min_quality", "min_stability")}


def _get_area(one: FoundMask) -> int:
    return one.area


def _number_masks(
    masks: list[Bool[np.ndarray, "height width"]], size: tuple[int, int]
) -> UInt16[np.ndarray, "height width"]:
    """For each pixel the number of the last mask that it is in, from 1; 0 for none."""
    numbers = np.zeros(size, np.uint16)
    for number, mask in enumerate(masks, start=1):
        numbers[mask] = number
    return numbers


def _check_files(command: Segment) -> None:
    """Raises an error before anything is computed if a file cannot be written."""
    check_out("out", command.out, _MASK)
    if command.picture is not None:
        check_out("picture", command.picture, PICTURES)
        if command.picture.resolve() == command.out.resolve():
            raise ValueError(f"picture must be another file than out, got {command.picture} for both")
    for name, path in (("out", command.out), ("picture", command.picture)):
        if path is not None and path.resolve() == command.image.resolve():
            raise ValueError(f"{name} must not be the image, got {path}: it would be overwritten")


def _parse_prompt(command: Segment) -> _Prompt:
    """The points and the box of a command line.

    **Raises:** `ValueError` if they are no numbers, if there are none, or if all objects are to be found too.
    """
    given = bool(command.point or command.background or command.box is not None)
    if command.everything:
        prompt = {name: getattr(command, name) for name in ("point", "background", "box", "single")}
        refuse_options("with --everything", **prompt)
    else:
        refuse_options("without --everything", **_list_search_options(command))
    if not command.everything and not given:
        raise ValueError("a prompt is missing: pass --point x,y or --box left,top,right,bottom, or --everything")
    points = [_parse_numbers("point", text, "x,y") for text in command.point]
    others = [_parse_numbers("background", text, "x,y") for text in command.background]
    pairs = [(x, y) for x, y in points + others]
    box = None
    if command.box is not None:
        left, top, right, bottom = _parse_numbers("box", command.box, "left,top,right,bottom")
        box = left, top, right, bottom
    return _Prompt(pairs, [1] * len(points) + [0] * len(others), box)


def _parse_numbers(name: str, text: str, form: str) -> list[float]:
    parts = text.split(",")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) != form.count(",") + 1:
        raise ValueError(f"{name} must be {form} in pixels, got {text!r}")
    return numbers


def _to_rgb(picture: PILImage) -> UInt8[np.ndarray, "height width 3"]:
    return np.asarray(to_picture(picture, 3))
