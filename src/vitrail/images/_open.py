"""Opens files of images."""

import io
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Final, cast

import numpy as np
from jaxtyping import UInt8

from ._preprocess import Preprocess
from ._problems import DataError

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage
else:
    PILImage = object  # annotations are read when functions are defined, and Pillow may not be installed

_JPEG: Final = ("JPEG", "MPO")
"""Phones write a JPEG with a second picture, for depth or brightness, behind it: Pillow calls that MPO."""
FORMATS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {".jpg": _JPEG, ".jpeg": _JPEG, ".png": ("PNG",), ".webp": ("WEBP",)}
)
"""Pillow's formats of the files that are read, by the suffix of their names."""
MAX_PIXELS: Final = 50_000_000
"""The most pixels that an image can have; a larger one is an error before it is decoded."""


def open_image(path: Path, file: io.BufferedIOBase) -> PILImage:
    """Opens an image without decoding it, from a file that `path` names.

    **Raises:** `DataError` if it is not an image of the format of its name, is animated, or has too many pixels.
    """
    from PIL import Image

    try:
        # Pillow also warns of what is an error here. To stop that is not safe in threads.
        image = Image.open(cast(IO[bytes], file))
        animated = image.format != "MPO" and getattr(image, "is_animated", False)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{path} must have at most {MAX_PIXELS:,} pixels: {error}") from error
    except Exception as error:
        raise make_decode_error(path, error) from error
    _check_header(path, image, animated=animated)
    return image


def resize_image(
    path: Path, image: PILImage, resizer: Preprocess, size: tuple[int, int]
) -> UInt8[np.ndarray, "height width channels"]:
    """Decodes an image at its final size.

    **Raises:** `DataError` if it cannot be decoded or resized.
    """
    load_pixels(path, image)
    try:
        return resizer.resize(image, size)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error


def load_pixels(path: Path, image: PILImage) -> None:
    """Decodes an image.

    **Raises:** `DataError` if that fails.
    """
    try:
        image.load()
    except Exception as error:  # Pillow's decoders raise nearly anything for a damaged file
        raise make_decode_error(path, error) from error


def check_image(path: Path, file: io.BufferedIOBase, *, decode: bool) -> None:
    """Checks the header of an image, and decodes it if asked to or if it does not end as its format does.

    **Raises:** `DataError` if it is broken.
    """
    ends_well = _ends_well(file)
    file.seek(0)
    with open_image(path, file) as image:
        if decode or not ends_well:
            load_pixels(path, image)


def _ends_well(file: io.BufferedIOBase) -> bool:
    """Whether the last bytes of a file are those that its format ends with. Some good files have more behind them."""
    begin = file.read(12)
    size = file.seek(0, io.SEEK_END)
    file.seek(max(size - 12, 0))  # no picture is shorter
    end = file.read()
    if begin[:4] == b"RIFF":
        return int.from_bytes(begin[4:8], "little") + 8 <= size
    return end.endswith(b"\xff\xd9") or end[4:8] == b"IEND"


def _check_header(path: Path, image: PILImage, *, animated: bool) -> None:
    """Raises a `DataError` for what is wrong before anything is decoded."""
    expected = FORMATS[path.suffix.lower()]
    if image.format not in expected:
        raise DataError(f"{path} must be {expected[0]}, as its name says, got {image.format}: rename it")
    if image.width * image.height > MAX_PIXELS:
        raise DataError(
            f"{path} must have at most {MAX_PIXELS:,} pixels, got {image.width} x {image.height}: scale it down"
        )
    if animated:
        raise DataError(f"{path} must be one picture, got an animation: save the frame that shows the class")


def make_decode_error(path: Path, error: Exception) -> DataError:
    """The error of an image that cannot be decoded."""
    expected = FORMATS.get(path.suffix.lower(), ("an image",))[0]  # a record has no suffix
    what = type(error).__name__ if "<_io." in str(error) else f"{type(error).__name__}: {error}"
    return DataError(f"{path} cannot be decoded as {expected} ({what}): fix or delete it")
