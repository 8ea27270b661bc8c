"""The arrays of a module."""

import hashlib
from collections.abc import Iterable
from typing import Any, TypeVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

_T = TypeVar("_T")


def list_arrays(tree: object) -> dict[str, Any]:
    """The arrays of a model or a part of one, or their shapes and dtypes, by names as `backbone.norm.weight`."""
    leaves = cast("list[tuple[tuple[Any, ...], Any]]", jax.tree_util.tree_leaves_with_path(tree))
    return {name_leaf(keys): leaf for keys, leaf in leaves if eqx.is_array(leaf) or is_shape(leaf)}


def name_leaf(keys: tuple[Any, ...]) -> str:
    """The name of a leaf, as `backbone.norm.weight`."""
    return jax.tree_util.keystr(keys, simple=True, separator=".")


def is_in_part(name: str, part: str) -> bool:
    """Whether an array is in a part of a model, both by the names of fields: `readout.head.weight` is in `readout` and
    in `head`."""
    return f".{part}." in f".{name}."


def keep_rows(
    rows: Float[Array, "rows dim"] | None, added: Float[Array, "added dim"] | None, *, kept: int
) -> Float[Array, "new_rows dim"] | None:
    """The first rows of an array, and new ones after them; `None` for none at all."""
    parts = [part for part in (None if rows is None else rows[:kept], added) if part is not None and len(part)]
    return jnp.concatenate(parts) if parts else None


def digest_array(array: Shaped[np.ndarray, "..."]) -> str:
    """The SHA-256 of the numbers of an array."""
    ordered = np.asarray(array, order="C")
    return hashlib.sha256(cast(Any, ordered.reshape(-1).view(np.uint8))).hexdigest()


def digest_arrays(arrays: Iterable[Any], text: str) -> str:
    """The SHA-256 of a text and of some arrays with their shapes and dtypes."""
    digest = hashlib.sha256(text.encode())
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.asarray(array, order="C").tobytes())
    return digest.hexdigest()


def is_shape(leaf: object) -> bool:
    """Whether a leaf is the shape and dtype of an array."""
    return isinstance(leaf, jax.ShapeDtypeStruct)


def count_parameters(module: object) -> int:
    """Returns the number of elements of all arrays of a module."""
    return sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(module, eqx.is_array)))


def gather_arrays(tree: _T) -> _T:
    """Within a mesh of devices (`jax.set_mesh`), the arrays of a tree, whole on each device: where they are divided,
    they are so only between uses. Without a mesh, the tree."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return tree

    def gather(leaf: Any) -> Any:
        return (
            jax.lax.with_sharding_constraint(leaf, jax.sharding.PartitionSpec()) if eqx.is_inexact_array(leaf) else leaf
        )

    return cast(_T, jax.tree.map(gather, tree))
