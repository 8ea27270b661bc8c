"""The four IDX files of the MNIST family."""

import gzip
import zlib
from math import prod
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import UInt8

from ._dataset import Dataset, Examples, measure_preprocess
from ._open import MAX_PIXELS
from ._preprocess import Preprocess
from ._problems import DataError, describe_error
from ._resize import resize_all

_IMAGES_MAGIC: Final = 0x00000803  # unsigned bytes, three axes
_LABELS_MAGIC: Final = 0x00000801  # unsigned bytes, one axis
_FILES: Final = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def holds_idx(folder: Path) -> bool:
    """Whether a folder has any of the four files, plain or gzipped."""
    return any((folder / f"{name}{suffix}").exists() for name in _FILES for suffix in ("", ".gz"))


def load_idx(
    folder: Path | str,
    *,
    image_size: tuple[int, int] | None = None,
    preprocess: Preprocess | None = None,
    channels: int | None = None,
) -> Dataset:
    """Loads a data set of the MNIST family: MNIST, Fashion-MNIST, KMNIST and others in the same four files.

    The files are `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte` and
    `t10k-labels-idx1-ubyte`, each plain or with `.gz`. The images of `t10k` are held out. A class is named by its
    number in the files, `"7"`. If some numbers are missing there, the labels of the `Dataset` count those that occur.

    **Arguments:**

    - `folder`: the folder with the four files and nothing else.
    - `image_size`: height and width of the images after resizing, in pixels; `None` for no resizing.
    - `preprocess`, `channels`: as in `load_images`; the images are grey by default.

    **Returns:**

    A `Dataset`.

    **Raises:** `DataError` that names a file that is missing, is there twice, is not one of the four, is not an IDX
    file of its kind, is truncated or too long, or does not fit the others.

    ??? cite

        LeCun, Cortes and Burges, *The MNIST database of handwritten digits*, 1998, which defines the format.
    """
    folder = Path(folder)
    paths = [_find(folder, name) for name in _FILES]
    if strangers := sorted(path.name for path in folder.iterdir() if path not in paths):
        raise DataError(
            f"{folder} must have only the four IDX files, got {', '.join(strangers[:5])} too: move that elsewhere"
        )
    train_images, train_labels, test_images, test_labels = paths
    train = _read_pair(train_images, train_labels)
    test = _read_pair(test_images, test_labels)
    if train[0].shape[1:] != test[0].shape[1:]:
        raise DataError(
            f"{test_images} must have images of the size in {train_images.name}, {_format_size(train[0])}, got "
            f"{_format_size(test[0])}"
        )
    numbers = np.unique(train[1])
    if strange := sorted({int(number) for number in test[1]} - {int(number) for number in numbers}):
        raise DataError(
            f"{test_labels} must have labels that occur in {train_labels.name} ({_format_range(numbers)}), got "
            f"{', '.join(map(str, strange[:5]))}"
        )
    if len(numbers) < 2:
        raise DataError(f"{train_labels} must have at least two classes, got only the label {numbers[0]}")
    learned, held_out = (
        Examples(
            resize_all(images, image_size, preprocess, channels), np.searchsorted(numbers, labels).astype(np.int32)
        )
        for images, labels in (train, test)
    )
    classes = tuple(str(number) for number in numbers)
    return Dataset(str(folder), learned, held_out, classes, preprocess or measure_preprocess(learned))


def _find(folder: Path, name: str) -> Path:
    found = [path for path in (folder / name, folder / f"{name}.gz") if path.exists()]
    if len(found) != 1:
        what = "both: delete one of them" if found else "neither: all four files are needed"
        raise DataError(f"{folder} must have either {name} or {name}.gz, got {what}")
    return found[0]


def _read_pair(
    images: Path, labels: Path
) -> tuple[UInt8[np.ndarray, "images height width"], UInt8[np.ndarray, " images"]]:
    pixels = _read(images, _IMAGES_MAGIC, axes=3)
    numbers = _read(labels, _LABELS_MAGIC, axes=1)
    if len(pixels) != len(numbers):
        raise DataError(
            f"{labels} must have one label for each of the {len(pixels)} images of {images.name}, got {len(numbers)}: "
            "use files of the same data set"
        )
    return pixels, numbers


def _read(path: Path, magic: int, *, axes: int) -> UInt8[np.ndarray, "..."]:
    """One file: a magic number, the length of each axis (all big-endian 32-bit), then the bytes."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(4 * (1 + axes))
            if len(header) != 4 * (1 + axes) or int.from_bytes(header[:4], "big") != magic:
                raise DataError(
                    f"{path} must begin with the magic number 0x{magic:08x} and {axes} lengths, got "
                    f"{header.hex() or 'nothing'}: it is not an IDX file of this kind"
                )
            shape = tuple(int(length) for length in np.frombuffer(header, ">u4")[1:])
            if 0 in shape or prod(shape[1:]) > MAX_PIXELS:
                raise DataError(f"{path} must have images of 1 to {MAX_PIXELS:,} pixels, got the lengths {shape}")
            content = file.read(prod(shape) + 1)
    except (OSError, EOFError, zlib.error, MemoryError, OverflowError) as error:
        raise DataError(f"{path} cannot be read ({type(error).__name__}: {describe_error(error)})") from error
    if len(content) != prod(shape):
        what = "more" if len(content) > prod(shape) else f"{len(content):,}: it is truncated"
        raise DataError(
            f"{path} must have {prod(shape):,} bytes after its header, as its lengths {shape} say, got {what}"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def _format_size(images: UInt8[np.ndarray, "images height width"]) -> str:
    return f"{images.shape[1]} x {images.shape[2]}"


def _format_range(numbers: UInt8[np.ndarray, " classes"]) -> str:
    return f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else str(numbers[0])
