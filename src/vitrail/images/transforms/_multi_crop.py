"""Crops of two sizes of one picture."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, final

import numpy as np
from jaxtyping import UInt8

from ..._check import check_not_negative, check_positive, check_range
from ._base import AbstractTransform, PILImage, blur, remove_colour, solarize, to_pixels
from ._color_jitter import ColorJitter
from ._horizontal_flip import HorizontalFlip
from ._random_resized_crop import RandomResizedCrop

_FLIP: Final = HorizontalFlip()
_JITTER: Final = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, probability=0.8)
_GREY: Final = 0.2
# How often a crop is blurred and solarised: the first and the second large one, and each small one.
_LARGE: Final = ((1.0, 0.0), (0.1, 0.2))
_SMALL: Final = (0.5, 0.0)


@final
@dataclass(frozen=True, kw_only=True)
class MultiCrop(AbstractTransform):
    """Two large crops of a picture and several small ones: DINO's `DataAugmentationDINO`.

    Each crop is flipped and its colours are changed at random. Some crops become grey, blurred or solarised. The result
    has the arrays `"large"` and `"small"`, each with the shape `(crops, height, width, channels)`.

    ??? cite

        Caron et al., *Emerging Properties in Self-Supervised Vision Transformers*, ICCV 2021, arXiv:2104.14294,
        appendix; the crops of *Unsupervised Learning of Visual Features by Contrasting Cluster Assignments*, 2020,
        arXiv:2006.09882, section 3.2; the changes of *Bootstrap Your Own Latent*, 2020, arXiv:2006.07733, appendix B.
    """

    at_own_size: ClassVar[bool] = True
    makes_crops: ClassVar[bool] = True

    image_size: tuple[int, int]
    """Height and width of the large crops in pixels."""
    patch_size: tuple[int, int] = (1, 1)
    """Height and width of a patch in pixels: small crops have whole patches."""
    num_small: int = 8
    """The number of small crops."""
    small_size: tuple[int, int] | None = None
    """Height and width of the small crops in pixels; `None` for the whole number of patches nearest to 3/7 of the large
    ones."""
    large: tuple[float, float] = (0.4, 1.0)
    """The smallest and the largest share of the picture's area in a large crop; 0.32 and 1 in DINOv2."""
    small: tuple[float, float] = (0.05, 0.4)
    """The smallest and the largest share of the picture's area in a small crop; 0.05 and 0.32 in DINOv2."""

    def __post_init__(self) -> None:
        check_positive(image_size=self.image_size, patch_size=self.patch_size, small_size=self.small_size or 1)
        check_not_negative(num_small=self.num_small)
        check_range(1.0, large=self.large, small=self.small)

    def __call__(
        self, image: PILImage, *, random: np.random.Generator
    ) -> Mapping[str, UInt8[np.ndarray, "crops height width channels"]]:
        high, wide = (
            max(1, round(side / patch * 3 / 7)) * patch
            for side, patch in zip(self.image_size, self.patch_size, strict=True)
        )
        size = self.small_size or (high, wide)
        kinds = {
            "large": (RandomResizedCrop(image_size=self.image_size, scale=self.large), _LARGE),
            "small": (RandomResizedCrop(image_size=size, scale=self.small), (_SMALL,) * self.num_small),
        }
        made: dict[str, UInt8[np.ndarray, "crops height width channels"]] = {}
        for name, (crop, rates) in kinds.items():
            pixels = [to_pixels(_change(crop(image, random=random), *rate, random)) for rate in rates]
            made[name] = np.asarray(pixels, np.uint8).reshape(-1, *crop.image_size, len(image.getbands()))
        return made


def _change(image: PILImage, blurred: float, solarized: float, random: np.random.Generator) -> PILImage:
    """A crop in other colours, blurred and solarised as often as said."""
    image = _JITTER(_FLIP(image, random=random), random=random)
    if random.random() < _GREY:
        image = remove_colour(image)
    if random.random() < blurred:
        image = blur(image, random.uniform(0.1, 2.0))
    return solarize(image) if random.random() < solarized else image
