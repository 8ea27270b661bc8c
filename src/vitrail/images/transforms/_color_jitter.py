"""Changes of brightness and colour."""

from dataclasses import dataclass
from typing import final

import numpy as np

from ..._check import check_not_negative, check_probability
from ._base import AbstractTransform, PILImage


@final
@dataclass(frozen=True, kw_only=True)
class ColorJitter(AbstractTransform):
    """Changes brightness, contrast, saturation and hue, in a random order: torchvision's `ColorJitter`."""

    brightness: float = 0.4
    """The range of the factor: 0.4 for a factor between 0.6 and 1.4."""
    contrast: float = 0.4
    """The range of the factor: 0.4 for a factor between 0.6 and 1.4."""
    saturation: float = 0.4
    """The range of the factor: 0.4 for a factor between 0.6 and 1.4."""
    hue: float = 0.0
    """The largest turn of the circle of colours, in either direction, as a fraction of it; at most 0.5."""
    probability: float = 1.0
    """The probability that a picture is changed."""

    def __post_init__(self) -> None:
        check_not_negative(brightness=self.brightness, contrast=self.contrast, saturation=self.saturation, hue=self.hue)
        check_probability(probability=self.probability)
        if self.hue > 0.5:
            raise ValueError(f"hue must be at most 0.5, half of the circle of colours, got {self.hue}")

    def __call__(self, image: PILImage, *, random: np.random.Generator) -> PILImage:
        from PIL import ImageEnhance

        if self.probability < 1 and random.random() >= self.probability:
            return image
        order = random.permutation(4)
        most = self.brightness, self.contrast, self.saturation
        factors = [random.uniform(max(0.0, 1 - number), 1 + number) for number in most]
        turn = random.uniform(-self.hue, self.hue)
        enhancers = ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color
        for change in map(int, order):
            if change < 3 and most[change]:
                image = enhancers[change](image).enhance(factors[change])
            elif change == 3 and self.hue and image.mode == "RGB":
                image = _turn_hue(image, turn)
        return image


def _turn_hue(image: PILImage, turn: float) -> PILImage:
    """An RGB picture whose colours are turned by a fraction of their circle."""
    from PIL import Image

    hue, saturation, value = image.convert("HSV").split()
    turned = np.asarray(hue) + np.uint8(int(turn * 255) % 256)
    return Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert("RGB")
