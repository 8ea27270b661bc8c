"""The three changes of DeiT III."""

from dataclasses import dataclass
from typing import final

import numpy as np

from ..._check import check_range
from ._base import AbstractTransform, PILImage, blur, remove_colour, solarize


@final
@dataclass(frozen=True, kw_only=True)
class ThreeAugment(AbstractTransform):
    """Solarises a picture, removes its colours, or blurs it, each with the same probability: timm's `3a`.

    In the paper a crop and a flip come before it, and a colour jitter of 0.3 after it.

    ??? cite

        Touvron et al., *DeiT III: Revenge of the ViT*, ECCV 2022, arXiv:2204.07118, section 3.2.
    """

    radius: tuple[float, float] = (0.1, 2.0)
    """The smallest and the largest radius of the blur in pixels."""

    def __post_init__(self) -> None:
        check_range(radius=self.radius)

    def __call__(self, image: PILImage, *, random: np.random.Generator) -> PILImage:
        match int(random.integers(3)):
            case 0:
                return solarize(image)
            case 1:
                return remove_colour(image)
            case _:
                return blur(image, random.uniform(*self.radius))
