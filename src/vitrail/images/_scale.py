"""Brings a picture to the size that a `Preprocess` asks for."""

import math
from typing import TYPE_CHECKING, Final

from ._native import compute_native_size

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    from ._preprocess import Preprocess
else:
    PILImage = object  # annotations are read when functions are defined, and Pillow may not be installed
    Preprocess = object

_MAX_SCALED_PIXELS: Final = 10**8  # 400 MB in Pillow


def scale_picture(preprocess: Preprocess, image: PILImage, size: tuple[int, int]) -> PILImage:
    """Scales and crops a picture to the full size; to less for `fit="pad"`, where the padding is missing, and to a size
    of its own for `fit="keep"` and `fit="native"`.

    **Raises:** `ValueError` if the picture does not have the size that `fit="none"` needs, or the result is too large.
    """
    from PIL import Image

    resampling = Image.Resampling[preprocess.interpolation.upper()]
    picture, full = (image.height, image.width), preprocess.compute_full_size(size)
    match preprocess.fit:
        case "none" if picture != full:
            raise ValueError(
                f"image must have the size {full[0]} x {full[1]} with fit='none', got {picture[0]} x {picture[1]}: "
                "resize it, or use another fit"
            )
        case "none" | "crop":
            return _cut(preprocess, image, full)
        case "pad":
            high, wide = preprocess.compute_padded_size(picture, full)
            return image.resize((wide, high), resampling)
        case "keep" | "native":
            high, wide = _compute_own_size(preprocess, picture, size)
            if wide * high > _MAX_SCALED_PIXELS:
                raise ValueError(f"image must be less narrow, got {picture[0]} x {picture[1]}: crop it")
            return image.resize((wide, high), resampling)
        case "cover" | "squash" | "border":
            high, wide = _compute_scaled_size(preprocess, picture, size)
    if wide * high > _MAX_SCALED_PIXELS:
        middle = _cut_to_middle(image, preprocess.compute_scaled_size(size))
        if middle.size == image.size:
            raise ValueError(f"size must have at most {_MAX_SCALED_PIXELS:,} pixels, got {full[0]} x {full[1]}")
        return scale_picture(preprocess, middle, size)
    return _cut(preprocess, image.resize((wide, high), resampling), full)


def _compute_own_size(preprocess: Preprocess, picture: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    if preprocess.patch_size is not None and preprocess.max_patches is not None:
        return compute_native_size(picture, preprocess.patch_size, preprocess.max_patches)
    return preprocess.compute_kept_size(picture, size)


def _compute_scaled_size(preprocess: Preprocess, picture: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a picture before its middle is cut out.

    One side is scaled to the size. The other is rounded down to whole pixels, as in torchvision's Resize, or to the
    nearest ones, as in timm's and open_clip's ResizeKeepRatio.
    """
    fit, (down, across) = preprocess.fit, preprocess.compute_scaled_size(size)
    if fit == "squash":
        return down, across
    to_pixels = int if down == across and fit == "cover" else round
    by_width = picture[1] * down <= picture[0] * across
    if by_width != (fit == "border"):
        high, wide = max(to_pixels(across * picture[0] / picture[1]), 1), across
    else:
        high, wide = down, max(to_pixels(down * picture[1] / picture[0]), 1)
    if fit == "border":
        return high, wide
    full = preprocess.compute_full_size(size)
    return max(high, full[0]), max(wide, full[1])


def _cut(preprocess: Preprocess, image: PILImage, size: tuple[int, int]) -> PILImage:
    """The middle of a picture. What it lacks is border: half of it before the picture, or the smaller half."""
    from PIL import Image

    begin = round if preprocess.half_pixel == "even" else math.floor
    corner = [
        begin((old - new) / 2) if old >= new else -((new - old) // 2)
        for old, new in ((image.width, size[1]), (image.height, size[0]))
    ]
    if image.width >= size[1] and image.height >= size[0]:
        return image.crop((corner[0], corner[1], corner[0] + size[1], corner[1] + size[0]))
    in_colour = preprocess.fit == "border" and preprocess.border == "mean"
    colour = tuple(round(255 * level) for level in preprocess.mean) if in_colour else 0
    canvas = Image.new(image.mode, (size[1], size[0]), colour)
    canvas.paste(image, (-corner[0], -corner[1]))
    return canvas


def _cut_to_middle(image: PILImage, covered: tuple[int, int]) -> PILImage:
    """As much of the middle of a narrow picture as a crop at the centre reads after the picture covers a size."""
    scale = max(covered[0] / image.height, covered[1] / image.width)
    margin = math.ceil(4 * max(1, 1 / scale))  # what the interpolation reads beside a pixel
    sides = [
        min(n, math.ceil(side / scale) + 2 * margin)
        for side, n in zip(covered, (image.height, image.width), strict=True)
    ]
    # An even number of pixels is cut off, so that the centre stays where it is.
    high, wide = (side + (n - side) % 2 for side, n in zip(sides, (image.height, image.width), strict=True))
    left, top = (image.width - wide) // 2, (image.height - high) // 2
    return image.crop((left, top, left + wide, top + high))
