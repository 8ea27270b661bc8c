"""The check of what a part says its arrays are."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Final, cast, get_args

import equinox as eqx
import jax

from .._check import describe_value, join_names
from ..nn import ParameterKind
from ._subject import Subject, tree

_KINDS: Final = cast("tuple[str, ...]", get_args(ParameterKind))


def parameter_kinds_name_its_arrays(subject: Subject) -> Iterator[str]:
    """`parameter_kinds` and `block_fields`, where a module has them, name fields that hold its arrays, and kinds that
    there are."""
    seen: set[type] = set()
    for module in _list_modules(subject.made):
        if type(module) not in seen:
            seen.add(type(module))
            yield from _find_misspelt(module)


def _find_misspelt(module: Any) -> Iterator[str]:
    owner, kinds = type(module).__name__, getattr(module, "parameter_kinds", {})
    if not isinstance(kinds, Mapping):
        yield (
            f"parameter_kinds of {owner} must be a dictionary from the names of fields to kinds, got "
            f"{describe_value(kinds)}"
        )
        return
    kinds = cast("Mapping[Any, Any]", kinds)
    fields = [field.name for field in dataclasses.fields(module) if not field.metadata.get("static", False)]
    known = [name for name in fields if _holds_arrays(getattr(module, name))]
    for who, names in (("parameter_kinds", kinds), ("block_fields", getattr(module, "block_fields", ()))):
        for name in (name for name in names if name not in known):
            which = f"these are {join_names(known)}" if known else "it has none"
            yield (
                f"{who} of {owner} must name fields of this class that hold arrays, not modules, got {name!r}: {which}"
            )
    for name, kind in kinds.items():
        if kind not in _KINDS:
            yield (
                f"parameter_kinds of {owner} must give one of the kinds {join_names(_KINDS)} for {name!r}, got "
                f"{describe_value(kind)}"
            )


def _holds_arrays(value: Any) -> bool:
    """Whether a field holds arrays and no module. `None` stands for an array that is left out."""
    modules = any(True for _ in _list_modules(value))
    return not modules and all(eqx.is_array(leaf) for leaf in tree.leaves(value))


def _list_modules(node: Any) -> Iterator[eqx.Module]:
    """All modules in a PyTree, from the outside."""

    def is_inside(x: Any) -> bool:
        return x is not node

    if isinstance(node, eqx.Module):
        yield node
    children, structure = cast("tuple[list[Any], Any]", jax.tree_util.tree_flatten(node, is_leaf=is_inside))
    if not jax.tree_util.treedef_is_leaf(structure):
        for child in children:
            yield from _list_modules(child)
