"""Relative positions: numbers added to the scores of attention by how two tokens lie to each other."""

from typing import final

import equinox as eqx
from jaxtyping import Array, Float, Int


@final
class RelativeBias(eqx.Module):
    """Numbers that are added to the scores of attention, from a table with one row for each distance between tokens.

    All blocks have the same table, or each block has its own.

    ??? cite

        Shaw et al., *Self-Attention with Relative Position Representations*, NAACL 2018, arXiv:1803.02155; in this form
        Raffel et al., *T5*, JMLR 2020, arXiv:1910.10683, section 2.1.
    """

    table: Float[Array, "*blocks distances heads"]
    pairs: Int[Array, "queries tokens"]

    def __init__(self, table: Float[Array, "*blocks distances heads"], pairs: Int[Array, "queries tokens"]):
        """**Arguments:**

        - `table`: the number for each distance and head. An axis over the blocks may come before these two.
        - `pairs`: for each query and key, the index of a row of the table.
        """
        self.table = table
        self.pairs = pairs

    @property
    def per_block(self) -> bool:
        """Whether each block has a table of its own, which an encoder gives it."""
        return self.table.ndim == 3

    def __call__(self) -> Float[Array, "heads queries tokens"]:
        """Looks up the numbers of all pairs.

        **Returns:**

        What is added to the scaled scores of one block.
        """
        return self.table[self.pairs].transpose(2, 0, 1)
