"""How pictures are prepared for a model."""

import math
from dataclasses import dataclass, replace
from typing import Final, Literal, overload

import numpy as np
from jaxtyping import Array, Float32, Shaped, UInt8

from .._check import check_positive
from ._picture import split_bands, to_picture
from ._scale import scale_picture

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's pixels."""
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
"""Mean and standard deviation that bring pixels to [-1, 1]."""
CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Mean and standard deviation of CLIP's pixels."""
# A ratio of whole numbers of pixels has a rounding error, which must not cost a pixel: 224 / (224 / 400) is below 400.
_ROUNDING: Final = 1e-6


@dataclass(frozen=True)
class Preprocess:
    """Prepares pictures for a model: resizes them to its image size, and normalises their pixels."""

    fit: Literal["cover", "squash", "pad", "keep", "native", "border", "crop", "none"]
    """How a picture is resized to the size of the model:

    - `"cover"`: scaled by its shorter side and cropped at the centre.
    - `"squash"`: scaled to the size without keeping its proportions.
    - `"pad"`: scaled by its longer side and padded with zeros at the bottom and the right after normalising.
    - `"border"`: scaled by its longer side, with a border on all sides.
    - `"crop"`: not scaled, and cropped at the centre.
    - `"none"`: not at all, so that it must have the size.
    - `"keep"`: scaled by the side that changes less. The result has the proportions of the picture and seldom the size,
      as for DPT and Depth Anything.
    - `"native"`: scaled in its proportions until it has as many patches as it may have. `vitrail.pack` makes a batch of
      such images.
    """
    interpolation: Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]
    """The interpolation of Pillow. All but `"nearest"` antialias."""
    mean: tuple[float, ...]
    """The mean of each channel, subtracted from pixels in [0, 1]: one number for grey images, three for RGB, another
    number of them for arrays with other channels, such as satellite images."""
    std: tuple[float, ...]
    """The standard deviation of each channel, by which the difference is divided. As many numbers as `mean`."""
    crop: float = 1.0
    """The fraction of each side that is kept in the middle after scaling: 0.875 for 224 pixels of 256."""
    half_pixel: Literal["down", "even"] = "even"
    """Which pixel a crop begins at if its exact place is between two pixels: the even one, as in torchvision and timm,
    or the lower one, as in Hugging Face's processors."""
    multiple: int = 1
    """Both sides of the result of `fit="keep"` are rounded to multiples of this number: 14 for patches of 14 pixels."""
    patch_size: tuple[int, int] | None = None
    """With `fit="native"`, height and width of a patch in pixels: each side is rounded up to whole patches."""
    max_patches: int | None = None
    """With `fit="native"`, how many patches an image has at most."""
    border: Literal["mean", "black"] = "mean"
    """The colour of the border of `fit="border"`: the colour of `mean`, as in timm, or black, as in open_clip."""
    unread: tuple[int, int] = (0, 0)
    """How many rows at the bottom and columns at the right are cut off after scaling, for models whose patches do not
    divide the image size: `(6, 6)` for 384 pixels, of which 27 patches of 14 pixels cover 378."""

    def __post_init__(self) -> None:
        if not 0 < self.crop <= 1:
            raise ValueError(f"crop must be in (0, 1], got {self.crop!r}: pass 1 to keep all")
        if self.fit in ("pad", "keep", "native", "crop", "none") and self.crop != 1:
            raise ValueError(f"crop must be 1 with fit={self.fit!r}, which is not scaled to crop it, got {self.crop!r}")
        check_positive(multiple=self.multiple)
        if self.fit != "keep" and self.multiple != 1:
            raise ValueError(f"multiple must be 1 unless fit='keep', got {self.multiple} with fit={self.fit!r}")
        given = [number is not None for number in (self.patch_size, self.max_patches)]
        if given != [self.fit == "native"] * 2:
            raise ValueError(
                "patch_size and max_patches must be given with fit='native' and with no other, got "
                f"fit={self.fit!r}, patch_size={self.patch_size} and max_patches={self.max_patches}"
            )
        if self.patch_size is not None and self.max_patches is not None:
            check_positive(patch_size=self.patch_size, max_patches=self.max_patches)
        if min(self.unread) < 0 or (self.fit in ("keep", "native") and self.unread != (0, 0)):
            raise ValueError(
                "unread must have no number below zero, and be (0, 0) for fit='keep' and fit='native', got "
                f"{self.unread}"
            )
        if not self.mean or len(self.mean) != len(self.std):
            raise ValueError(f"mean and std must have one number for each channel, got {self.mean} and {self.std}")
        if not all(map(math.isfinite, self.mean + self.std)) or not all(std > 0 for std in self.std):
            raise ValueError(f"mean and std must be finite and std above zero, got {self.mean} and {self.std}")

    @property
    def channels(self) -> int:
        """The number of channels: 1 for grey images, 3 for RGB, another number for other arrays."""
        return len(self.mean)

    def __call__(self, image: object, size: tuple[int, int]) -> Float32[np.ndarray, "height width {self.channels}"]:
        """Prepares a picture, with Pillow and NumPy and without JAX, so it also works in a forked process.

        The orientation in EXIF is applied, and transparent pixels become white. The picture becomes grey or RGB, as
        many channels as `mean` has. 16 bits a channel become 8.

        **Arguments:**

        - `image`: a Pillow picture, or a NumPy array of uint8 or uint16 with shape `(height, width)` or
            `(height, width, channels)` and 1, 3 or 4 channels. If `mean` has another number of channels than 1 and 3:
            an array with that many channels, each of which is resized alone.
        - `size`: height and width of the result in pixels. With `fit="keep"`, one of both sides has this size. With
            `fit="native"`, it is not read: each picture has its own size.

        **Returns:**

        The normalised pixels, channels last: a NumPy array.

        **Raises:** `TypeError` or `ValueError` if the image is none of these, or `size` has more than
        10^8 pixels; `MissingExtraError` if Pillow is not installed.
        """
        normal = self.normalise(self._resize(image, size))
        if self.fit in ("keep", "native"):
            return normal
        normal = normal[: size[0], : size[1]]
        padding = ((0, size[0] - normal.shape[0]), (0, size[1] - normal.shape[1]), (0, 0))
        return np.pad(normal, padding)

    def resize(self, image: object, size: tuple[int, int]) -> UInt8[np.ndarray, "height width {self.channels}"]:
        """Resizes a picture without normalising it, for data sets that are stored as bytes.

        **Arguments:**

        - `image`, `size`: as in `__call__`.

        **Returns:**

        The pixels in [0, 255]. `normalise` turns them into what `__call__` returns.

        **Raises:** what `__call__` raises; `ValueError` for `fit="pad"`, which adds zeros after normalising, and for
        `fit="keep"` and `fit="native"`, which give each picture its own size.
        """
        if self.fit in ("keep", "native"):
            raise ValueError(
                f"fit={self.fit!r} gives each picture a size of its own, and stored pixels have one: use fit='squash' "
                "or fit='cover'"
            )
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

        - `pixels`: one image or a batch, in [0, 255], of any dtype. A NumPy or a JAX array, also under `jax.jit`.

        **Returns:**

        The input of a model. A NumPy array gives a NumPy array, computed without JAX; a JAX array gives a JAX array.
        """
        shape = (*(1,) * (pixels.ndim - 1), self.channels)  # not that of a batch, whose constants JAX would keep
        mean, std = (np.asarray(v, np.float32).reshape(shape) for v in (self.mean, self.std))
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

    def squash(self) -> "Preprocess":
        """Returns the same with `fit="squash"`, which gives each picture the full size, in place of a `fit` that keeps
        its proportions."""
        return replace(self, fit="squash", multiple=1, patch_size=None, max_patches=None)

    def compute_kept_size(self, picture: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
        """Computes what a picture is scaled to by `fit="keep"`, as Hugging Face's `DPTImageProcessor` does it.

        **Arguments:**

        - `picture`: height and width of the picture.
        - `size`: what one of them is scaled to, the one that changes less.

        **Returns:**

        Height and width of the result, multiples of `multiple`.
        """
        down, across = (new / old for new, old in zip(size, picture, strict=True))
        scale = across if abs(1 - across) < abs(1 - down) else down
        height, width = (max(round(scale * side / self.multiple), 1) * self.multiple for side in picture)
        return height, width

    def compute_padded_size(self, picture: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
        """Computes what a picture is scaled to before it is padded.

        **Arguments:**

        - `picture`: height and width of the picture.
        - `size`: height and width of the result.

        **Returns:**

        The height and the width of what is not padding.

        **Raises:** `ValueError` if the picture is not padded.
        """
        if self.fit != "pad":
            raise ValueError(f"fit must be 'pad' for a picture to have padding, got {self.fit!r}")
        scale = min(size[0] / picture[0], size[1] / picture[1])
        # Half a pixel is rounded up, as in SAM's ResizeLongestSide.
        height, width = (max(int(side * scale + 0.5), 1) for side in picture)
        return height, width

    def _resize(self, image: object, size: tuple[int, int]) -> UInt8[np.ndarray, "height width {self.channels}"]:
        """The pixels of the full size; of less for `fit="pad"`, where the padding is missing."""
        if self.channels not in (1, 3):
            bands = split_bands(image, self.channels)
            levels = zip(bands, self.mean, self.std, strict=True)
            resized = [replace(self, mean=(mean,), std=(std,))._resize(band, size) for band, mean, std in levels]
            return np.concatenate(resized, axis=-1)
        pixels = np.asarray(scale_picture(self, to_picture(image, self.channels), size))
        return pixels[..., None] if pixels.ndim == 2 else pixels
