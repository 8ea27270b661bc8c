"""Mirror images."""

from dataclasses import dataclass
from typing import final

import numpy as np

from ..._check import check_probability
from ._base import AbstractTransform, PILImage


@final
@dataclass(frozen=True, kw_only=True)
class HorizontalFlip(AbstractTransform):
    """Mirrors a picture left to right: torchvision's `RandomHorizontalFlip`."""

    probability: float = 0.5
    """The probability of a flip."""

    def __post_init__(self) -> None:
        check_probability(probability=self.probability)

    def __call__(self, image: PILImage, *, random: np.random.Generator) -> PILImage:
        from PIL import Image

        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < self.probability else image
