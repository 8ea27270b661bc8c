"""A folder of image files with one subfolder for each class."""

from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import UInt8

from .._check import check_positive, check_seed, join_names
from .._extras import require
from ._dataset import MIN_PER_CLASS, DataError, Dataset, Examples, make_dataset, raise_problems, split
from ._open import FORMATS, open_image, read_image
from ._picture import GREY_MODES
from ._preprocess import Preprocess
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
) -> Dataset:
    """Loads your own images: a folder with one subfolder for each class, which holds JPEG, PNG or WebP files.

    - **Classes** are the subfolders in alphabetical order.
    - **Held out** is a fifth of the images of each class, drawn at random. Divide pictures that resemble each other, as
        those of one film, yourself: a folder with `train` and one of `val`, `valid`, `validation` and `test`, each with
        the subfolders of the classes, is used as it is divided. Of `val` and `test`, `val` is used and `test` is left
        alone.
    - **Pixels**: the orientation in EXIF is applied, transparent pixels become white, and 16 bits are scaled to 8. Of
        a phone's JPEG with two pictures (MPO) the first is read.

    No file is skipped: one that is not an image of a class is an error, hidden files such as `.DS_Store` included.

    **Arguments:**

    - `folder`: the folder of the classes, or of `train` and `val`.
    - `image_size`: height and width of the images after resizing.
    - `preprocess`: how the images are resized and normalised, for a pretrained model; `None` for scaling by the shorter
        side with bicubic interpolation, a crop at the centre, and a normalisation measured on the training images.
    - `channels`: 1 for grey or 3 for RGB; `None` for those of `preprocess`, or for grey if all files are grey.
    - `seed`: for the choice of the images that are held out. The same seed and names give the same choice.

    **Returns:**

    A `Dataset`.

    **Raises:** `DataError` that lists each file or folder that cannot be used, and why: an image outside a class or in
    a folder within one, another kind of file, one that cannot be decoded, has another format than its name says, is
    animated or has more than 50 million pixels; a class of fewer than 2 images, or of none in `train`; fewer than two
    classes; a class in `val` that is not in `train`. `ValueError` if `channels` differs from those of `preprocess`.
    `MissingExtraError` if Pillow is not installed.
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
    if len(classes) < 2:
        found = "one" if classes else "none"
        problems.append(f"{folder} must have at least two classes, one subfolder for each, got {found}")
    if not parts[-1]:
        problems.append(f"{roots[-1][0]} must have images of at least one class, got none")
    if strange := sorted(parts[-1].keys() - parts[0].keys()):
        problems.append(f"{folder} must have training images of each class, got none of {join_names(strange)}")
    files = [[path for group in part.values() for path in group] for part in parts]
    if channels is None:
        channels = 1 if all(_is_grey(path) for paths in files for path in paths) else 3
    resizer = make_resizer(preprocess, channels)
    images = [_read_images(paths, resizer, image_size, problems) for paths in files]
    raise_problems(problems)
    numbers = {name: number for number, name in enumerate(classes)}
    learned, *held_out = (
        Examples(np.stack(read), np.array([numbers[path.parent.name] for path in paths], np.int32))
        for read, paths in zip(images, files, strict=True)
    )
    if not held_out:
        return split(str(folder), learned, classes, preprocess, seed=seed)
    name = f"{folder} ({roots[0][0].name} and {roots[1][0].name})"
    return make_dataset(name, learned, held_out[0], classes, preprocess)


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


def _list_classes(folder: Path, at_least: int, problems: list[str]) -> dict[str, list[Path]]:
    """The image files by class. Adds what is wrong with the other files and with the classes to `problems`."""
    classes: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.name.startswith("."):
            classes[path.name] = _list_images(path, at_least, problems)
        elif path.is_dir():
            problems.append(f"{path} is a hidden folder among the classes: move it elsewhere")
        else:
            problems.append(f"{path} is outside the folders of the classes: {_advise(path, 'move it into its class')}")
    return classes


def _list_images(folder: Path, at_least: int, problems: list[str]) -> list[Path]:
    """The image files of one class."""
    images: list[Path] = []
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            problems.append(
                f"{path} is a folder within the class {folder.name!r}: move its images into {folder}, or, if the "
                f"folders above it divide the images, call these {_TRAIN!r} and {_VALIDATION[0]!r}"
            )
        elif path.suffix.lower() not in FORMATS or path.name.startswith("."):
            advice = _advise(path, "convert it, or move it elsewhere")
            problems.append(f"{path} is not a JPEG, PNG or WebP file ({', '.join(FORMATS)}): {advice}")
        else:
            images.append(path)
    if len(images) < at_least:
        needed = "2 images, so that one can be held out" if at_least == MIN_PER_CLASS else "1 image"
        problems.append(f"{folder} must have at least {needed}, got {len(images)}: add some, or remove the class")
    return images


def _advise(path: Path, otherwise: str) -> str:
    hidden = path.name.startswith(".") or path.name.lower() in ("thumbs.db", "desktop.ini")
    return "it is a hidden file of the system, so delete it" if hidden else otherwise


def _is_grey(path: Path) -> bool:
    try:
        with open_image(path) as image:
            return image.mode in GREY_MODES
    except DataError:
        return True  # the error is reported when the image is read


def _read_images(
    paths: list[Path], resizer: Preprocess, size: tuple[int, int], problems: list[str]
) -> list[UInt8[np.ndarray, "height width channels"]]:
    """The images of files. Adds what is wrong with those that cannot be read to `problems`."""
    images: list[UInt8[np.ndarray, "height width channels"]] = []
    for path in paths:
        try:
            images.append(read_image(path, resizer, size))
        except DataError as error:
            problems.append(str(error))
    return images
