"""The arrays of a module."""

from typing import Any, cast

import equinox as eqx
import jax


def list_arrays(tree: object) -> dict[str, Any]:
    """The arrays of a model or a part of one, or their shapes and dtypes, by names as `backbone.norm.weight`."""
    leaves = cast("list[tuple[tuple[Any, ...], Any]]", jax.tree_util.tree_leaves_with_path(tree))
    return {name_leaf(keys): leaf for keys, leaf in leaves if eqx.is_array(leaf) or is_shape(leaf)}


def name_leaf(keys: tuple[Any, ...]) -> str:
    """The name of a leaf, as `backbone.norm.weight`."""
    return jax.tree_util.keystr(keys, simple=True, separator=".")


def is_shape(leaf: object) -> bool:
    """Whether a leaf is the shape and dtype of an array."""
    return isinstance(leaf, jax.ShapeDtypeStruct)


def count_parameters(module: object) -> int:
    """Returns the number of elements of all arrays of a module."""
    return sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(module, eqx.is_array)))
