"""What each array of a model is, for optimisers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, cast, runtime_checkable

import equinox as eqx
import jax

from ._arrays import is_shape

ParameterKind = Literal["matrix", "bias", "norm", "position", "token", "adapter", "other"]
"""What an array of a model is: the weight of a linear or convolutional layer (`"matrix"`), its bias, the scale or shift
of a norm, a position embedding, a learned token or query, a matrix of `vitrail.lora` (`"adapter"`), or something else,
as a layer scale or a pool's exponent."""

ParameterKinds = Mapping[str, ParameterKind]
"""What the arrays of a module are, by the names of its fields."""

_MATRIX_AND_BIAS: Final[ParameterKinds] = {"weight": "matrix", "bias": "bias"}
_NORM: Final[ParameterKinds] = {"weight": "norm", "bias": "norm"}
_EQUINOX: Final[Mapping[type, ParameterKinds]] = {
    eqx.nn.Linear: _MATRIX_AND_BIAS,
    eqx.nn.Conv: _MATRIX_AND_BIAS,
    eqx.nn.ConvTranspose: _MATRIX_AND_BIAS,
    eqx.nn.LayerNorm: _NORM,
    eqx.nn.RMSNorm: _NORM,
    eqx.nn.GroupNorm: _NORM,
    eqx.nn.BatchNorm: _NORM,
}


@dataclass(frozen=True)
class ParameterLabel:
    """What an array of a model is, and in which block."""

    kind: ParameterKind
    """What it is. Weight decay usually acts on matrices alone."""
    layers: tuple[int, ...]
    """The layers that the array belongs to: 0 for what comes before the blocks, 1 for the first block and so on, and
    depth + 1 for what comes after them."""
    stacked: bool
    """Whether the first axis counts blocks, so that the array holds one parameter for each of `layers`. Stacked biases
    have two axes, stacked matrices three."""


@runtime_checkable
class SaysKinds(Protocol):
    """A module that says what each of its own arrays is. What it does not name is `"other"`."""

    @property
    def parameter_kinds(self) -> ParameterKinds:
        """The kinds by the names of fields."""
        ...


@runtime_checkable
class HasStacks(Protocol):
    """A module that runs modules one after the other, whose arrays are stacked along a first axis."""

    def list_stacks(self) -> Mapping[str, tuple[int, ...]]:
        """For each field that is a stack, the numbers of the blocks along its first axis, counted from 0."""
        ...


@runtime_checkable
class HasBlockFields(Protocol):
    """A module with arrays that act within the blocks of the encoder after it, as those of a position can."""

    @property
    def block_fields(self) -> tuple[str, ...]:
        """The fields whose first axis counts these blocks."""
        ...


def parameter_labels(model: object) -> Any:
    """Says what each parameter of a model is, for an optimiser that treats parameters differently.

    An encoder stacks its blocks, so that the bias of all blocks has two axes. Rules such as "decay what has two axes"
    are wrong for it; these labels are right.

    !!! example

        ```python
        def select_matrices(parameters):
            labels = vitrail.parameter_labels(parameters)
            return jax.tree.map(lambda label: label.kind == "matrix", labels)

        optimiser = optax.adamw(3e-4, weight_decay=0.05, mask=select_matrices)
        ```

    **Arguments:**

    - `model`: a model or a part of one, or what `eqx.filter` leaves of it. Encoders are numbered one after the other,
        as for an encoder and a decoder: label towers that stand side by side one by one.

    **Returns:**

    The same tree with a `ParameterLabel` in place of each floating-point array, and `None` in place of other leaves.
    """
    parameters = cast(Any, eqx.filter(model, _is_parameter))
    first = 0  # the layer of what is before the next stack
    starts: dict[int, int] = {}

    def label(path: tuple[Any, ...], leaf: object) -> object:
        nonlocal first
        owner, field, layers, node = None, "", None, parameters
        for key in path:
            if isinstance(node, eqx.Module):
                owner, field = node, cast(str, key.name)
                if isinstance(node, HasStacks) and field in (blocks := node.list_stacks()):
                    if id(node) not in starts:
                        starts[id(node)] = first + 1
                        first += 2 + max(max(numbers, default=0) for numbers in blocks.values())
                    layers = tuple(starts[id(node)] + number for number in blocks[field])
                elif isinstance(node, HasBlockFields) and field in node.block_fields and _is_parameter(leaf):
                    layers = tuple(range(first + 1, first + 1 + cast(Any, leaf).shape[0]))
            node = _get_child(node, key)
        if not _is_parameter(leaf):
            return leaf
        return ParameterLabel(_find_kind(owner, field), (first,) if layers is None else layers, layers is not None)

    return jax.tree_util.tree_map_with_path(label, parameters, is_leaf=_is_left_out)


def _is_left_out(node: object) -> bool:
    """Whether there is nothing in the place of an array: `None`, or what optax puts there, an empty tuple."""
    return node is None or (isinstance(node, tuple) and not node)


def _is_parameter(leaf: object) -> bool:
    return eqx.is_inexact_array(leaf) or is_shape(leaf)


def _get_child(node: Any, key: Any) -> Any:
    match key:
        case jax.tree_util.GetAttrKey():
            return getattr(node, key.name)
        case jax.tree_util.SequenceKey():
            return node[key.idx]
        case _:
            return node[key.key]


def _find_kind(owner: object, field: str) -> ParameterKind:
    if isinstance(owner, SaysKinds):
        return owner.parameter_kinds.get(field, "other")
    known = [kinds for kind, kinds in _EQUINOX.items() if isinstance(owner, kind)]
    return known[0].get(field, "other") if known else "other"
