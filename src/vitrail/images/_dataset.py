"""Labelled images in memory, divided into those to learn from and those held out."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Integer, Shaped, UInt8

from .._check import check_rate, check_seed
from ._preprocess import Preprocess

_HELD_OUT: Final = 0.2
MIN_PER_CLASS: Final = 2
"""The smallest number of images of a class: one to learn from, and one to hold out."""


class DataError(ValueError):
    """A file or folder of images is not what it should be. The message names it."""


def raise_problems(problems: list[str]) -> None:
    """Raises a `DataError` that lists problems, one a line, if there are any."""
    if len(problems) == 1:
        raise DataError(problems[0])
    if problems:
        raise DataError("\n  ".join((f"{len(problems)} files or folders cannot be used:", *problems)))


@dataclass(frozen=True)
class Examples:
    """Images and their labels, in memory."""

    images: UInt8[np.ndarray, "images height width channels"]
    """The pixels, one byte a channel: one channel if grey, three if RGB."""
    labels: Integer[np.ndarray, " images"]
    """The class of each image, counted from 0, in any dtype of whole numbers."""

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels) or len(self.labels) == 0:
            raise ValueError(
                f"images and labels must have the same length, at least 1, got {len(self.images)} images and "
                f"{len(self.labels)} labels: pass one label for each image"
            )

    def __repr__(self) -> str:
        return f"<Examples: {len(self):,} images of {' x '.join(map(str, self.images.shape[1:]))}>"

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, which: slice | Shaped[np.ndarray, " chosen"]) -> "Examples":
        """**Arguments:**

        - `which`: a slice, indices or a mask.

        **Returns:**

        Those examples.
        """
        return Examples(self.images[which], self.labels[which])


@dataclass(frozen=True)
class Dataset:
    """Images to learn from, images held out, and the names of the classes."""

    name: str
    """Where the images are from, for people."""
    train: Examples
    """The images to learn from."""
    test: Examples
    """The images held out, for the final accuracy only."""
    classes: tuple[str, ...]
    """The names of the classes, by label."""
    preprocess: Preprocess
    """How the images were resized, and how their pixels are normalised for the model. The loaders measure the
    normalisation on `train`; a pretrained model needs its own."""

    def __post_init__(self) -> None:
        if self.train.images.shape[1:] != self.test.images.shape[1:]:
            raise ValueError(
                f"train and test must have images of one shape, got {self.train.images.shape[1:]} and "
                f"{self.test.images.shape[1:]}: resize one of them"
            )
        if self.preprocess.channels != self.channels:
            raise ValueError(
                f"preprocess has {self.preprocess.channels} channels, got images with {self.channels}: load the "
                f"images with channels={self.preprocess.channels}, or use measure_preprocess(train)"
            )
        for part, examples in (("train", self.train), ("test", self.test)):
            low, high = int(examples.labels.min()), int(examples.labels.max())
            if low < 0 or high >= len(self.classes):
                raise ValueError(
                    f"the labels of {part} must be in [0, {len(self.classes)}), the number of classes, got {low} to "
                    f"{high}"
                )

    def __repr__(self) -> str:
        shape, shown = " x ".join(map(str, self.train.images.shape[1:])), ", ".join(self.classes[:3])
        more = ", ..." if len(self.classes) > 3 else ""
        return (
            f"<Dataset {self.name}: {len(self.train):,} images to learn from and {len(self.test):,} held out "
            f"of {shape}, {len(self.classes)} classes ({shown}{more})>"
        )

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        return self.train.images.shape[1], self.train.images.shape[2]

    @property
    def channels(self) -> int:
        """1 for grey images, 3 for RGB."""
        return self.train.images.shape[3]


def measure_preprocess(examples: Examples) -> Preprocess:
    """Measures the normalisation of images.

    **Arguments:**

    - `examples`: the images to learn from.

    **Returns:**

    A `Preprocess` as the loaders have it by default, with the mean and the standard deviation of each channel of the
    images; 1 for the standard deviation of a channel that is the same everywhere.
    """
    # Counting the 256 values needs no copy of the images in floating point, and the sums are exact.
    channels = range(examples.images.shape[-1])
    counts = [np.bincount(examples.images[..., channel].ravel(), minlength=256) for channel in channels]
    values = np.arange(256) / 255
    means = [float(np.average(values, weights=count)) for count in counts]
    stds = [
        float(np.average((values - mean) ** 2, weights=count)) ** 0.5 for mean, count in zip(means, counts, strict=True)
    ]
    return Preprocess("cover", "bicubic", tuple(means), tuple(std if std > 1e-6 else 1.0 for std in stds))


def hold_out(
    labels: Integer[np.ndarray, " images"], *, seed: int = 0, share: float = _HELD_OUT
) -> Bool[np.ndarray, " images"]:
    """Chooses the images to hold out at random: a share of each class, at least one image.

    The choice depends only on the labels and the seed, so it is the same on every machine.

    **Arguments:**

    - `labels`: of all images.
    - `seed`: for the choice, in [0, 2**32).
    - `share`: how much of each class is held out.

    **Returns:**

    A mask, true for each image that is held out.

    **Raises:** `ValueError` if a class has one image only, or the seed is out of range.
    """
    check_seed(seed)
    check_rate(share=share)
    random = np.random.RandomState(seed)  # whose numbers no version of NumPy changes
    mask = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < MIN_PER_CLASS:
            raise ValueError(f"labels must have each class at least {MIN_PER_CLASS} times, got class {label} once")
        mask[random.permutation(members)[: max(1, round(share * len(members)))]] = True
    return mask


def split(
    name: str, examples: Examples, classes: tuple[str, ...], preprocess: Preprocess | None, *, seed: int
) -> Dataset:
    """Divides examples by `hold_out`. Without `preprocess` the normalisation is measured."""
    mask = hold_out(examples.labels, seed=seed)
    return make_dataset(name, examples[~mask], examples[mask], classes, preprocess)


def make_dataset(
    name: str, train: Examples, test: Examples, classes: tuple[str, ...], preprocess: Preprocess | None
) -> Dataset:
    """A data set. Without `preprocess` the normalisation is measured on the training images."""
    return Dataset(name, train, test, classes, measure_preprocess(train) if preprocess is None else preprocess)
