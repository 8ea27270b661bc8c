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

    Several transforms are a tuple. Each gets what the one before it returned.
    """

    at_own_size: ClassVar[bool] = False
    """Whether it takes a picture at its original size, as a transform that crops does. If this is false for the first
    of a tuple, the `Preprocess` of the data set resizes the picture before."""
    makes_crops: ClassVar[bool] = False
    """Whether it returns arrays of crops instead of a picture. Such a transform must be the last of a tuple."""

    @abc.abstractmethod
    def __call__(
        self, image: PILImage, *, random: np.random.Generator
    ) -> PILImage | Mapping[str, UInt8[np.ndarray, "crops height width channels"]]:
        """Changes a picture.

        **Arguments:**

        - `image`: a Pillow picture, grey or RGB. It is not modified.
        - `random`: NumPy's generator, for all that is random: the same state gives the same result.

        **Returns:**

        The changed picture, or arrays of crops by name, with pixels in [0, 255].
        """


@dataclass(frozen=True, kw_only=True)
class TransformContext:
    """What a transform is built for. The class of a transform gets those of the fields that its `__init__` names."""

    image_size: tuple[int, int]
    """Height and width of the images that the model takes, in pixels."""
    patch_size: tuple[int, int]
    """Height and width of the patches of the model, in pixels."""
    preprocess: Preprocess
    """The preprocessing of the images, for the number of channels, their mean and their standard deviation."""


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
