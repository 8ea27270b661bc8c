"""Pictures as they come, turned into grey or RGB of eight bits."""

import struct
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
from jaxtyping import Shaped, UInt8

from ._extras import require

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage
else:
    PILImage = object  # the annotations are read when the functions are defined, where Pillow may not be installed

GREY_MODES: Final = ("1", "L", "LA", "La")
"""Pillow's modes of pictures without colour."""


def on_white(image: PILImage, kind: str) -> PILImage:
    """A picture in Pillow's mode `kind`, over white where it is transparent."""
    from PIL import Image

    if not image.has_transparency_data:
        return image.convert(kind)
    # Pillow turns colours that are multiplied by their transparency into plain ones of the same kind only.
    plain = image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode))
    layer = plain.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert(kind)


def to_rgb(image: object) -> PILImage:
    """A picture of Pillow's, or an array, as RGB of eight bits a channel.

    Turned upright as its EXIF says, over white where it is transparent, uint16 and grey of 16 bits scaled to 8
    (`/ 257`, rounded), palettes and CMYK converted by Pillow.

    **Raises:** `TypeError` where it is neither, `ValueError` where it has another number of channels or axes, no
    pixels, EXIF that cannot be read, or numbers of which nothing says what is white.
    """
    require("PIL", extra="weights")
    from PIL import Image, ImageOps

    if isinstance(image, np.ndarray):
        image = _from_array(cast(Any, image))
    if not isinstance(image, Image.Image):
        raise TypeError(
            f"image must be a picture of Pillow's or a NumPy array of uint8 or uint16, but a {type(image).__name__} "
            "came: open a file with PIL.Image.open(path)"
        )
    if 0 in image.size:
        raise ValueError(f"image must have pixels, but {image.height} x {image.width} came")
    try:
        upright = ImageOps.exif_transpose(image)
    except (SyntaxError, ValueError, LookupError, TypeError, struct.error) as error:
        raise ValueError(
            f"image must have EXIF that can be read, but it has not ({error}), and nothing says which way is up: if it "
            "is upright, take the EXIF away with image.info.pop('exif')"
        ) from error
    if upright.mode.startswith("I;16") or upright.mode == "I":
        deep = np.asarray(upright)
        if (see_through := upright.info.get("transparency")) is not None:
            deep = np.where(deep == see_through, 65535, deep)
        upright = Image.fromarray(_eight_bits(deep))
    if upright.mode == "F":
        raise ValueError(
            "image must have whole numbers, but it has floating-point ones (mode F), of which nothing says what is "
            "white: make it uint8"
        )
    return on_white(upright, "RGB")


def _from_array(array: Shaped[np.ndarray, "..."]) -> PILImage:
    from PIL import Image

    if str(array.dtype) not in ("uint8", "uint16"):
        raise ValueError(
            f"image must be uint8 or uint16 as an array, but {array.dtype} came, of which nothing says what is white: "
            "make it uint8, 0 for black and 255 for white"
        )
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in (1, 3, 4) or 0 in array.shape:
        raise ValueError(
            f"image must be (height, width), or (height, width, channels) with 1, 3 or 4 channels, but {array.shape} "
            "came: put the channels last"
        )
    pixels = _eight_bits(array) if str(array.dtype) == "uint16" else array
    return Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and channels == 1 else pixels)


def _eight_bits(array: Shaped[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    if array.size and (array.min() < 0 or array.max() > 65535):
        raise ValueError(
            f"image must have at most 16 bits a channel, but it has numbers from {array.min()} to {array.max()}"
        )
    return np.round(array / 257).astype(np.uint8)
