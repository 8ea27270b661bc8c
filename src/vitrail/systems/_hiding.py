"""Which patches the student does not see."""

import math
import random
from typing import Final

import numpy as np
from jaxtyping import Bool

from .._check import check_positive, check_seed

_ATTEMPTS: Final = 10
_SMALLEST: Final = 4
"""Patches in the smallest block, before it overlaps others."""
_RATIO: Final = 0.3
"""The smallest ratio of the height of a block to its width; the largest is its inverse."""


def draw_hidden(
    number: int,
    grid: tuple[int, int],
    *,
    seed: int,
    share: float = 0.5,
    ratios: tuple[float, float] = (0.1, 0.5),
) -> Bool[np.ndarray, "number patches"]:
    """Draws which patches of a batch of crops are hidden, in blocks, as iBOT and DINOv2 do.

    The range `ratios` is cut into one interval for each crop with hidden patches, and the ratio of the crop is drawn
    from its interval. The other crops have no hidden patches. The order of the crops is random.

    ??? cite

        Bao et al., *BEiT: BERT Pre-Training of Image Transformers*, ICLR 2022, arXiv:2106.08254, algorithm 1.

    **Arguments:**

    - `number`: the number of crops.
    - `grid`: rows and columns of patches of a crop.
    - `seed`: the seed of the blocks, in `[0, 2**32)`. Pass another one in each step.
    - `share`: the fraction of the crops that have hidden patches.
    - `ratios`: the smallest and the largest fraction of the patches of such a crop that are hidden.

    **Returns:**

    True for each hidden patch, row-major.

    **Raises:** `ValueError` if a number is not positive, the seed is out of range, or a fraction is not in [0, 1].
    """
    check_positive(number=number, grid=grid)
    check_seed(seed)
    low, high = ratios
    if not 0 <= share <= 1 or not 0 <= low <= high <= 1:
        raise ValueError(f"share and ratios must be in [0, 1], the smaller ratio first, got {share} and {ratios}")
    state = random.Random(seed)
    chosen, patches = int(number * share), grid[0] * grid[1]
    edges = np.linspace(low, high, chosen + 1)
    hidden = [_hide_blocks(grid, int(patches * state.uniform(*edges[i : i + 2])), state) for i in range(chosen)]
    hidden += [np.zeros(grid, bool)] * (number - chosen)
    state.shuffle(hidden)
    return np.stack(hidden).reshape(number, patches)


def _hide_blocks(grid: tuple[int, int], count: int, state: random.Random) -> Bool[np.ndarray, "rows cols"]:
    """Hides blocks until `count` patches are hidden or no block fits. A block covers at most half of the patches."""
    hidden = np.zeros(grid, bool)
    while (missing := count - int(hidden.sum())) > 0:
        block = _draw_block(hidden, min(missing, hidden.size / 2), state)
        if block is None:
            break
        hidden[block] = True
    return hidden


def _draw_block(hidden: Bool[np.ndarray, "rows cols"], most: float, state: random.Random) -> tuple[slice, slice] | None:
    """Draws a block that hides at least one more patch, and at most `most`; `None` if ten attempts fail."""
    rows, cols = hidden.shape
    for _ in range(_ATTEMPTS):
        area, ratio = state.uniform(_SMALLEST, most), math.exp(state.uniform(math.log(_RATIO), -math.log(_RATIO)))
        height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if height < rows and width < cols:
            top, left = state.randint(0, rows - height), state.randint(0, cols - width)
            block = slice(top, top + height), slice(left, left + width)
            if 0 < height * width - int(hidden[block].sum()) <= most:
                return block
    return None
