"""Equal images: those that are held out must not be among those to learn from."""

import hashlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeAlias

import numpy as np
from jaxtyping import Int, Shaped, UInt8, UInt64

from .._files import count_cores
from ._pictures import Pictures
from ._problems import DataError

_END: Final = 4096
"""How many bytes at the end of a file tell most files of one size apart."""
_SHOWN: Final = 5
_CHUNK: Final = 1024

Images: TypeAlias = UInt8[np.ndarray, "..."] | Pictures
"""As `Examples` has them."""


def find_equal(one: Images, other: Images) -> Int[np.ndarray, "pairs 2"]:
    """Finds images that are in two sets: arrays with the same pixels, or files with the same bytes.

    Few files are read whole: their sizes are compared first, and then the ends of files of equal size. Records of a
    source are equal if they have the same number. Images in memory are not compared with files.

    **Arguments:**

    - `one`, `other`: the images of two `Examples`, their field `images`.

    **Returns:**

    A row for each image of `other` that is in `one` too: its number in `one`, and its number in `other`.
    """
    if isinstance(one, Pictures) and isinstance(other, Pictures):
        return _find_equal_files(one, other)
    if isinstance(one, Pictures) or isinstance(other, Pictures) or one.shape[1:] != other.shape[1:]:
        return np.empty((0, 2), np.int64)
    return _pair(digest_rows(one), digest_rows(other))


def check_apart(one: Pictures, other: Pictures) -> None:
    """Checks that no file to hold out, of `other`, has the bytes of one to learn from, of `one`.

    **Raises:** `DataError` that names the first of them.
    """
    pairs = find_equal(one, other)
    if len(pairs):
        raise DataError(
            f"images to learn from must not be held out too, got {len(pairs):,} files with the same bytes on both "
            f"sides: {describe_equal(one, other, pairs)}. Remove one of each two, or divide the images yourself"
        )


def _find_equal_files(one: Pictures, other: Pictures) -> Int[np.ndarray, "pairs 2"]:
    if one.source is not None or other.source is not None:
        return _pair(one.names, other.names) if one.source is other.source else np.empty((0, 2), np.int64)
    numbers = [np.arange(len(files)) for files in (one, other)]
    marks: list[Shaped[np.ndarray, " files"]] = [files.measure_sizes() for files in (one, other)]
    for at_most in (_END, None):
        shared = np.intersect1d(marks[0], marks[1])
        numbers = [which[np.isin(each, shared)] for which, each in zip(numbers, marks, strict=True)]
        marks = [_digest_files(files, which, at_most) for files, which in zip((one, other), numbers, strict=True)]
    pairs = _pair(*marks)
    return np.stack([numbers[0][pairs[:, 0]], numbers[1][pairs[:, 1]]], axis=1)


def describe_equal(one: Images, other: Images, pairs: Int[np.ndarray, "pairs 2"]) -> str:
    """The first of some pairs, for a message: the paths of files, the numbers of rows."""

    def name(images: Images, number: int) -> str:
        return str(images.get_path(number)) if isinstance(images, Pictures) else str(number)

    shown = [f"{name(other, there)} and {name(one, here)}" for here, there in pairs[:_SHOWN].tolist()]
    more = f", and {len(pairs) - _SHOWN:,} more" if len(pairs) > _SHOWN else ""
    return "; ".join(shown) + more


def _pair(one: Shaped[np.ndarray, " ones"], other: Shaped[np.ndarray, " others"]) -> Int[np.ndarray, "pairs 2"]:
    """The place of each mark of `other` in `one`, and in `other`, if it is in both."""
    marks, places = np.unique(one, return_index=True)
    if not len(marks):
        return np.empty((0, 2), np.int64)
    found = np.minimum(np.searchsorted(marks, other), len(marks) - 1)
    there = np.flatnonzero(marks[found] == other)
    return np.stack([places[found[there]], there], axis=1)


def digest_rows(images: UInt8[np.ndarray, "images height width channels"]) -> UInt64[np.ndarray, " images"]:
    """A digest of the pixels of each image."""

    def read(numbers: Int[np.ndarray, " chosen"]) -> list[bytes]:
        return [image.tobytes() for image in images[numbers]]

    return _digest(read, np.arange(len(images)))


def _digest_files(
    files: Pictures, numbers: Int[np.ndarray, " chosen"], at_most: int | None
) -> UInt64[np.ndarray, " chosen"]:
    """A digest of so many bytes at the end of each file, or of all."""

    def read(which: Int[np.ndarray, " chosen"]) -> list[bytes]:
        return files.read_ends(which, at_most)

    return _digest(read, numbers)


def _digest(
    read: Callable[[Int[np.ndarray, " chosen"]], list[bytes]], numbers: Int[np.ndarray, " chosen"]
) -> UInt64[np.ndarray, " chosen"]:
    """The digest of what is read for each number, in as many threads as there are cores."""
    results = np.empty(len(numbers), np.uint64)

    def fill(start: int) -> None:
        contents = read(numbers[start : start + _CHUNK])
        digests = b"".join([hashlib.blake2b(content, digest_size=8).digest() for content in contents])
        results[start : start + len(contents)] = np.frombuffer(digests, np.uint64)

    with ThreadPoolExecutor(count_cores()) as pool:
        deque(pool.map(fill, range(0, len(numbers), _CHUNK)), maxlen=0)
    return results
