"""A folder of image files, one subfolder a class."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
from jaxtyping import UInt8

from .._check import check_positive
from .._extras import require
from .._pixels import GREY_MODES, on_white
from ._data import MIN_PER_CLASS, DataError, Dataset, Examples, split
from ._resize import MAX_PIXELS, PILImage, resize

_FORMATS: Final[Mapping[str, str]] = MappingProxyType({".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP"})


def load_folder(folder: Path | str, *, image_size: tuple[int, int] = (64, 64)) -> Dataset:
    """Your own images: a folder that holds one subfolder for each class, and in it JPEG, PNG or WebP files.

    - **Classes** are the subfolders in alphabetical order.
    - **Held out** are the 3rd, the 8th, the 13th image and so on of each class in alphabetical order: a fifth.
    - **Size**: each image is scaled until it just covers `image_size` (for a square: by its shorter side), bicubic
      and antialiased, and the centre is cut out.
    - **Pixels**: the orientation that a camera wrote into the file (EXIF) is applied; what is transparent lies on
      white; all images are RGB, unless every file is stored as grey.

    No file is passed over. Whatever is not an image of a class, hidden files such as `.DS_Store` included, is an error
    that names it.

    **Arguments:**

    - `folder`: of the classes.
    - `image_size`: height and width that every image is brought to.

    **Returns:**

    A `Dataset`.

    **Raises:** `DataError` that names the file or folder: an image outside a class or in a folder within one, another
    kind of file, one that does not decode, holds another format than its name says, is animated, has more than 8 bits
    a channel or more than 50 million pixels; a class of fewer than 3 images, fewer than two classes.
    `MissingExtraError` where Pillow is not installed.
    """
    require("PIL", extra="train")
    check_positive(image_size=image_size)
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} must be a folder with one subfolder for each class, but it is not a folder")
    classes = sorted(folder.iterdir())
    for path in classes:
        if path.is_dir() and path.name.startswith("."):
            raise DataError(f"{path} must not lie among the classes: it is a hidden folder, so move it elsewhere")
        if not path.is_dir():
            raise DataError(
                f"{path} must not lie outside the folders of the classes: {_advice(path, 'move it into its class')}"
            )
    if len(classes) < 2:
        found = "there is only one" if classes else "it is empty"
        raise DataError(f"{folder} must hold at least two classes, one subfolder each, but {found}")
    found = {path.name: _image_files(path) for path in classes}

    pictures = [_read(path, image_size) for paths in found.values() for path in paths]
    if not all(picture.ndim == 2 for picture in pictures):
        pictures = [p if p.ndim == 3 else np.broadcast_to(p[..., None], (*p.shape, 3)) for p in pictures]
    images = np.stack(pictures)
    labels = np.repeat(np.arange(len(found), dtype=np.int32), [len(paths) for paths in found.values()])
    examples = Examples(images if images.ndim == 4 else images[..., None], labels)
    return split(str(folder), examples, tuple(found))


def _image_files(folder: Path) -> list[Path]:
    """The image files of one class. Nothing is decoded yet, so that a stray file is reported at once."""
    paths = sorted(folder.iterdir())
    for path in paths:
        if path.is_dir():
            raise DataError(f"{path} must not be a folder within a class: move its images into {folder}")
        if path.suffix.lower() not in _FORMATS or path.name.startswith("."):
            raise DataError(
                f"{path} must be a JPEG, PNG or WebP file ({', '.join(_FORMATS)}): "
                f"{_advice(path, 'convert it, or move it away')}"
            )
    if len(paths) < MIN_PER_CLASS:
        raise DataError(
            f"{folder} must hold at least {MIN_PER_CLASS} images, so that one can be held out, but it holds "
            f"{len(paths)}: add some, or remove the class"
        )
    return paths


def _advice(path: Path, otherwise: str) -> str:
    hidden = path.name.startswith(".") or path.name.lower() in ("thumbs.db", "desktop.ini")
    return "it is a hidden file that the system left there, so delete it" if hidden else otherwise


def _read(path: Path, size: tuple[int, int]) -> UInt8[np.ndarray, "height width *channels"]:
    """One image at its final size, without a last axis where it is stored as grey."""
    from PIL import Image, ImageOps

    expected = _FORMATS[path.suffix.lower()]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit lies lower
            image = Image.open(path)
        with image:
            _check_header(path, image, expected)
            pixels = _grey_or_rgb(ImageOps.exif_transpose(image))
            return np.asarray(resize(pixels, size))
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"{path} must have at most {MAX_PIXELS:,} pixels: {error}") from error
    except Exception as error:  # Pillow's decoders raise nearly anything at a damaged file
        raise DataError(
            f"{path} must decode as {expected}, but {type(error).__name__}: {error}. Mend or delete it"
        ) from error


def _check_header(path: Path, image: PILImage, expected: str) -> None:
    """What can be said before anything is decoded."""
    if image.format != expected:
        raise DataError(f"{path} must hold {expected}, as its name says, but it holds {image.format}: rename it")
    if image.width * image.height > MAX_PIXELS:
        raise DataError(
            f"{path} must have at most {MAX_PIXELS:,} pixels, but it has {image.width} x {image.height}: scale it down"
        )
    if getattr(image, "is_animated", False):
        raise DataError(f"{path} must hold one picture, but it is animated: save the frame that shows the class")
    if image.mode.startswith(("I", "F")) or _png_depth(path, expected) == 16:
        raise DataError(f"{path} must have 8 bits a channel, but it has more (mode {image.mode}): convert it")


def _png_depth(path: Path, expected: str) -> int:
    """Bits a channel of a PNG file: Pillow cuts 16-bit RGB down to 8 without a word."""
    if expected != "PNG":
        return 8
    with path.open("rb") as file:
        return file.read(25)[24]


def _grey_or_rgb(image: PILImage) -> PILImage:
    """As grey or RGB, over white where it is transparent."""
    return on_white(image, "L" if image.mode in GREY_MODES else "RGB")
