"""The size of a picture whose proportions are kept and whose patches are counted."""

import math
from typing import Final

_EPS: Final = 1e-5
_MOST: Final = 100.0


def compute_native_size(size: tuple[int, int], patch_size: tuple[int, int], max_patches: int) -> tuple[int, int]:
    """The largest size of a picture in whole patches that has at most so many of them.

    Each side is scaled by the same number, up to 100, and rounded up to whole patches. The search for that number stops
    where the original does, because a rounding may decide.

    Source: `get_image_size_for_max_num_patches` of transformers' `siglip2`, and timm's `get_image_size_for_seq`.
    """

    def count_patches(scale: float) -> tuple[int, int]:
        rows, cols = (max(math.ceil(side * scale / patch), 1) for side, patch in zip(size, patch_size, strict=True))
        return rows, cols

    low, high = _EPS / 10, _MOST
    while high - low >= _EPS:
        middle = (low + high) / 2
        low, high = (middle, high) if math.prod(count_patches(middle)) <= max_patches else (low, middle)
    rows, cols = count_patches(low)
    return rows * patch_size[0], cols * patch_size[1]
