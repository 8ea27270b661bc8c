"""What the layouts of BEiT share: tables of relative positions, of each block or of all."""

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from ..._check import join_names
from ..._spec import PartSpec
from ...model import ViTConfig
from .._errors import CheckpointError
from .._rules import POSITION_ROWS, RELATIVE_ROWS, Rule, map_names
from ._checkpoint import Checkpoint
from ._vit import use_learned


@dataclass(frozen=True)
class Tables:
    """What a library calls the tables of positions."""

    learned: str
    by_block: str
    shared: str


def read_position(
    checkpoint: Checkpoint, tables: Tables, patch: tuple[int, int], given: Any, *, resize: str
) -> tuple[str | PartSpec, tuple[int, int], int | None]:
    """The position, the size of the images, and the number of heads, if a table has a column for each."""
    names = (tables.learned, tables.by_block.format(i=0), tables.shared)
    found = [name for name in names if name in checkpoint]
    if len(found) > 1:
        raise CheckpointError(
            f"{checkpoint.path} has positions of several kinds, {join_names(found)}: vitrail loads no BEiT that adds "
            "one to the other"
        )
    if not found:
        return "none", checkpoint.floor_size(224 if given is None else given, patch), None
    if found[0] == tables.learned:
        rows = checkpoint.get_shape(tables.learned, 3)[1]
        return use_learned("torch_bicubic"), checkpoint.find_image_size(rows - 1, patch, given), None
    rows, heads = checkpoint.get_shape(found[0], 2)
    shared = found[0] == tables.shared
    position = PartSpec("relative_bias", (("resize", resize), ("shared", shared)))
    return position, _find_size(checkpoint, found[0], rows - 3, patch, given), heads


def _find_size(
    checkpoint: Checkpoint, name: str, num_distances: int, patch: tuple[int, int], given: Any
) -> tuple[int, int]:
    """The image size of a table of distances, in whole patches: the given one, or else a square."""
    side = (math.isqrt(max(num_distances, 0)) + 1) // 2
    rows, cols = (side, side) if given is None else checkpoint.count_patches(patch, given)
    if (2 * rows - 1) * (2 * cols - 1) != num_distances:
        size = "no square image" if given is None else f"{rows} x {cols} patches, which the settings beside it say"
        raise CheckpointError(
            f"{checkpoint.path} has {name!r} for {num_distances} distances between patches, which does not fit {size}: "
            "pass config= with the image size of the weights"
        )
    return rows * patch[0], cols * patch[1]


def map_position(config: ViTConfig, tables: Tables) -> Rule:
    if not is_relative(config):
        return map_names(tables.learned, POSITION_ROWS, "1 n d -> n d")
    return map_names(tables.shared if is_shared(config) else tables.by_block, RELATIVE_ROWS, "n heads -> n heads")


def is_relative(config: ViTConfig) -> bool:
    return "relative_bias" in (config.position, getattr(config.position, "name", None))


def is_shared(config: ViTConfig) -> bool:
    return isinstance(config.position, PartSpec) and dict(config.position.options).get("shared") is True


def _number_pairs(config: ViTConfig) -> Float[np.ndarray, "tokens tokens"]:
    """For each query and key the row of the table: what both libraries call `relative_position_index`."""
    rows, cols = config.grid
    row, col = np.divmod(np.arange(rows * cols), cols)
    num_distances = (2 * rows - 1) * (2 * cols - 1)
    pairs = np.full((rows * cols + 1,) * 2, num_distances)
    pairs[1:, 0], pairs[0, 0] = num_distances + 1, num_distances + 2
    pairs[1:, 1:] = (row[:, None] - row + rows - 1) * (2 * cols - 1) + col[:, None] - col + cols - 1
    return pairs.astype(np.float32)


_INDEX: Final = r"(.*\.)?relative_position_index"
IGNORED: Final = (
    (_INDEX, "computed from the grid"),
    (r"lm_head\.(weight|bias)", "the head that predicts visual words, which only pre-training needs"),
)
COMPUTED: Final = ((_INDEX, _number_pairs),)
