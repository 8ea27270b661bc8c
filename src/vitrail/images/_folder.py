"""A folder of image files with one subfolder for each class."""

import dataclasses
import os
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Bool, Shaped

from .._check import check_positive, check_seed, join_names
from .._extras import require
from ._dataset import HELD_OUT, MIN_PER_CLASS, Dataset, Examples, divide, hold_out, make_dataset
from ._open import FORMATS
from ._pictures import Pictures
from ._preprocess import Preprocess
from ._problems import DataError, raise_problems
from ._resize import choose_channels, make_resizer

_TRAIN: Final = "train"
_VALIDATION: Final = ("val", "valid", "validation")
_TEST: Final = "test"


def load_folder(
    folder: Path | str,
    *,
    image_size: tuple[int, int] = (64, 64),
    preprocess: Preprocess | None = None,
    channels: int | None = None,
    seed: int = 0,
    held_out: float | Path | str = HELD_OUT,
    lazy: bool = False,
    skip_broken: bool = False,
) -> Dataset:
    """Loads your own images: a folder with one subfolder for each class, which holds JPEG, PNG or WebP files.

    - **Classes** are the subfolders in alphabetical order.
    - **Held out** is a fifth of the images of each class, drawn at random. Divide pictures that resemble each other, as
        those of one film, yourself: a folder with `train` and one of `val`, `valid`, `validation` and `test`, each with
        the subfolders of the classes, is used as it is divided. Of `val` and `test`, `val` is used and `test` is left
        alone.
    - **Pixels**: the orientation in EXIF is applied, transparent pixels become white, and 16 bits are scaled to 8. Of
        a phone's JPEG with two pictures (MPO) the first is read.

    No file is skipped unless you say so: one that is not an image of a class is an error, hidden files such as
    `.DS_Store` included.

    **Arguments:**

    - `folder`: the folder of the classes, or of `train` and `val`.
    - `image_size`: height and width of the images after resizing.
    - `preprocess`: how the images are resized and normalised, for a pretrained model; `None` for scaling by the shorter
        side with bicubic interpolation, a crop at the centre, and a normalisation measured on the training images.
    - `channels`: 1 for grey or 3 for RGB; `None` for those of `preprocess`, or for grey if all files are grey.
    - `seed`: for the choice of the images that are held out. The same seed and names give the same choice.
    - `held_out`: the share of each class that is held out, or a file with the names of the images to hold out, one a
        line, as `cat/1.jpg`. A folder with `train` is divided already.
    - `lazy`: whether images are decoded when they are read, as `Pictures`: for more than fit into memory. No file is
        opened before, but for 64 that say whether all are grey; `Dataset.check_files` looks for broken ones.
    - `skip_broken`: whether files that cannot be decoded are left out, and listed in `Dataset.skipped`. To find them,
        each is decoded once, also with `lazy`.

    **Returns:**

    A `Dataset`.

    **Raises:** `DataError` that lists each file or folder that cannot be used, and why: an image outside a class or in
    a folder within one, another kind of file, one that cannot be decoded, has another format than its name says, is
    animated or has more than 50 million pixels; a class of fewer than 2 images, or of none in `train`; fewer than two
    classes; a class in `val` that is not in `train`; a name to hold out that is not there. `ValueError` if `channels`
    differs from those of `preprocess`, or the share is not in [0, 1). `MissingExtraError` if Pillow is not
    installed.
    """
    require("PIL", extra="train")
    check_positive(image_size=image_size)
    check_seed(seed)
    channels = choose_channels(preprocess, channels)
    folder = Path(folder)
    problems: list[str] = []
    roots = _find_parts(folder, problems)
    parts = [_list_classes(root, at_least, problems) for root, at_least in roots]
    classes = tuple(parts[0])
    _check_classes(folder, roots, parts, problems)
    files = [np.array([os.fsencode(name) for group in part.values() for name in group], np.bytes_) for part in parts]
    some = Preprocess("cover", "bicubic", (0.5,), (0.5,)) if preprocess is None else preprocess
    pictures = [Pictures(root, names, image_size, some) for (root, _), names in zip(roots, files, strict=True)]
    if channels is None:
        channels = 1 if all(part.are_grey(at_most=64 if lazy else None) for part in pictures) else 3
    resizer = make_resizer(preprocess, channels)
    numbers = {name: number for number, name in enumerate(classes)}
    found: list[tuple[Examples, Bool[np.ndarray, " images"]]] = []
    skipped: list[str] = []
    for part, listed in zip(pictures, parts, strict=True):
        labels = [np.full(len(group), numbers.get(name, 0), np.int32) for name, group in listed.items()]
        if len(part):
            whole = Examples(dataclasses.replace(part, preprocess=resizer), np.concatenate(labels))
            found.append(read_examples(whole, skipped if skip_broken else problems, lazy=lazy, skip=skip_broken))
    raise_problems(problems)
    (learned, kept), *divided = found
    lost = tuple(skipped)
    if divided:
        if held_out != HELD_OUT:
            raise ValueError(f"held_out cannot be used with {folder}, which is divided by its folders: leave it out")
        name = f"{folder} ({roots[0][0].name} and {roots[1][0].name})"
        return make_dataset(name, learned, divided[0][0], classes, preprocess, lost)
    if isinstance(held_out, int | float):
        mask = hold_out(learned.labels, seed=seed, share=held_out)
    else:
        mask = find_names(Path(held_out), files[0], folder)[kept]
    return divide(str(folder), learned, mask, classes, preprocess, lost)


