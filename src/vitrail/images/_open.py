"""Opens files of images."""

import io
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Final, cast

import numpy as np
from jaxtyping import UInt8

from ._preprocess import Preprocess
from ._problems import DataError, describe_error

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
_HEAD: Final = 4096
_SEGMENTS: Final = frozenset((0xC4, 0xDD, 0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xFE))
"""Of a JPEG: what Pillow passes over, or reads without checking it. One of quantisation (0xDB) has a size to check."""
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


def is_whole_jpeg(name: bytes, file: io.BufferedIOBase) -> bool:
    """Whether the header and the end of a file are those of a plain JPEG of allowed size, which saves the time that
    Pillow takes to open it. It is false for what is not plain, as a phone's two pictures, and for other formats."""
    if not name.lower().endswith((b".jpg", b".jpeg")):
        return False
    head = file.read(_HEAD)
    if len(head) == _HEAD:
        file.seek(-2, io.SEEK_END)
        end = file.read(2)
    else:
        end = head[-2:]
    return head[:3] == b"\xff\xd8\xff" and end == b"\xff\xd9" and _has_plain_header(head)


def _has_plain_header(head: bytes) -> bool:
    """Whether the segments of a JPEG are known ones from the first to that of its pixels."""
    place, is_sized = 2, False
    while place + 10 <= len(head) and head[place] == 0xFF:
        marker, size = head[place + 1], int.from_bytes(head[place + 2 : place + 4], "big")
        content = head[place + 4 : place + 2 + size]
        if marker == 0xDA:  # the pixels, of one to four components
            return is_sized and size in (8, 10, 12, 14) and len(content) == size - 2
        if marker in (0xC0, 0xC1, 0xC2) and not is_sized:
            height, width = int.from_bytes(content[1:3], "big"), int.from_bytes(content[3:5], "big")
            known = len(content) in (9, 15) and content[0] == 8 and len(content) == 6 + 3 * content[5]
            is_sized = known and 0 < height * width <= MAX_PIXELS
            if not is_sized:
                return False
        elif marker == 0xDB:
            if not content or size != 2 + 65 * (len(content) // 65) or any(kind > 3 for kind in content[::65]):
                return False
        elif marker not in _SEGMENTS or size < 2 or (marker == 0xE2 and content[:4] == b"MPF\0"):
            return False
        place += 2 + size
    return False


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
    what = type(error).__name__ if "<_io." in str(error) else f"{type(error).__name__}: {describe_error(error)}"
    return DataError(f"{path} cannot be decoded as {expected} ({what}): fix or delete it")
