"""What a position does within attention."""

from typing import cast

import equinox as eqx

from ._relative_bias import RelativeBias
from ._rotation import Rotation

InAttention = Rotation | RelativeBias
"""A rotation of queries and keys, or a bias of their scores."""


def split_blocks(position: InAttention | None) -> tuple[InAttention | None, InAttention | None]:
    """Splits off the arrays that each block has of its own; `equinox.combine` puts the two together again.

    What is learned or turned can differ from block to block. Which row of a table belongs to a pair cannot.
    """

    def is_per_block(leaf: object) -> bool:
        return position is not None and position.per_block and eqx.is_inexact_array(leaf)

    return cast("tuple[InAttention | None, InAttention | None]", eqx.partition(position, is_per_block))
