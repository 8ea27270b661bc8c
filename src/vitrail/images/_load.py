"""Loads images of any kind of folder."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Bool, Shaped

from .._check import check_positive, check_seed, join_names
from .._extras import require
from ._captions import holds_captions, list_captions
from ._dataset import HELD_OUT, Dataset, Examples, hold_out, measure_preprocess
from ._equal import check_apart
from ._folder import holds_pictures, list_folder, list_pictures
from ._idx import holds_idx, load_idx
from ._listing import TRAIN, Listing
from ._pictures import Pictures
from ._preprocess import Preprocess
from ._problems import DataError, describe_error, raise_problems
from ._resize import choose_channels, make_resizer
from ._shards import holds_shards, list_shards

_MEMORY: Final = 2**30
"""How many bytes of images are held in memory."""


def load_images(
    folder: Path | str,
    *,
    image_size: tuple[int, int] | None = None,
    preprocess: Preprocess | None = None,
    channels: int | None = None,
    seed: int = 0,
    held_out: float | Path | str = HELD_OUT,
    lazy: bool | None = None,
    skip_broken: bool = False,
) -> Dataset:
    """Loads the images of a folder.

    The folder has one of these:

    - **Classes**: one subfolder for each, with JPEG, PNG or WebP files. The classes are in alphabetical order.
    - **No labels**: JPEG, PNG or WebP files and no subfolder, for the objectives `mae` and `dino`.
    - **Texts**: JPEG, PNG or WebP files, and `captions.csv` with the columns `file` and `text`, or `captions.jsonl`
        with `{"file": "1.jpg", "text": "a cat"}` in each line. A picture may have several texts. One that is not named
        is not read.
    - **Shards**: tar files of WebDataset. A picture `1.jpg` has its label in `1.cls`, a name or the number of its
        class, or its text in `1.txt`. Either can also be in `1.json`, as `"label"` or `"text"`. Other files in a shard
        are not read.
    - **IDX**: the four files of the MNIST family, see `load_idx`.

    **Held out.** A fifth of each class is held out at random. If the pictures are related, such as frames of one film,
    divide them yourself: put a folder `train` and a folder `val` (or `valid`, `validation` or `test`) into `folder`,
    each as above. If there are both `val` and `test`, `test` is not read. A picture with several texts is on one side
    with all of them.

    **Pixels.** The orientation in EXIF is applied, transparent pixels become white, and 16 bits are scaled to 8. From a
    JPEG with two pictures (MPO, as phones write it) the first is read.

    **Other files.** In a folder of classes, or of pictures without labels, a file that is not an image is an error, and
    so is a file outside the classes. Hidden files such as `.DS_Store` are errors too.

    **Arguments:**

    - `folder`: the folder of the images, or of `train` and `val`.
    - `image_size`: height and width of the images after resizing, in pixels; `None` for 64 x 64, or for IDX files for
        no resizing.
    - `preprocess`: how the images are resized and normalised, for a pretrained model; `None` for scaling by the shorter
        side with bicubic interpolation, a crop at the centre, and a normalisation measured on the training images.
    - `channels`: 1 for grey or 3 for RGB; `None` for those of `preprocess`, or for grey if all files are grey.
    - `seed`: for the choice of the images that are held out. The same seed and names give the same choice.
    - `held_out`: the share of each class that is held out, between 0 and 1, or a text file with the names of the images
        to hold out, one on each line, such as `cat/1.jpg`, or `0.tar/1.jpg` in shards. IDX files, and a folder
        with `train`, are divided already: leave it out there.
    - `lazy`: whether images stay in their files, as `Pictures`, and are decoded when they are used; `None` to do so if
        they would take more than a GiB of memory. `Dataset.check_files` then looks for broken files. IDX files are
        always in memory.
    - `skip_broken`: whether files that cannot be decoded are left out, and listed in `Dataset.skipped`, instead of an
        error. Each file is then decoded once, also with `lazy`.

    **Returns:**

    A `Dataset`.

    **Raises:** `DataError` that lists everything that cannot be used, and why:

    - files that are not images, cannot be decoded, have another format than their name says, are animated, or have more
        than 50 million pixels; images outside the classes or in a folder within a class;
    - truncated tar files; in shards, a picture without a label or text, or these without a picture; a line of
        `captions.csv` whose file does not exist;
    - fewer than two classes, a class with fewer than 2 images, a class in `val` that is not in `train`;
    - a held-out file with the same bytes as a training file; a name to hold out that does not exist.

    `ValueError` if `channels` differs from those of `preprocess`, or `held_out` is not between 0 and 1;
    `MissingExtraError` if Pillow is not installed; what `load_idx` raises.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(
            f"{folder} must be a folder, with one subfolder for each class, pictures, tar files, captions.csv or the "
            f"four IDX files of the MNIST family, got {'a file' if folder.exists() else 'no such folder'}"
        )
    if holds_idx(folder):
        _check_undivided(folder, held_out, "into four files")
        return load_idx(folder, image_size=image_size, preprocess=preprocess, channels=channels)
    require("PIL", extra="train")
    size = (64, 64) if image_size is None else image_size
    check_positive(image_size=size)
    check_seed(seed)
    channels = choose_channels(preprocess, channels)
    problems: list[str] = []
    parts, classes = _choose_kind(folder)(folder, problems)
    if len(parts) == 2:
        _check_undivided(folder, held_out, "by its folders")
    resizer = make_resizer(preprocess, 1)  # until the channels are known
    pictures = [Pictures(part.folder, part.names, size, resizer, part.spans) for part in parts]
    if lazy is None:
        lazy = sum(len(part.names) for part in parts) * size[0] * size[1] * (channels or 3) > _MEMORY
    if channels is None:
        channels = 1 if all(part.are_grey(at_most=64 if lazy else None) for part in pictures) else 3
    resizer = make_resizer(preprocess, channels)
    skipped: list[str] = []
    wholes = [
        Examples(dataclasses.replace(files, preprocess=resizer), part.labels, part.texts)
        for part, files in zip(parts, pictures, strict=True)
        if len(files)
    ]
    read = [_read(whole, skipped if skip_broken else problems, lazy=lazy, skip=skip_broken) for whole in wholes]
    raise_problems(problems)
    (learned, kept), *divided = read
    if divided:
        sides = [files.select(left) for files, (_, left) in zip(pictures, read, strict=True)]
        name, train, test = f"{folder} ({parts[0].folder.name} and {parts[1].folder.name})", learned, divided[0][0]
    else:
        mask = _hold_out(parts[0], kept, seed, held_out)
        lost: list[int] = np.setdiff1d(learned.labels[mask], learned.labels[~mask]).tolist()
        if lost:
            raise DataError(
                f"{held_out} must leave images of each class to learn from, got none of "
                f"{join_names(classes[label] for label in lost[:5])}"
            )
        sides = [pictures[0].select(kept).select(side) for side in (~mask, mask)]
        name, train, test = str(folder), learned[~mask], learned[mask]
    if not lazy:  # `Dataset.check_files` looks at files
        check_apart(*sides)
    return Dataset(name, train, test, classes, preprocess or measure_preprocess(train), tuple(skipped))


