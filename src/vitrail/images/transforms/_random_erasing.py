"""Boxes of noise."""

import math
from dataclasses import dataclass
from typing import Literal, final

import numpy as np

from ..._check import check_probability, check_range
from .._crops import ATTEMPTS
from .._preprocess import Preprocess
from ._base import AbstractTransform, PILImage


@final
@dataclass(frozen=True, kw_only=True)
class RandomErasing(AbstractTransform):
    """Fills a box of random area, proportions and place: timm's `RandomErasing`. Put it last.

    timm fills it after normalising, in floating point. Here the colours are rounded to 8 bits, and lie between black
    and white.

    ??? cite

        Zhong et al., *Random Erasing Data Augmentation*, AAAI 2020, arXiv:1708.04896.
    """

    preprocess: Preprocess
    """The preprocessing, for the mean and the standard deviation of each channel."""
    probability: float = 0.25
    """The probability that a picture gets a box."""
    area: tuple[float, float] = (0.02, 1 / 3)
    """The smallest and the largest share of the picture's area."""
    ratio: tuple[float, float] = (0.3, 1 / 0.3)
    """The smallest and the largest ratio of height to width."""
    fill: Literal["noise", "mean"] = "noise"
    """`"noise"` for a normal random colour of each pixel, `"mean"` for the mean colour: timm's `pixel` and `const`."""

    def __post_init__(self) -> None:
        check_probability(probability=self.probability)
        check_range(1.0, area=self.area)
        check_range(ratio=self.ratio)

    def __call__(self, image: PILImage, *, random: np.random.Generator) -> PILImage:
        from PIL import Image

        if random.random() >= self.probability or (box := self._draw_box(image.height, image.width, random)) is None:
            return image
        top, left, tall, wide = box
        shape = tall, wide, self.preprocess.channels
        drawn = random.normal(size=shape) if self.fill == "noise" else np.zeros(shape)
        levels = np.round(255 * (drawn * self.preprocess.std + self.preprocess.mean))
        colours = np.clip(levels, 0, 255).astype(np.uint8)
        erased = image.copy()
        erased.paste(Image.fromarray(colours.squeeze(-1) if shape[-1] == 1 else colours), (left, top))
        return erased

    def _draw_box(self, height: int, width: int, random: np.random.Generator) -> tuple[int, int, int, int] | None:
        low, high = (math.log(number) for number in self.ratio)
        for _ in range(ATTEMPTS):
            area = random.uniform(*self.area) * height * width
            ratio = math.exp(random.uniform(low, high))
            tall, wide = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < wide < width and 0 < tall < height:
                top = int(random.integers(height - tall + 1))
                return top, int(random.integers(width - wide + 1)), tall, wide
        return None
