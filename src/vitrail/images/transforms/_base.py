"""The contract of a transform, and what several of them do."""

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import UInt8

from .._preprocess import Preprocess

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage
else:
    PILImage = object  # annotations are read when functions are defined, and Pillow may not be installed


class AbstractTransform(abc.ABC):
    """A random change of a picture. Extend it, make it a frozen dataclass, and name it in `Recipe.transforms`.

    Several of them are a tuple, of which each gets what the one before it returns.
    """

    at_own_size: ClassVar[bool] = False
    """Whether it takes a picture at its own size, as one that crops does. Where the first of a tuple does not, the
    picture is resized before, by the `Preprocess` of the data set."""
    makes_crops: ClassVar[bool] = False
    """Whether it returns arrays of crops instead of a picture. It is then the last of a tuple."""

    @abc.abstractmethod
    def __call__(
        self, image: PILImage, *, random: np.random.Generator
    ) -> PILImage | Mapping[str, UInt8[np.ndarray, "crops height width channels"]]:
        """**Arguments:**

        - `image`: a picture of Pillow, grey or RGB. It does not change.
        - `random`: for all that is random: the same state gives the same result.

        **Returns:**

        The changed picture, or arrays of crops by name.
        """


@dataclass(frozen=True, kw_only=True)
class TransformContext:
    """What a transform is built for. Its class gets the fields that its signature names."""

    image_size: tuple[int, int]
    """Height and width of the images that the model takes, in pixels."""
    patch_size: tuple[int, int]
    """Height and width of its patches, of which an image of another size has whole ones."""
    preprocess: Preprocess
    """The channels, and their mean and standard deviation."""


TransformFactory = Callable[..., AbstractTransform]
"""A class or a function that makes a transform. It names what it needs: fields of `TransformContext`."""


def to_pixels(image: PILImage) -> UInt8[np.ndarray, "height width channels"]:
    """The pixels of a grey or RGB picture."""
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def remove_colour(image: PILImage) -> PILImage:
    """A picture in grey, with as many channels."""
    return image.convert("L").convert(image.mode)


def blur(image: PILImage, radius: float) -> PILImage:
    """A picture blurred by Pillow's approximation of a Gaussian whose standard deviation is `radius` pixels."""
    from PIL import ImageFilter

    return image.filter(ImageFilter.GaussianBlur(radius))


def solarize(image: PILImage, threshold: int = 128) -> PILImage:
    """A picture whose levels from a threshold on are inverted."""
    from PIL import ImageOps

    return ImageOps.solarize(image, threshold)
