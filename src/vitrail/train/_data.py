"""Labelled images in memory, and how they are told apart into what is learned from and what is held out."""

import math
from dataclasses import dataclass
from typing import Final

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32, Shaped, UInt8

_HELD_OUT_EVERY: Final = 5
_HELD_OUT_FIRST: Final = 2
MIN_PER_CLASS: Final = _HELD_OUT_FIRST + 1
"""How many images of a class there must be, so that at least one is held out."""


class DataError(ValueError):
    """A file, or a folder of them, that is not what it should be. The message names it."""


@dataclass(frozen=True)
class Examples:
    """Images and their labels, in memory."""

    images: UInt8[np.ndarray, "images height width channels"]
    """The pixels, one byte a channel; one channel where they are grey, three where they are RGB."""
    labels: Int32[np.ndarray, " images"]
    """The class of each image, counted from 0."""

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels) or len(self.labels) == 0:
            raise ValueError(
                f"images and labels must be equally many and at least one, but {len(self.images)} images and "
                f"{len(self.labels)} labels came: pass one label for each image"
            )

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
class Normalisation:
    """What is subtracted from the pixels of each channel, and by what they are then divided.

    Pixels are in `[0, 1]` here, as the published means and deviations of pretrained models are.
    """

    mean: tuple[float, ...]
    """Of each channel."""
    std: tuple[float, ...]
    """Of each channel."""

    def __post_init__(self) -> None:
        fits = len(self.mean) == len(self.std) and all(map(math.isfinite, self.mean + self.std))
        if not fits or not all(std > 0 for std in self.std):
            raise ValueError(
                f"mean and std must have one finite value for each channel, and std be positive, but mean={self.mean} "
                f"and std={self.std} came: pass mean=(0.5,), std=(0.5,) for grey images in [-1, 1]"
            )

    def __call__(
        self, images: Shaped[Array, "*batch height width channels"]
    ) -> Float[Array, "*batch height width channels"]:
        """**Arguments:**

        - `images`: pixels in `[0, 255]`, of any dtype.

        **Returns:**

        What a model reads, in float32.
        """
        scaled = images.astype(jnp.float32) / 255
        mean, std = (
            jnp.broadcast_to(jnp.asarray(values, jnp.float32), images.shape) for values in (self.mean, self.std)
        )
        return (scaled - mean) / std

    @staticmethod
    def of(examples: Examples) -> "Normalisation":
        """**Arguments:**

        - `examples`: those to learn from.

        **Returns:**

        The mean and the standard deviation of each of their channels. A channel that is the same everywhere is only
        centred.
        """
        # Counting the 256 values first costs no copy of the images in floating point, and the sums are exact.
        counts = [
            np.bincount(examples.images[..., channel].ravel(), minlength=256)
            for channel in range(examples.images.shape[-1])
        ]
        values = np.arange(256) / 255
        means = [float(np.average(values, weights=count)) for count in counts]
        stds = [
            float(np.average((values - mean) ** 2, weights=count)) ** 0.5
            for mean, count in zip(means, counts, strict=True)
        ]
        return Normalisation(tuple(means), tuple(std if std > 1e-6 else 1.0 for std in stds))


@dataclass(frozen=True)
class Dataset:
    """Images to learn from, images held out, and what the classes are called."""

    name: str
    """Where they come from, for people."""
    train: Examples
    """To learn from."""
    test: Examples
    """Held out: for the figure at the end, and for nothing else."""
    classes: tuple[str, ...]
    """What the classes are called, by label."""
    normalisation: Normalisation
    """Of the pixels. The loaders measure it on `train`; a pretrained model needs that of its pretraining."""

    def __post_init__(self) -> None:
        if self.train.images.shape[1:] != self.test.images.shape[1:]:
            raise ValueError(
                f"train and test must hold images of one shape, but {self.train.images.shape[1:]} and "
                f"{self.test.images.shape[1:]} came: resize one of the two"
            )

        if len(self.normalisation.mean) != self.channels:
            raise ValueError(
                f"normalisation must have one mean for each of the {self.channels} channels, but it has "
                f"{len(self.normalisation.mean)}: take Normalisation.of(train), or that of the pretraining"
            )
        for part, examples in (("train", self.train), ("test", self.test)):
            low, high = int(examples.labels.min()), int(examples.labels.max())
            if low < 0 or high >= len(self.classes):
                raise ValueError(
                    f"the labels of {part} must lie in [0, {len(self.classes)}), one for each of classes, but they go "
                    f"from {low} to {high}"
                )

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        return self.train.images.shape[1], self.train.images.shape[2]

    @property
    def channels(self) -> int:
        """One for grey images, three for RGB."""
        return self.train.images.shape[3]


def held_out(labels: Int32[np.ndarray, " images"]) -> Bool[np.ndarray, " images"]:
    """Which images are held out: of each class the 3rd, the 8th, the 13th and so on, in the order they come in.

    That is a fifth of each class, rounded to the nearest. It depends on nothing but the order, so it is the same on
    every machine and with every seed.

    **Arguments:**

    - `labels`: of all images.

    **Returns:**

    A mask, true where an image is held out.
    """
    mask = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        mask[np.flatnonzero(labels == label)[_HELD_OUT_FIRST::_HELD_OUT_EVERY]] = True
    return mask


def split(name: str, examples: Examples, classes: tuple[str, ...]) -> Dataset:
    """All examples as a `Dataset`, with `held_out` of them as its test part."""
    mask = held_out(examples.labels)
    train = examples[~mask]
    return Dataset(name, train, examples[mask], classes, Normalisation.of(train))
