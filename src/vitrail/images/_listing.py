"""The files of a data set before they are read, and how folders divide them."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Int, Int32, Shaped

from .._check import join_names
from ._problems import DataError

TRAIN: Final = "train"
VALIDATION: Final = ("val", "valid", "validation")
TEST: Final = "test"
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, eq=False)
class Listing:
    """The image files to learn from, or those held out. None of them is open."""

    folder: Path
    """What the names are relative to."""
    names: Shaped[np.ndarray, " images"]
    """The names of the files, in bytes, as `Pictures` has them."""
    labels: Int32[np.ndarray, " images"]
    """The class of each image; 0 if there are no classes."""
    texts: Shaped[np.ndarray, " images"] | None = None
    """The text of each image, if they have texts."""
    spans: Int[np.ndarray, "images 2"] | None = None
    """Where each picture is in its tar file, if they are in tar files."""


def find_parts(folder: Path, holds: Callable[[Path], bool]) -> list[Path]:
    """Finds the folder of the images to learn from and that of those held out.

    **Arguments:**

    - `folder`: has all images, or a folder `train` and one of `val`, `valid`, `validation` and `test`. Of `val` and
        `test`, `val` is used.
    - `holds`: says whether a folder itself has what is looked for.

    **Returns:**

    Both folders, or only `folder` if it is not divided.

    **Raises:** `DataError` if there is `train` and not one other.
    """
    if not ((folder / TRAIN).is_dir() and holds(folder / TRAIN)):  # trains can be a class
        return [folder]
    held_out = [name for name in (*VALIDATION, TEST) if (folder / name).is_dir()]
    if len(held_out) == 2 and TEST in held_out:
        held_out.remove(TEST)
    if len(held_out) != 1:
        raise DataError(
            f"{folder} is divided by its folder {TRAIN!r}, so it must have one of "
            f"{join_names((*VALIDATION, TEST))} beside it, got {join_names(held_out) if held_out else 'none'}: "
            + ("move one of them elsewhere" if held_out else f"load {folder / TRAIN}, of which a fifth is held out")
        )
    return [folder / TRAIN, folder / held_out[0]]


def is_text(value: object) -> bool:
    """Whether a value is a text that is not empty, and has no half of a surrogate pair."""
    return isinstance(value, str) and bool(value.strip()) and not _SURROGATE.search(value)
