"""How pictures have to be prepared for a model."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._check import check_above_zero
from .._pixels import to_rgb

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage
else:
    PILImage = object  # the annotations are read when the functions are defined, where Pillow may not be installed

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_MOST_PIXELS: Final = 10**8  # 400 MB in Pillow
# A ratio of whole numbers of pixels is off in its last digit, which must not cost one: 224 / (224 / 400) is under 400.
_ROUNDING: Final = 1e-6


@dataclass(frozen=True)
class Preprocess:
    """How pictures have to be prepared: brought to the model's size, and normalised."""

    fit: Literal["cover", "squash", "pad"]
    """How a picture comes to the size: the shorter side scaled to it and what stands over cut off (`"cover"`), both
    sides scaled each by itself (`"squash"`), or the longer side scaled to it and zeros added below and on the right
    after normalising (`"pad"`)."""
    interpolation: Literal["bilinear", "bicubic", "lanczos"]
    """Pillow's, which antialiases."""
    mean: tuple[float, float, float]
    """What is subtracted from red, green and blue in [0, 1]."""
    std: tuple[float, float, float]
    """What they are then divided by."""
    crop: float = 1.0
    """The side that is kept in the middle, of the side that was scaled to: 0.875 for 224 pixels of 256."""
    half_pixel: Literal["down", "even"] = "even"
    """Where the crop begins when it would begin at half a pixel: at the even one of the two, as in torchvision and
    timm, or at the lower, as in Hugging Face's processors."""

    def __post_init__(self) -> None:
        if not 0 < self.crop <= 1:
            raise ValueError(f"crop must be in (0, 1], but {self.crop!r} came: pass 1 to keep all")
        if not all(math.isfinite(number) for number in self.mean):
            raise ValueError(f"mean must be finite, but {self.mean!r} came")
        for number in self.std:
            check_above_zero(std=number)

    def __call__(self, image: object, size: tuple[int, int]) -> Float[Array, "height width 3"]:
        """**Arguments:**

        - `image`: a picture of Pillow's, or a NumPy array: `(height, width)` or `(height, width, channels)` with one,
            three or four channels, uint8 or uint16. It is turned upright as its EXIF says; transparent pixels lie over
            white; uint16 and grey of 16 bits are scaled to 8, while of a colour PNG of 16 bits Pillow itself keeps the
            upper 8; grey, palettes and CMYK become RGB.
        - `size`: height and width of what comes out.

        **Returns:**

        The normalised pixels in float32, channels last.

        **Raises:** `TypeError` or `ValueError` where the image is none of these, or so narrow that it would be scaled
        to more than 10^8 pixels; `MissingExtraError` where Pillow is not installed.
        """
        scaled = self._scaled(to_rgb(image), size)
        pixels = np.asarray(scaled, np.float32) / 255
        normal = (pixels - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        if self.fit == "pad":
            normal = np.pad(normal, ((0, size[0] - normal.shape[0]), (0, size[1] - normal.shape[1]), (0, 0)))
        return jnp.asarray(normal)

    def _scaled(self, image: PILImage, size: tuple[int, int]) -> PILImage:
        from PIL import Image

        resampling = Image.Resampling[self.interpolation.upper()]
        height, width = size
        if self.fit == "pad":
            scale = min(height / image.height, width / image.width)
            # Half a pixel is rounded up, as in SAM's ResizeLongestSide.
            inner = int(image.width * scale + 0.5), int(image.height * scale + 0.5)
            return image.resize((max(inner[0], 1), max(inner[1], 1)), resampling)
        across, down = (math.floor(n / self.crop + _ROUNDING) for n in (width, height))
        if self.fit == "squash":
            wide, high = across, down
        # One side becomes just what is asked for, and the other is cut to whole pixels, as in torchvision's Resize.
        elif image.width * down <= image.height * across:
            wide, high = across, max(int(across * image.height / image.width), height)
        else:
            wide, high = max(int(down * image.width / image.height), width), down
        if wide * high > _MOST_PIXELS:
            raise ValueError(
                f"image must be less narrow, but {image.height} x {image.width} pixels came, which to cover {height} x "
                f"{width} would be scaled to {high:,} x {wide:,}: crop it first"
            )
        begins = round if self.half_pixel == "even" else math.floor
        left, top = begins((wide - width) / 2), begins((high - height) / 2)
        return image.resize((wide, high), resampling).crop((left, top, left + width, top + height))
