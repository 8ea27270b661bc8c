"""The size of a model."""

import equinox as eqx
import jax


def count_parameters(module: object) -> int:
    """Returns the number of elements of all arrays of a module."""
    return sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(module, eqx.is_array)))
