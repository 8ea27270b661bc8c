"""The rule by which images of many sizes come to one."""

from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import UInt8

from .._check import check_positive
from .._extras import require

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage
else:
    PILImage = object  # the annotations are read when the functions are defined, where Pillow may not be installed

MAX_PIXELS: Final = 50_000_000
"""How many pixels an image may have; a larger one is refused before it is decoded."""


def resize(image: PILImage, size: tuple[int, int]) -> PILImage:
    """Scales an image so that it just covers the size, and cuts what stands over on both sides alike.

    Of a square size this is: the shorter side, then the centre crop. Bicubic, antialiased when it shrinks. The crop
    comes first, in fractions of a pixel, so that the proportions are exact and a long strip costs no memory.
    """
    from PIL import Image

    height, width = size
    scale = min(image.width / width, image.height / height)
    left, top = (image.width - scale * width) / 2, (image.height - scale * height) / 2
    box = (left, top, left + scale * width, top + scale * height)
    return image.resize((width, height), Image.Resampling.BICUBIC, box=box)


def resize_all(
    images: UInt8[np.ndarray, "images height width"], size: tuple[int, int] | None
) -> UInt8[np.ndarray, "images new_height new_width"]:
    """Grey images resized by the same rule; `None` leaves them."""
    if size is None or size == images.shape[1:]:
        return images
    check_positive(image_size=size)
    require("PIL", extra="train")
    from PIL import Image

    return np.stack([np.asarray(resize(Image.fromarray(image), size)) for image in images])
