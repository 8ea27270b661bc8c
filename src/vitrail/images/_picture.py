"""Turns pictures of any kind into grey or RGB pictures of 8 bits."""

import struct
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
from jaxtyping import Shaped, UInt8

from .._extras import require

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage
else:
    PILImage = object  # annotations are read when functions are defined, and Pillow may not be installed

GREY_MODES: Final = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N")
"""Pillow's modes of pictures without colour."""
_ORIENTATION: Final = 0x0112


def to_picture(image: object, channels: int) -> PILImage:
    """Converts a Pillow picture or an array to a grey (one channel) or RGB (three channels) picture of 8 bits.

    The orientation in EXIF is applied, and transparent pixels become white. uint16 and grey of 16 bits are scaled to 8
    (`/ 257`, rounded). Palettes and CMYK are converted by Pillow, colour to grey by its luma (ITU-R 601).

    **Raises:** `TypeError` if the image is neither. `ValueError` if it has another number of channels or axes, no
    pixels, EXIF that cannot be read, or a dtype whose white is unknown; or if pictures do not have so many channels.
    """
    if channels not in (1, 3):
        raise ValueError(
            f"a picture has 1 channel or 3, got {channels} for the channels of the model or the data: use arrays of "
            f"shape (height, width, {channels}) where they are taken"
        )
    require("PIL", extra="weights")
    from PIL import Image, ImageOps

    if isinstance(image, np.ndarray):
        image = from_array(cast(Any, image))
    if not isinstance(image, Image.Image):
        raise TypeError(
            f"image must be a Pillow picture or a NumPy array of uint8 or uint16, got {type(image).__name__}: open a "
            "file with PIL.Image.open(path)"
        )
    if 0 in image.size:
        raise ValueError(f"image must have pixels, got {image.height} x {image.width}")
    try:
        # exif_transpose copies the picture also if it is upright.
        is_turned = image.getexif().get(_ORIENTATION, 1) != 1
        upright = ImageOps.exif_transpose(image) if is_turned else image
    except (SyntaxError, ValueError, LookupError, TypeError, struct.error) as error:
        raise ValueError(
            f"the EXIF of the image cannot be read ({error}), so its orientation is unknown: if the image is upright, "
            "remove the EXIF with image.info.pop('exif')"
        ) from error
    if upright.mode.startswith("I;16") or upright.mode == "I":
        deep = np.asarray(upright)
        if (transparent := upright.info.get("transparency")) is not None:
            deep = np.where(deep == transparent, 65535, deep)
        upright = Image.fromarray(_to_eight_bits(deep))
    if upright.mode == "F":
        raise ValueError("image must have whole numbers, got floating point (mode F): convert it to uint8")
    return put_on_white(upright, "L" if channels == 1 else "RGB")


def split_bands(image: object, channels: int) -> list[Shaped[np.ndarray, "height width"]]:
    """The channels of an array, each as a grey image.

    **Raises:** `TypeError` if the image is no array, `ValueError` if it has another shape or number of channels.
    """
    if not isinstance(image, np.ndarray):
        raise TypeError(
            f"image must be a NumPy array of shape (height, width, {channels}), as the model has {channels} channels, "
            f"got {type(image).__name__}: pass np.asarray(picture) if that has {channels} channels"
        )
    array = cast(Any, image)
    if array.ndim != 3 or array.shape[2] != channels:
        raise ValueError(f"image must have shape (height, width, {channels}), got {array.shape}")
    return [array[..., channel] for channel in range(channels)]


def put_on_white(image: PILImage, mode: str) -> PILImage:
    """Converts a picture to a mode of Pillow; transparent pixels become white."""
    from PIL import Image

    if not image.has_transparency_data:
        return image if image.mode == mode else image.convert(mode)
    # Pillow converts premultiplied colours only to plain ones of the same kind.
    plain = image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode))
    layer = plain.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert(mode)


def from_array(array: Shaped[np.ndarray, "..."]) -> PILImage:
    """Makes a picture of an array of uint8 or uint16.

    **Raises:** `ValueError` if its shape or dtype is another.
    """
    from PIL import Image

    if str(array.dtype) not in ("uint8", "uint16"):
        raise ValueError(
            f"image must have dtype uint8 or uint16, got {array.dtype}: convert it to uint8, 0 for black and 255 for "
            "white"
        )
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in (1, 3, 4) or 0 in array.shape:
        raise ValueError(
            "image must have shape (height, width), or (height, width, channels) with 1, 3 or 4 channels, got "
            f"{array.shape}: {'it has no pixels' if 0 in array.shape else 'move the channels last'}"
        )
    pixels = _to_eight_bits(array) if str(array.dtype) == "uint16" else array
    return Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and channels == 1 else pixels)


def _to_eight_bits(array: Shaped[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    if array.size and (array.min() < 0 or array.max() > 65535):
        raise ValueError(f"image must have at most 16 bits a channel, got values from {array.min()} to {array.max()}")
    return np.round(array / 257).astype(np.uint8)
