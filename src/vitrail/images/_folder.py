"""A folder of image files with one subfolder for each class."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import UInt8

from .._check import check_positive
from .._extras import require
from ._dataset import MIN_PER_CLASS, DataError, Dataset, Examples, split
from ._picture import GREY_MODES
from ._preprocess import Preprocess
from ._resize import choose_channels, make_resizer

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage
else:
    PILImage = object  # annotations are read when functions are defined, and Pillow may not be installed

_FORMATS: Final[Mapping[str, str]] = MappingProxyType({".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP"})
MAX_PIXELS: Final = 50_000_000
"""The most pixels that an image can have; a larger one is an error before it is decoded."""


def load_folder(
    folder: Path | str,
    *,
    image_size: tuple[int, int] = (64, 64),
    preprocess: Preprocess | None = None,
    channels: int | None = None,
) -> Dataset:
    """Loads your own images: a folder with one subfolder for each class, which holds JPEG, PNG or WebP files.

    - **Classes** are the subfolders in alphabetical order.
    - **Held out** are the 3rd, the 8th, the 13th image and so on of each class in alphabetical order: a fifth.
    - **Pixels**: the orientation in EXIF is applied, and transparent pixels become white.

    No file is skipped: one that is not an image of a class is an error, hidden files such as `.DS_Store` included.

    **Arguments:**

    - `folder`: the folder of the classes.
    - `image_size`: height and width of the images after resizing.
    - `preprocess`: how the images are resized and normalised, for a pretrained model; `None` for scaling by the shorter
        side with bicubic interpolation, a crop at the centre, and a normalisation measured on the training images.
    - `channels`: 1 for grey or 3 for RGB; `None` for those of `preprocess`, or for grey if all files are grey.

    **Returns:**

    A `Dataset`.

    **Raises:** `DataError` that names the file or folder: an image outside a class or in a folder within one, another
    kind of file, one that cannot be decoded, has another format than its name says, is animated, has more than 8 bits a
    channel or more than 50 million pixels; a class of fewer than 3 images, fewer than two classes. `ValueError` if
    `channels` differs from those of `preprocess`. `MissingExtraError` if Pillow is not installed.
    """
    require("PIL", extra="train")
    check_positive(image_size=image_size)
    channels = choose_channels(preprocess, channels)
    folder = Path(folder)
    files = _list_classes(folder)
    paths = [path for group in files.values() for path in group]
    if channels is None:
        channels = 1 if all(_is_grey(path) for path in paths) else 3
    resizer = make_resizer(preprocess, channels)
    images = np.stack([_read(path, resizer, image_size) for path in paths])
    labels = np.repeat(np.arange(len(files), dtype=np.int32), [len(group) for group in files.values()])
    return split(str(folder), Examples(images, labels), tuple(files), preprocess)


def _list_classes(folder: Path) -> dict[str, list[Path]]:
    """The image files by class. Nothing is decoded yet, so that a wrong file is reported at once."""
    if not folder.is_dir():
        raise DataError(f"{folder} must be a folder with one subfolder for each class, got no folder")
    classes = sorted(folder.iterdir())
    for path in classes:
        if path.is_dir() and path.name.startswith("."):
            raise DataError(f"{path} is a hidden folder among the classes: move it elsewhere")
        if not path.is_dir():
            raise DataError(f"{path} is outside the folders of the classes: {_advise(path, 'move it into its class')}")
    if len(classes) < 2:
        found = "one" if classes else "none"
        raise DataError(f"{folder} must have at least two classes, one subfolder for each, got {found}")
    return {path.name: _list_images(path) for path in classes}


def _list_images(folder: Path) -> list[Path]:
    """The image files of one class."""
    paths = sorted(folder.iterdir())
    for path in paths:
        if path.is_dir():
            raise DataError(f"{path} is a folder within a class: move its images into {folder}")
        if path.suffix.lower() not in _FORMATS or path.name.startswith("."):
            raise DataError(
                f"{path} is not a JPEG, PNG or WebP file ({', '.join(_FORMATS)}): "
                f"{_advise(path, 'convert it, or move it elsewhere')}"
            )
    if len(paths) < MIN_PER_CLASS:
        raise DataError(
            f"{folder} must have at least {MIN_PER_CLASS} images, so that one can be held out, got {len(paths)}: add "
            "some, or remove the class"
        )
    return paths


def _advise(path: Path, otherwise: str) -> str:
    hidden = path.name.startswith(".") or path.name.lower() in ("thumbs.db", "desktop.ini")
    return "it is a hidden file of the system, so delete it" if hidden else otherwise


def _is_grey(path: Path) -> bool:
    with _open(path) as image:
        return image.mode in GREY_MODES


def _read(path: Path, resizer: Preprocess, size: tuple[int, int]) -> UInt8[np.ndarray, "height width channels"]:
    """One image at its final size."""
    with _open(path) as image:
        try:
            image.load()
        except Exception as error:  # Pillow's decoders raise nearly anything for a damaged file
            raise _make_decode_error(path, error) from error
        try:
            return resizer.resize(image, size)
        except ValueError as error:
            raise DataError(f"{path}: {error}") from error


def _open(path: Path) -> PILImage:
    """An image whose header was checked, and which is not decoded yet."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower
            image = Image.open(path)
            animated = getattr(image, "is_animated", False)
    except Image.DecompressionBombError as error:
        raise DataError(f"{path} must have at most {MAX_PIXELS:,} pixels: {error}") from error
    except Exception as error:
        raise _make_decode_error(path, error) from error
    try:
        _check_header(path, image, animated=animated)
    except DataError:
        image.close()
        raise
    return image


def _check_header(path: Path, image: PILImage, *, animated: bool) -> None:
    """Raises a `DataError` for what is wrong before anything is decoded."""
    expected = _FORMATS[path.suffix.lower()]
    if image.format != expected:
        raise DataError(f"{path} must be {expected}, as its name says, got {image.format}: rename it")
    if image.width * image.height > MAX_PIXELS:
        raise DataError(
            f"{path} must have at most {MAX_PIXELS:,} pixels, got {image.width} x {image.height}: scale it down"
        )
    if animated:
        raise DataError(f"{path} must be one picture, got an animation: save the frame that shows the class")
    if image.mode.startswith(("I", "F")) or _read_png_depth(path, expected) == 16:
        raise DataError(f"{path} must have 8 bits a channel, got more (mode {image.mode}): convert it")


def _make_decode_error(path: Path, error: Exception) -> DataError:
    expected = _FORMATS[path.suffix.lower()]
    return DataError(f"{path} cannot be decoded as {expected} ({type(error).__name__}: {error}): fix or delete it")


def _read_png_depth(path: Path, expected: str) -> int:
    """Bits a channel of a PNG file, because Pillow silently reduces 16-bit RGB to 8."""
    if expected != "PNG":
        return 8
    with path.open("rb") as file:
        return file.read(25)[24]
