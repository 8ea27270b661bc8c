"""A folder of image files: with one subfolder for each class, or without labels."""

import os
from pathlib import Path

import numpy as np

from .._check import join_names
from ._dataset import MIN_PER_CLASS
from ._listing import TEST, TRAIN, VALIDATION, Listing, find_parts
from ._open import FORMATS


def list_folder(folder: Path, problems: list[str]) -> tuple[list[Listing], tuple[str, ...]]:
    """Lists the image files in the subfolders of the classes.

    **Arguments:**

    - `folder`: has the subfolders, or `train` and `val` with them.
    - `problems`: what is wrong with files, folders and classes is added to it.

    **Returns:**

    The files to learn from, those held out if they are divided, and the names of the classes.

    **Raises:** what `find_parts` raises.
    """
    roots = find_parts(folder, lambda root: any(path.is_dir() for path in root.glob("[!.]*")))
    if len(roots) == 2:
        for path in sorted(folder.iterdir()):
            if path.name not in (TRAIN, *VALIDATION, TEST) or path.is_file():
                advice = _advise(path, "move it elsewhere")
                problems.append(f"{path} is beside the folder {TRAIN!r}, which divides the images: {advice}")
    parts = [_list_classes(root, MIN_PER_CLASS if len(roots) == 1 else 1, problems) for root in roots]
    if len(parts[0]) < 2:
        found = "one" if parts[0] else "none"
        problems.append(f"{folder} must have at least two classes, one subfolder for each, got {found}")
    if not parts[-1]:
        problems.append(f"{roots[-1]} must have images of at least one class, got none")
    if strange := sorted(parts[-1].keys() - parts[0].keys()):
        problems.append(f"{folder} must have training images of each class, got none of {join_names(strange)}")
    numbers = {name: number for number, name in enumerate(parts[0])}
    found_in = [
        Listing(
            root,
            np.array([os.fsencode(name) for names in part.values() for name in names], np.bytes_),
            np.repeat(np.array([numbers.get(name, 0) for name in part], np.int32), [len(n) for n in part.values()]),
        )
        for root, part in zip(roots, parts, strict=True)
    ]
    return found_in, tuple(parts[0])


def holds_pictures(folder: Path) -> bool:
    """Whether a folder has image files and no other folder."""
    with os.scandir(folder) as entries:
        found = [(entry.name, entry.is_dir()) for entry in entries]
    return any(_is_image(name) for name, _ in found) and not any(is_dir for _, is_dir in found)


def list_pictures(folder: Path, problems: list[str]) -> tuple[list[Listing], tuple[str, ...]]:
    """Lists the image files of a folder without classes.

    **Arguments:**

    - `folder`: has the files.
    - `problems`: what is wrong with other files is added to it.

    **Returns:**

    The files, and no classes.
    """
    names: list[bytes] = []
    for path in sorted(folder.iterdir()):
        if _is_image(path.name):
            names.append(os.fsencode(path.name))
        else:
            problems.append(_describe_other(path))
    if len(names) < MIN_PER_CLASS:
        problems.append(f"{folder} must have at least 2 images, so that one can be held out, got {len(names)}")
    return [Listing(folder, np.array(names, np.bytes_), np.zeros(len(names), np.int32))], ()


def _list_classes(folder: Path, at_least: int, problems: list[str]) -> dict[str, list[str]]:
    """The names of the image files within the folder, by class. Adds what is wrong with the other files and with the
    classes to `problems`."""
    classes: dict[str, list[str]] = {}
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.name.startswith("."):
            classes[path.name] = _list_images(path, at_least, problems)
        elif path.is_dir():
            problems.append(f"{path} is a hidden folder among the classes: move it elsewhere")
        else:
            problems.append(f"{path} is outside the folders of the classes: {_advise(path, 'move it into its class')}")
    return classes


def _list_images(folder: Path, at_least: int, problems: list[str]) -> list[str]:
    """The image files of one class. There may be a million, so nothing is done for each but to look at its name."""
    images: list[str] = []
    with os.scandir(folder) as entries:
        found = sorted((entry.name, entry.is_dir()) for entry in entries)
    for name, is_dir in found:
        if is_dir:
            problems.append(
                f"{folder / name} is a folder within the class {folder.name!r}: move its images into {folder}, or, if "
                f"the folders above it divide the images, call these {TRAIN!r} and {VALIDATION[0]!r}"
            )
        elif not _is_image(name):
            problems.append(_describe_other(folder / name))
        else:
            images.append(f"{folder.name}/{name}")
    if len(images) < at_least:
        needed = "2 images, so that one can be held out" if at_least == MIN_PER_CLASS else "1 image"
        problems.append(f"{folder} must have at least {needed}, got {len(images)}: add some, or remove the class")
    return images


def _is_image(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in FORMATS


def _describe_other(path: Path) -> str:
    advice = _advise(path, "convert it, or move it elsewhere")
    return f"{path} is not a JPEG, PNG or WebP file ({', '.join(FORMATS)}): {advice}"


def _advise(path: Path, otherwise: str) -> str:
    hidden = path.name.startswith(".") or path.name.lower() in ("thumbs.db", "desktop.ini")
    return "it is a hidden file of the system, so delete it" if hidden else otherwise
