"""Crops of random size."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import numpy as np

from ..._check import check_positive, check_range
from .._crops import ATTEMPTS, find_middle
from ._base import AbstractTransform, PILImage


@final
@dataclass(frozen=True, kw_only=True)
class RandomResizedCrop(AbstractTransform):
    """A box of random area, proportions and place, resized to one size: torchvision's `RandomResizedCrop`.

    ??? cite

        Szegedy et al., *Going Deeper with Convolutions*, CVPR 2015, arXiv:1409.4842, section 6.
    """

    at_own_size: ClassVar[bool] = True

    image_size: tuple[int, int]
    """Height and width of the result in pixels."""
    scale: tuple[float, float] = (0.08, 1.0)
    """The smallest and the largest share of the picture's area."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """The smallest and the largest ratio of width to height."""
    interpolation: Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"] = "bicubic"
    """Pillow's interpolation."""

    def __post_init__(self) -> None:
        check_positive(image_size=self.image_size)
        check_range(1.0, scale=self.scale)
        check_range(ratio=self.ratio)

    def __call__(self, image: PILImage, *, random: np.random.Generator) -> PILImage:
        from PIL import Image

        top, left, tall, wide = self.draw_box(image.height, image.width, random=random)
        cut = image.crop((left, top, left + wide, top + tall))
        return cut.resize((self.image_size[1], self.image_size[0]), Image.Resampling[self.interpolation.upper()])

    def draw_box(self, height: int, width: int, *, random: np.random.Generator) -> tuple[int, int, int, int]:
        """Draws a box: the first of ten random ones that fits, or the largest box in the middle with an allowed ratio.

        **Arguments:**

        - `height`, `width`: the size of the picture in pixels.
        - `random`: NumPy's generator, for the box.

        **Returns:**

        Top, left, height and width in pixels.
        """
        low, high = (math.log(number) for number in self.ratio)
        for _ in range(ATTEMPTS):
            area = height * width * random.uniform(*self.scale)
            ratio = math.exp(random.uniform(low, high))
            wide, tall = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < wide <= width and 0 < tall <= height:
                top = int(random.integers(height - tall + 1))
                return top, int(random.integers(width - wide + 1)), tall, wide
        return find_middle(height, width, self.ratio)
