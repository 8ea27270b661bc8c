"""How pictures are prepared for a model."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, overload

import numpy as np
from jaxtyping import Array, Float32, Shaped, UInt8

from ._picture import to_picture

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage
else:
    PILImage = object  # annotations are read when functions are defined, and Pillow may not be installed

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's pixels."""
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
"""Mean and standard deviation that bring pixels to [-1, 1]."""
CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Mean and standard deviation of CLIP's pixels."""
_MAX_SCALED_PIXELS: Final = 10**8  # 400 MB in Pillow
# A ratio of whole numbers of pixels has a rounding error, which must not cost a pixel: 224 / (224 / 400) is below 400.
_ROUNDING: Final = 1e-6


@dataclass(frozen=True)
class Preprocess:
    """Prepares pictures for a model: resizes them to its image size, and normalises their pixels."""

    fit: Literal["cover", "squash", "pad", "border", "crop", "none"]
    """How a picture is resized: scaled by its shorter side and cropped at the centre (`"cover"`), scaled to the size
    without keeping its proportions (`"squash"`), scaled by its longer side and padded with zeros at the bottom and
    the right after normalising (`"pad"`), scaled by its longer side with a border on all sides (`"border"`), not scaled
    and cropped at the centre (`"crop"`), or not at all, so that it must have the size (`"none"`)."""
    interpolation: Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]
    """Pillow's interpolation, which antialiases, but for `"nearest"`."""
    mean: tuple[float, ...]
    """What is subtracted from each channel of pixels in [0, 1]: one number for a grey image, three for RGB."""
    std: tuple[float, ...]
    """What each channel is then divided by."""
    crop: float = 1.0
    """The fraction of the scaled side that is kept in the middle: 0.875 for 224 pixels of 256."""
    half_pixel: Literal["down", "even"] = "even"
    """Where a crop begins that would begin at half a pixel: at the even pixel, as in torchvision and timm, or at the
    lower one, as in Hugging Face's processors."""
    border: Literal["mean", "black"] = "mean"
    """The colour of the border of `fit="border"`: `mean` as a colour, as in timm, or black, as in open_clip."""
    unread: tuple[int, int] = (0, 0)
    """Rows at the bottom and columns at the right that are prepared and then cut off, because patches that do not
    divide the size leave them out: `(6, 6)` for images of 384 pixels of which 27 patches of 14 read 378."""

    def __post_init__(self) -> None:
        if not 0 < self.crop <= 1:
            raise ValueError(f"crop must be in (0, 1], got {self.crop!r}: pass 1 to keep all")
        if self.fit in ("pad", "crop", "none") and self.crop != 1:
            raise ValueError(f"crop must be 1 with fit={self.fit!r}, which is not scaled to crop it, got {self.crop!r}")
        if min(self.unread) < 0:
            raise ValueError(f"unread must have no number below zero, got {self.unread}")
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3):
            raise ValueError(
                f"mean and std must have one number for a grey image or three for RGB, got {self.mean} and {self.std}"
            )
        if not all(map(math.isfinite, self.mean + self.std)) or not all(std > 0 for std in self.std):
            raise ValueError(f"mean and std must be finite and std above zero, got {self.mean} and {self.std}")

    @property
    def channels(self) -> int:
        """1 for grey images, 3 for RGB."""
        return len(self.mean)

    def __call__(self, image: object, size: tuple[int, int]) -> Float32[np.ndarray, "height width {self.channels}"]:
        """Prepares a picture. JAX does not run, so that a forked process can do it.

        **Arguments:**

        - `image`: a Pillow picture, or a NumPy array of uint8 or uint16 with shape `(height, width)` or
            `(height, width, channels)` and 1, 3 or 4 channels. The orientation in EXIF is applied; transparent pixels
            become white; uint16 and grey of 16 bits are scaled to 8 bits (of a colour PNG of 16 bits Pillow keeps the
            upper 8); grey, palettes and CMYK become RGB, or colours grey, as the channels of `mean` say.
        - `size`: height and width of the result.

        **Returns:**

        The normalised pixels, an array of NumPy in float32, channels last.

        **Raises:** `TypeError` or `ValueError` if the image is none of these, or `size` has more than
        10^8 pixels; `MissingExtraError` if Pillow is not installed.
        """
        normal = self.normalise(self._resize(image, size))[: size[0], : size[1]]
        padding = ((0, size[0] - normal.shape[0]), (0, size[1] - normal.shape[1]), (0, 0))
        return np.pad(normal, padding)

    def resize(self, image: object, size: tuple[int, int]) -> UInt8[np.ndarray, "height width {self.channels}"]:
        """Resizes a picture without normalising it, for data sets that are stored as bytes.

        **Arguments:**

        - `image`, `size`: as in a call.

        **Returns:**

        The pixels in [0, 255]. `normalise` gives from them what a call returns.

        **Raises:** what a call raises; `ValueError` for `fit="pad"`, whose zeros come after normalising.
        """
        if self.fit == "pad":
            raise ValueError(
                "fit='pad' pads after normalising, which stored pixels cannot hold: use fit='squash' or fit='cover'"
            )
        return self._resize(image, size)[: size[0], : size[1]]

    @overload
    def normalise(
        self, pixels: Shaped[np.ndarray, "*batch height width {self.channels}"]
    ) -> Float32[np.ndarray, "*batch height width {self.channels}"]: ...
    @overload
    def normalise(
        self, pixels: Shaped[Array, "*batch height width {self.channels}"]
    ) -> Float32[Array, "*batch height width {self.channels}"]: ...
    def normalise(
        self, pixels: Shaped[Array | np.ndarray, "*batch height width {self.channels}"]
    ) -> Float32[Array | np.ndarray, "*batch height width {self.channels}"]:
        """Normalises the pixels of images.

        **Arguments:**

        - `pixels`: in [0, 255], of any dtype. An array of NumPy, or one of JAX, also under `jax.jit`.

        **Returns:**

        What a model reads, in float32: an array of NumPy for one of NumPy, which JAX does not touch, and one of JAX for
        one of JAX.
        """
        mean, std = (np.broadcast_to(np.asarray(v, np.float32), pixels.shape) for v in (self.mean, self.std))
        return (pixels.astype(np.float32) / np.float32(255) - mean) / std

    def compute_scaled_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Computes what a picture is scaled to before its middle is cropped.

        **Arguments:**

        - `size`: height and width of the result.

        **Returns:**

        The height and the width that a picture is scaled to, or covers at least.
        """
        height, width = self.compute_full_size(size)
        return math.floor(height / self.crop + _ROUNDING), math.floor(width / self.crop + _ROUNDING)

    def compute_full_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Computes what a picture has before the pixels are cut off that no patch reads.

        **Arguments:**

        - `size`: height and width of the result.

        **Returns:**

        The height and the width.
        """
        return size[0] + self.unread[0], size[1] + self.unread[1]

    def _resize(self, image: object, size: tuple[int, int]) -> UInt8[np.ndarray, "height width {self.channels}"]:
        """The pixels of the full size; of less for `fit="pad"`, where the padding is missing."""
        pixels = np.asarray(self._scale(to_picture(image, self.channels), self.compute_full_size(size), size))
        return pixels[..., None] if pixels.ndim == 2 else pixels

    def _scale(self, image: PILImage, full: tuple[int, int], size: tuple[int, int]) -> PILImage:
        from PIL import Image

        resampling = Image.Resampling[self.interpolation.upper()]
        height, width = full
        if self.fit == "none" and (image.height, image.width) != full:
            raise ValueError(
                f"image must have the size {height} x {width} with fit='none', got {image.height} x {image.width}: "
                "resize it, or use another fit"
            )
        if self.fit in ("none", "crop"):
            return self._cut(image, full)
        if self.fit == "pad":
            scale = min(height / image.height, width / image.width)
            # Half a pixel is rounded up, as in SAM's ResizeLongestSide.
            inner = int(image.width * scale + 0.5), int(image.height * scale + 0.5)
            return image.resize((max(inner[0], 1), max(inner[1], 1)), resampling)
        down, across = self.compute_scaled_size(size)
        # One side is scaled to the size, the other rounded down to whole pixels, as in torchvision's Resize, or to the
        # nearest ones, as in timm's and open_clip's ResizeKeepRatio.
        to_pixels = int if down == across and self.fit == "cover" else round
        by_width = image.width * down <= image.height * across
        if self.fit == "squash":
            wide, high = across, down
        elif by_width != (self.fit == "border"):
            wide, high = across, max(to_pixels(across * image.height / image.width), 1)
        else:
            wide, high = max(to_pixels(down * image.width / image.height), 1), down
        if self.fit == "cover":
            wide, high = max(wide, width), max(high, height)
        if wide * high > _MAX_SCALED_PIXELS:
            middle = _cut_to_middle(image, (down, across))
            if middle.size == image.size:
                raise ValueError(f"size must have at most {_MAX_SCALED_PIXELS:,} pixels, got {height} x {width}")
            return self._scale(middle, full, size)
        return self._cut(image.resize((wide, high), resampling), full)

    def _cut(self, image: PILImage, size: tuple[int, int]) -> PILImage:
        """The middle of a picture. What it lacks is border: half of it before the picture, or the smaller half."""
        from PIL import Image

        begin = round if self.half_pixel == "even" else math.floor
        corner = [
            begin((old - new) / 2) if old >= new else -((new - old) // 2)
            for old, new in ((image.width, size[1]), (image.height, size[0]))
        ]
        if image.width >= size[1] and image.height >= size[0]:
            return image.crop((*corner, corner[0] + size[1], corner[1] + size[0]))
        colour = [round(255 * level) for level in self.mean] if self.fit == "border" and self.border == "mean" else 0
        canvas = Image.new(image.mode, (size[1], size[0]), tuple(colour) if isinstance(colour, list) else colour)
        canvas.paste(image, (-corner[0], -corner[1]))
        return canvas


def _cut_to_middle(image: PILImage, covered: tuple[int, int]) -> PILImage:
    """As much of the middle of a narrow picture as a crop at the centre reads after the picture covers a size."""
    scale = max(covered[0] / image.height, covered[1] / image.width)
    margin = math.ceil(4 * max(1, 1 / scale))  # what the interpolation reads beside a pixel
    sides = [
        min(n, math.ceil(side / scale) + 2 * margin)
        for side, n in zip(covered, (image.height, image.width), strict=True)
    ]
    # An even number of pixels is cut off, so that the centre stays where it is.
    high, wide = (side + (n - side) % 2 for side, n in zip(sides, (image.height, image.width), strict=True))
    left, top = (image.width - wide) // 2, (image.height - high) // 2
    return image.crop((left, top, left + wide, top + high))