def read_examples(
    examples: Examples, problems: list[str], *, lazy: bool, skip: bool
) -> tuple[Examples, Bool[np.ndarray, " images"]]:
    """Reads `Pictures` into memory, or leaves them where they are if `lazy`. Adds what is wrong with broken ones to
    `problems`.

    **Returns:**

    The examples, without the broken ones if they are skipped, and a mask of those that are left.
    """
    kept = np.ones(len(examples), bool)
    pictures = examples.images
    if not isinstance(pictures, Pictures) or (lazy and not skip):
        return examples, kept
    pixels, broken = (None, pictures.find_broken(decode=True)) if lazy else pictures.read()
    problems.extend(broken.values())
    if skip:
        kept[list(broken)] = False
    if lost := sorted(set(examples.labels.tolist()) - set(examples.labels[kept].tolist())):
        raise DataError(
            f"{pictures.folder} must have an image of each class that can be decoded, got none of {len(lost)} "
            f"classes: {next(iter(broken.values()))}"
        )
    return (examples[kept] if pixels is None else Examples(pixels[kept], examples.labels[kept])), kept


def find_names(path: Path, names: Shaped[np.ndarray, " images"], folder: Path) -> Bool[np.ndarray, " images"]:
    """Finds the files that are named by the lines of a file.

    **Raises:** `DataError` if a name is not among them, or none or all are named.
    """
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} must be a text with the name of an image in each line: {error}") from error
    wanted = np.array([os.fsencode(line) for line in lines if line], np.bytes_)
    if strange := [os.fsdecode(name) for name in wanted[~np.isin(wanted, names)]]:
        raise DataError(
            f"{path} must have names of images in {folder}, as {os.fsdecode(names[0])!r}, got {len(strange)} others: "
            f"{join_names(strange[:5])}"
        )
    mask = np.isin(names, wanted)
    if mask.all() or not mask.any():
        raise DataError(f"{path} must name some of the images in {folder}, got {'all' if mask.any() else 'none'}")
    return mask


def _check_classes(
    folder: Path, roots: list[tuple[Path, int]], parts: list[dict[str, list[str]]], problems: list[str]
) -> None:
    if len(parts[0]) < 2:
        found = "one" if parts[0] else "none"
        problems.append(f"{folder} must have at least two classes, one subfolder for each, got {found}")
    if not parts[-1]:
        problems.append(f"{roots[-1][0]} must have images of at least one class, got none")
    if strange := sorted(parts[-1].keys() - parts[0].keys()):
        problems.append(f"{folder} must have training images of each class, got none of {join_names(strange)}")


def _find_parts(folder: Path, problems: list[str]) -> list[tuple[Path, int]]:
    """The folders of classes, those to learn from before those held out, and how many images a class must have: the
    folder itself, or the two that it is divided into."""
    if not folder.is_dir():
        raise DataError(f"{folder} must be a folder with one subfolder for each class, got no folder")
    inside = sorted(folder.iterdir())
    parts = {path.name: path for path in inside if path.is_dir()}
    # Trains can be a class.
    if _TRAIN not in parts or not any(path.is_dir() for path in parts[_TRAIN].glob("[!.]*")):
        return [(folder, MIN_PER_CLASS)]
    held_out = [name for name in (*_VALIDATION, _TEST) if name in parts]
    if len(held_out) == 2 and _TEST in held_out:
        held_out.remove(_TEST)
    for path in inside:
        if path.name not in (_TRAIN, *_VALIDATION, _TEST) or path.is_file():
            advice = _advise(path, "move it elsewhere")
            problems.append(f"{path} is beside the folder {_TRAIN!r}, which divides the images: {advice}")
    if len(held_out) != 1:
        raise DataError(
            f"{folder} is divided by its folder {_TRAIN!r}, so it must have one of "
            f"{join_names((*_VALIDATION, _TEST))} beside it, got {join_names(held_out) if held_out else 'none'}: "
            + ("move one of them elsewhere" if held_out else f"load {parts[_TRAIN]}, of which a fifth is held out")
        )
    return [(parts[_TRAIN], 1), (parts[held_out[0]], 1)]


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
                f"the folders above it divide the images, call these {_TRAIN!r} and {_VALIDATION[0]!r}"
            )
        elif name.startswith(".") or os.path.splitext(name)[1].lower() not in FORMATS:
            advice = _advise(folder / name, "convert it, or move it elsewhere")
            problems.append(f"{folder / name} is not a JPEG, PNG or WebP file ({', '.join(FORMATS)}): {advice}")
        else:
            images.append(f"{folder.name}/{name}")
    if len(images) < at_least:
        needed = "2 images, so that one can be held out" if at_least == MIN_PER_CLASS else "1 image"
        problems.append(f"{folder} must have at least {needed}, got {len(images)}: add some, or remove the class")
    return images


def _advise(path: Path, otherwise: str) -> str:
    hidden = path.name.startswith(".") or path.name.lower() in ("thumbs.db", "desktop.ini")
    return "it is a hidden file of the system, so delete it" if hidden else otherwise
