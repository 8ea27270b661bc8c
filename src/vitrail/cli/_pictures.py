"""Pictures that commands read and write."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from .._files import write_whole
from ._setup import check_out

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage
else:
    PILImage = object  # annotations are read when functions are defined, and Pillow may not be installed

_T = TypeVar("_T")
PICTURES: Final = MappingProxyType({".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"})
"""Pillow's formats of the pictures that are written, by the suffix of their names."""


def read_picture(path: Path, use: Callable[[PILImage], _T], problems: list[str]) -> _T | None:
    """What a function makes of a picture; `None` after an error, which is added to `problems`."""
    from PIL import Image

    try:
        with _blame_image(path), Image.open(path) as picture:
            return use(picture)
    except OSError as error:
        problems.append(f"{error.filename}: {error.strerror}")
    except ValueError as error:
        problems.append(str(error))
    return None


@contextmanager
def _blame_image(image: Path) -> Generator[None, None, None]:
    """Turns any error of an image that is opened and prepared into one that names the file."""
    from PIL import Image

    try:
        yield
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise  # the message of the system names the file
        raise ValueError(f"{image} must be an image that Pillow can read, got an error: {error}") from error


def check_picture(name: str, out: Path, images: tuple[Path, ...]) -> None:
    """Raises a `ValueError` if a picture, the argument `name`, cannot be written, or would be one of the images."""
    check_out(name, out, PICTURES)
    if out.resolve() in (image.resolve() for image in images):
        raise ValueError(f"{name} must not be one of the images, got {out}: it would be overwritten")


def write_picture(pixels: Any, out: Path) -> None:
    """Writes an array of bytes as a picture, in the format that the suffix of its name says."""
    from PIL import Image

    drawn = Image.fromarray(pixels)
    write_whole(out, lambda part: drawn.save(part, format=PICTURES[out.suffix]))
