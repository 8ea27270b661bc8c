"""Some of fifteen changes, of one strength."""

from dataclasses import dataclass
from typing import Final, Literal, final

import numpy as np

from ..._check import check_not_negative, check_positive, check_probability
from .._preprocess import Preprocess
from ._base import AbstractTransform, PILImage, solarize

_LARGEST: Final = 10.0
_OPERATIONS: Final = (
    "auto_contrast",
    "equalize",
    "invert",
    "rotate",
    "posterize",
    "solarize",
    "solarize_add",
    "color",
    "contrast",
    "brightness",
    "sharpness",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)


@final
@dataclass(frozen=True, kw_only=True)
class RandAugment(AbstractTransform):
    """Some of fifteen changes of contrast, colour and place, all of one strength: timm's `RandAugment`. The defaults
    are its `rand-m9-mstd0.5-inc1`, with which DeiT and MAE were trained.

    One difference: `posterize` keeps at least one bit of each colour, because Pillow 13 refuses to keep none, as timm
    does.

    ??? cite

        Cubuk et al., *RandAugment: Practical Automated Data Augmentation with a Reduced Search Space*, NeurIPS 2020,
        arXiv:1909.13719.
    """

    preprocess: Preprocess
    """The preprocessing. Its mean is the colour outside of a rotated or shifted picture."""
    layers: int = 2
    """The number of changes, one after the other. The same change can be drawn twice."""
    magnitude: float = 9.0
    """The strength of all changes, at most 10."""
    magnitude_std: float = 0.5
    """The standard deviation of the strength of a change."""
    probability: float = 0.5
    """The probability that a change that was drawn is made; 1 in the paper."""
    increasing: bool = True
    """Whether all changes grow with the strength. In the paper `posterize` and `solarize` fall, and colour, contrast,
    brightness and sharpness go from little to much."""
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bicubic"
    """Pillow's interpolation."""

    def __post_init__(self) -> None:
        check_positive(layers=self.layers)
        check_not_negative(magnitude=self.magnitude, magnitude_std=self.magnitude_std)
        check_probability(probability=self.probability)
        if self.magnitude > _LARGEST:
            raise ValueError(f"magnitude must be at most 10, got {self.magnitude}")

    def __call__(self, image: PILImage, *, random: np.random.Generator) -> PILImage:
        for number in map(int, random.integers(len(_OPERATIONS), size=self.layers)):
            if self.probability < 1 and random.random() >= self.probability:
                continue
            magnitude = self.magnitude
            if self.magnitude_std:
                magnitude = min(max(random.normal(magnitude, self.magnitude_std), 0.0), _LARGEST)
            image = self._change(_OPERATIONS[number], image, magnitude / _LARGEST, random)
        return image

    def _change(self, name: str, image: PILImage, share: float, random: np.random.Generator) -> PILImage:
        from PIL import ImageOps

        match name:
            case "auto_contrast":
                return ImageOps.autocontrast(image)
            case "equalize":
                return ImageOps.equalize(image)
            case "invert":
                return ImageOps.invert(image)
            case "posterize":
                bits = int(share * 4)
                return ImageOps.posterize(image, max(1, 4 - bits if self.increasing else bits))
            case "solarize":
                threshold = int(share * 256)
                return solarize(image, 256 - threshold if self.increasing else threshold)
            case "solarize_add":
                added = int(share * 110)
                levels = [min(255, level + added) if level < 128 else level for level in range(256)]
                return image.point(levels * len(image.getbands()))
            case "color" | "contrast" | "brightness" | "sharpness":
                return self._enhance(name, image, share, random)
            case _:
                return self._warp(name, image, share, random)

    def _enhance(self, name: str, image: PILImage, share: float, random: np.random.Generator) -> PILImage:
        from PIL import ImageEnhance

        enhancers = {
            "color": ImageEnhance.Color,
            "contrast": ImageEnhance.Contrast,
            "brightness": ImageEnhance.Brightness,
            "sharpness": ImageEnhance.Sharpness,
        }
        factor = max(0.1, 1.0 + _draw_sign(share * 0.9, random)) if self.increasing else share * 1.8 + 0.1
        return enhancers[name](image).enhance(factor)

    def _warp(self, name: str, image: PILImage, share: float, random: np.random.Generator) -> PILImage:
        from PIL import Image

        mean = [min(255, round(255 * level)) for level in self.preprocess.mean]
        fill = tuple(mean) if len(mean) > 1 else mean[0]
        resampling = Image.Resampling[self.interpolation.upper()]
        if name == "rotate":
            return image.rotate(_draw_sign(share * 30, random), resampling, fillcolor=fill)
        amount = _draw_sign(share * (0.3 if name.startswith("shear") else 0.45), random)
        matrix = {
            "shear_x": (1, amount, 0, 0, 1, 0),
            "shear_y": (1, 0, 0, amount, 1, 0),
            "translate_x": (1, 0, amount * image.width, 0, 1, 0),
            "translate_y": (1, 0, 0, 0, 1, amount * image.height),
        }[name]
        return image.transform(image.size, Image.Transform.AFFINE, matrix, resampling, fillcolor=fill)


def _draw_sign(amount: float, random: np.random.Generator) -> float:
    return -amount if random.random() > 0.5 else amount