def _check_undivided(folder: Path, held_out: float | Path | str, how: str) -> None:
    if held_out != HELD_OUT:
        raise ValueError(f"held_out cannot be used with {folder}, which is divided {how}: leave it out")


def _choose_kind(folder: Path) -> Callable[[Path, list[str]], tuple[list[Listing], tuple[str, ...]]]:
    """Returns what lists the kind of data that a folder or its folder `train` has."""
    for holds, list_files in ((holds_shards, list_shards), (holds_captions, list_captions)):
        places = [place for place in (folder, folder / TRAIN) if holds(place)]
        if len(places) == 2:
            raise DataError(
                f"{folder} must have images itself or in its folder {TRAIN!r}, got both: move one of them elsewhere"
            )
        if places:
            return list_files
    return list_pictures if holds_pictures(folder) else list_folder


def _read(
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
    problems.extend(dict.fromkeys(broken.values()))
    if skip:
        kept[list(broken)] = False
    if lost := sorted(set(examples.labels.tolist()) - set(examples.labels[kept].tolist())):
        raise DataError(
            f"{pictures.folder} must have an image of each class that can be decoded, got none of {len(lost)} "
            f"classes: {next(iter(broken.values()))}"
        )
    left = examples[kept]
    return (left if pixels is None else dataclasses.replace(left, images=pixels[kept])), kept


def _hold_out(
    listing: Listing, kept: Bool[np.ndarray, " images"], seed: int, held_out: float | Path | str
) -> Bool[np.ndarray, " left"]:
    """Chooses which of the images that are left are held out. A picture with several texts is one."""
    if isinstance(held_out, Path | str):
        return _find_names(Path(held_out), listing.names, listing.folder)[kept]
    labels = listing.labels[kept]
    if listing.texts is None:
        return hold_out(labels, seed=seed, share=held_out)
    _, first, which = np.unique(listing.names[kept], return_index=True, return_inverse=True)
    return hold_out(labels[first], seed=seed, share=held_out)[which]


def _find_names(path: Path, names: Shaped[np.ndarray, " images"], folder: Path) -> Bool[np.ndarray, " images"]:
    """Finds the files that are named by the lines of a file.

    **Raises:** `DataError` if a name is not among them, or none or all are named.
    """
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} must be a text with the name of an image in each line, got an error: {describe_error(error)}"
        ) from error
    wanted = np.array([os.fsencode(line) for line in lines if line], np.bytes_)
    if strange := [os.fsdecode(name) for name in wanted[~np.isin(wanted, names)]]:
        raise DataError(
            f"{path} must have names of images in {folder}, as {os.fsdecode(names[0])!r}, got "
            f"{join_names(strange[:5])}{f' and {len(strange) - 5:,} more' if len(strange) > 5 else ''}"
        )
    mask = np.isin(names, wanted)
    if mask.all() or not mask.any():
        raise DataError(f"{path} must name some of the images in {folder}, got {'all' if mask.any() else 'none'}")
    return mask
