"""Labelled images, divided into those to learn from and those held out."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import Bool, Integer, Shaped, UInt8

from .._check import check_seed
from ._equal import check_apart, digest_rows
from ._picture import to_picture
from ._pictures import Pictures, pick_evenly
from ._preprocess import Preprocess
from ._problems import raise_problems

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage
else:
    PILImage = object  # annotations are read when functions are defined, and Pillow may not be installed

HELD_OUT: Final = 0.2
_MEASURED: Final = 2048
"""Of how many files the normalisation is measured."""
MIN_PER_CLASS: Final = 2
"""The smallest number of images of a class: one to learn from, and one to hold out."""


@dataclass(frozen=True)
class Examples:
    """Images and their labels or texts, in memory or in files."""

    images: UInt8[np.ndarray, "images height width channels"] | Pictures
    """The pixels in [0, 255], with one channel if grey and three if RGB, or `Pictures`, which are decoded when they are
    read."""
    labels: Integer[np.ndarray, " images"]
    """The number of the class of each image, from 0; 0 for all if there are no classes."""
    texts: Shaped[np.ndarray, " images"] | None = None
    """The text of each image, for the objective `clip`: an array of strings."""

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
        """Selects examples. `Pictures` are not read.

        **Arguments:**

        - `which`: a slice, indices or a mask.

        **Returns:**

        The selected examples.
        """
        images = self.images.select(which) if isinstance(self.images, Pictures) else self.images[which]
        return Examples(images, self.labels[which], None if self.texts is None else self.texts[which])

    @property
    def identity(self) -> Shaped[np.ndarray, "images ..."]:
        """What distinguishes these images from others: their pixels, or the names of their files, one for each
        image."""
        return self.images.names if isinstance(self.images, Pictures) else self.images

    @property
    def digest(self) -> str:
        """The SHA-256 of `identity`, the labels and the texts."""
        from ..nn import digest_arrays  # pictures are prepared for an exported model without it

        texts = "" if self.texts is None else "\n".join(self.texts)
        return digest_arrays([self.identity, self.labels.astype(np.int32)], texts)

    def find_broken(self) -> list[str]:
        """What is wrong with each broken file, quickly: see `Pictures.find_broken`. Nothing, if they are in memory."""
        return list(dict.fromkeys(self.images.find_broken().values())) if isinstance(self.images, Pictures) else []

    def open(self, index: int) -> PILImage:
        """Opens one image.

        **Arguments:**

        - `index`: the number of the image.

        **Returns:**

        A Pillow picture, grey or RGB. One in a file has its original size.

        **Raises:** `DataError` if it cannot be decoded.
        """
        if isinstance(self.images, Pictures):
            return self.images.open(index)
        return to_picture(self.images[index], self.images.shape[-1])


@dataclass(frozen=True)
class Dataset:
    """Images to learn from, images held out, and the names of the classes."""

    name: str
    """Where the images are from, to be printed."""
    train: Examples
    """The images to learn from."""
    test: Examples
    """The images held out. `fit` does not read them; `evaluate` measures the final accuracy on them."""
    classes: tuple[str, ...]
    """The names of the classes, by label; empty for images without labels."""
    preprocess: Preprocess
    """How the images were resized, and how their pixels are normalised for the model. The loaders measure the
    normalisation on `train`; a pretrained model needs its own."""
    skipped: tuple[str, ...] = ()
    """What is wrong with each file that was left out because it cannot be decoded."""

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
            if low < 0 or high >= max(1, len(self.classes)):
                raise ValueError(
                    f"the labels of {part} must be in [0, {len(self.classes)}), the number of classes, got {low} to "
                    f"{high}"
                )

    def __repr__(self) -> str:
        shape, shown = " x ".join(map(str, self.train.images.shape[1:])), ", ".join(self.classes[:3])
        more = ", ..." if len(self.classes) > 3 else ""
        texts = "" if self.train.texts is None else ", with texts"
        return (
            f"<Dataset {self.name}: {len(self.train):,} images to learn from and {len(self.test):,} held out "
            f"of {shape}, {len(self.classes)} classes ({shown}{more}){texts}>"
        )

    def check_files(self) -> None:
        """Looks for broken files, quickly: see `Pictures.find_broken`. Then it looks for held-out files with the same
        bytes as a training file. Images in memory were checked when they were loaded.

        **Raises:** `DataError` that lists the broken files, or files that are on both sides.
        """
        files = [part.images for part in (self.train, self.test) if isinstance(part.images, Pictures)]
        raise_problems([problem for part in (self.train, self.test) for problem in part.find_broken()])
        if len(files) == 2:
            check_apart(*files)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        return self.train.images.shape[1], self.train.images.shape[2]

    @property
    def channels(self) -> int:
        """The number of channels: 1 for grey images, 3 for RGB."""
        return self.train.images.shape[3]


def measure_preprocess(examples: Examples) -> Preprocess:
    """Measures the mean and the standard deviation of each channel of images, for a `Dataset` of your own.

    **Arguments:**

    - `examples`: the images to learn from. Of `Pictures`, at most 2,048 are read, evenly spaced.

    **Returns:**

    A `Preprocess` with these numbers and, as in the loaders, `fit="cover"` and bicubic interpolation. The standard
    deviation of a channel that is the same everywhere is 1.
    """
    # Counting the 256 values needs no copy of the images in floating point, and the sums are exact.
    images = examples.images
    if isinstance(images, Pictures):
        images = images[pick_evenly(len(images), _MEASURED)]
    counts = [np.bincount(images[..., channel].ravel(), minlength=256) for channel in range(images.shape[-1])]
    values = np.arange(256) / 255
    means = [float(np.average(values, weights=count)) for count in counts]
    stds = [
        float(np.average((values - mean) ** 2, weights=count)) ** 0.5 for mean, count in zip(means, counts, strict=True)
    ]
    return Preprocess("cover", "bicubic", tuple(means), tuple(std if std > 1e-6 else 1.0 for std in stds))


def hold_out(
    labels: Integer[np.ndarray, " images"], *, seed: int = 0, share: float = HELD_OUT
) -> Bool[np.ndarray, " images"]:
    """Chooses the images to hold out at random: a share of each class, at least one image, and never all.

    The choice depends only on the labels and the seed, so it is the same on every machine.

    **Arguments:**

    - `labels`: the class of each image.
    - `seed`: for the choice, in [0, 2**32).
    - `share`: the share of each class that is held out, above 0 and below 1.

    **Returns:**

    A mask, true for each image that is held out.

    **Raises:** `ValueError` if a class has one image only, or the seed or the share is out of range.
    """
    check_seed(seed)
    if not 0 < share < 1:
        raise ValueError(
            f"the share to hold out must be above 0 and below 1, got {share}: pass 0.2 for a fifth of each class"
        )
    random = np.random.RandomState(seed)  # whose numbers no version of NumPy changes
    mask = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < MIN_PER_CLASS:
            raise ValueError(
                f"each class must have at least {MIN_PER_CLASS} images, so that one can be held out, got 1 of class "
                f"{label}"
            )
        many = min(max(1, round(share * len(members))), len(members) - 1)
        mask[random.permutation(members)[:many]] = True
    return mask


def hold_out_images(examples: Examples, *, seed: int = 0, share: float = HELD_OUT) -> Bool[np.ndarray, " images"]:
    """Chooses images to hold out as `hold_out` does, and keeps equal images on the same side.

    **Arguments:**

    - `examples`: all images. Images with the same pixels, or several texts of one file, count as one image.
    - `seed`, `share`: as for `hold_out`.

    **Returns:**

    A mask, true for each image that is held out.

    **Raises:** what `hold_out` raises.
    """
    images = examples.images
    marks = images.names if isinstance(images, Pictures) else digest_rows(images)
    _, first, which = np.unique(marks, return_index=True, return_inverse=True)
    if len(first) == len(examples):
        return hold_out(examples.labels, seed=seed, share=share)
    return hold_out(examples.labels[first], seed=seed, share=share)[which]


def divide(
    name: str,
    examples: Examples,
    mask: Bool[np.ndarray, " images"],
    classes: tuple[str, ...],
    preprocess: Preprocess | None,
) -> Dataset:
    """Divides examples into those to learn from and those of a mask. Without `preprocess` it is measured.

    **Raises:** `ValueError` if the mask is not of these examples, or one side has none.
    """
    if mask.shape != (len(examples),) or mask.all() or not mask.any():
        raise ValueError(
            f"held_out must be a mask of {len(examples):,} records, true for some of them, got {mask.sum():,} true of "
            f"{mask.size:,}"
        )
    train = examples[~mask]
    return Dataset(name, train, examples[mask], classes, preprocess or measure_preprocess(train))
