"""Fine-tuning by adapters of low rank: puts them into a model, and merges them with its weights."""

import operator
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from .._check import check_above_zero, check_names, check_positive, join_names
from ..dense import AbstractDenseReadout
from ..head import AbstractHead
from ..nn import MLP, AdaptedLinear, Adapter, Attention, Linear, draw_uniform, name_leaf, split_key
from ._readout import Readout

M = TypeVar("M")
MakeAdapter = Callable[[str, jax.ShapeDtypeStruct, int], Adapter | None]
"""Makes the adapter of a name, as `backbone.encoder.stack.attention.qkv.adapters.q`, or none. It gets the shape of the
rows of the weight that it adds to, and the number of the first."""

_TARGETS: Final[Mapping[str, Mapping[str, tuple[int, int]]]] = {
    "qkv": {"q": (0, 3), "k": (1, 3), "v": (2, 3), "qkv": (0, 1)},
    "project": {"project": (0, 1)},
    "hidden": {"hidden": (0, 1)},
    "out": {"out": (0, 1)},
}
"""The targets in each layer of attention and of an MLP, and which of how many equal parts of its rows each is."""
_READOUTS: Final = (Readout, AbstractHead, AbstractDenseReadout)


def lora(
    model: M,
    rank: int = 8,
    targets: tuple[str, ...] = ("q", "v"),
    alpha: float | None = None,
    *,
    key: PRNGKeyArray,
) -> M:
    r"""Adds adapters of low rank to a model, to fine-tune few parameters.

    A layer $y = Wx + b$ becomes $y = Wx + b + \frac{\alpha}{r} B A x$, with $r$ rows in $A$ and $r$ columns in $B$. $A$
    is drawn as in PEFT, from $\mathcal{U}(-1/\sqrt{n}, 1/\sqrt{n})$ for $n$ inputs. $B$ is zero, so the outputs of the
    model do not change at first. Every block has its own adapters. [`vitrail.train.fit`][vitrail.train.fit] then trains
    only the adapters and the parts that `Recipe.train` names.

    !!! example

        ```python
        model = vitrail.lora(model, rank=8, targets=("q", "v"), key=key)
        recipe = vitrail.train.Recipe(train=("readout",))  # the adapters, and the readout
        model = vitrail.merge(vitrail.train.fit(model, data, recipe, key=key))
        ```

    ??? cite

        Hu et al., *LoRA: Low-Rank Adaptation of Large Language Models*, ICLR 2022, arXiv:2106.09685.

    **Arguments:**

    - `model`: a `ViT`, a system, or any module that contains one. It does not change. To adapt one tower of a system,
        adapt that tower and put it into the system with `eqx.tree_at`.
    - `rank`: $r$, the rank of the adapters.
    - `targets`: the layers of every block that get an adapter. In attention: `"q"`, `"k"` and `"v"` for queries, keys
        and values, `"qkv"` for all three with one $A$, and `"project"` for the layer after the heads. In the MLP:
        `"hidden"` and `"out"` for its first and its second layer. Pools and heads get no adapters.
    - `alpha`: $\alpha$; `None` for the rank, which makes the factor 1.
    - `key`: the random key of $A$.

    **Returns:**

    The model with the adapters, of the same configuration. Their arrays have the kind `"adapter"` in
    [`parameter_labels`][vitrail.parameter_labels].

    **Raises:** `ValueError` if the model has no layer of a target or already has adapters, or if a number is out of
    range.
    """
    check_positive(rank=rank)
    check_above_zero(alpha=alpha)
    check_names("targets", targets)
    found = list[str]()

    def make(name: str, rows: jax.ShapeDtypeStruct, start: int) -> Adapter | None:
        nonlocal key
        target = name.rpartition(".")[2]
        found.append(target)
        if target not in targets:
            return None
        key, a_key = split_key(key)
        *blocks, out_dim, in_dim = rows.shape
        a = draw_uniform(a_key, (*blocks, rank, in_dim), bound=in_dim**-0.5).astype(rows.dtype)
        b = jnp.zeros((*blocks, out_dim, rank), rows.dtype)
        return Adapter(a, b, start=start, alpha=float(rank if alpha is None else alpha))

    adapted = attach_adapters(model, make)
    unknown = [target for target in targets if target not in found]
    if unknown or not targets:
        have = (
            f"it has {join_names(dict.fromkeys(found))}" if found else "it has neither attention nor an MLP in blocks"
        )
        got = repr(unknown[0]) if unknown else "none"
        raise ValueError(f"targets must name layers of the model, got {got}: {have}")
    return adapted


def merge(model: M) -> M:
    """Adds what the adapters of `vitrail.lora` add to the weights of the model.

    **Arguments:**

    - `model`: a model with adapters. It does not change.

    **Returns:**

    The plain model, with the structure that it had before `lora`. Its outputs are those with adapters, up to rounding.

    **Raises:** `ValueError` if the model has no adapters.
    """
    if not has_adapters(model):
        raise ValueError("model must have adapters to merge, got one without: make them with vitrail.lora")
    return _replace_adapted(model, AdaptedLinear.merge)


def remove_adapters(model: M) -> M:
    """The model without its adapters, as it was before `lora`."""
    return _replace_adapted(model, operator.attrgetter("base"))


def has_adapters(model: object) -> bool:
    """Whether a model has adapters of `lora`."""
    return any(_is_adapted(node) for node in jax.tree.leaves(model, is_leaf=_is_adapted))


def remove_readouts(model: object) -> object:
    """What is left of a model without pools and heads, which have no adapters."""

    def remove(node: object) -> object:
        return None if isinstance(node, _READOUTS) else node

    return jax.tree.map(remove, model, is_leaf=_is_whole)


def attach_adapters(model: M, make: MakeAdapter) -> M:
    """Puts adapters into the layers of all blocks.

    **Arguments:**

    - `model`: a model without adapters.
    - `make`: makes the adapter of a name.

    **Returns:**

    The model with the adapters.

    **Raises:** `ValueError` if the model has adapters.
    """
    if has_adapters(model):
        raise ValueError("model must have no adapters, got one that has: merge them first with vitrail.merge(model)")

    def adapt(path: tuple[Any, ...], node: Any) -> Any:
        for field in ("qkv", "project") if isinstance(node, Attention) else ("hidden", "out"):
            if isinstance(node, Attention | MLP):
                name = f"{name_leaf(path)}.{field}".removeprefix(".")
                layer = _adapt_layer(getattr(node, field), name, _TARGETS[field], make)
                node = eqx.tree_at(operator.attrgetter(field), node, layer)
        return node

    return cast(M, jax.tree_util.tree_map_with_path(adapt, model, is_leaf=_is_whole))


def _adapt_layer(
    linear: Linear, name: str, targets: Mapping[str, tuple[int, int]], make: MakeAdapter
) -> Linear | AdaptedLinear:
    *blocks, out_dim, in_dim = linear.weight.shape
    adapters: dict[str, Adapter] = {}
    for target, (part, parts) in targets.items():
        rows = out_dim // parts
        shape = jax.ShapeDtypeStruct((*blocks, rows, in_dim), linear.weight.dtype)
        if (adapter := make(f"{name}.adapters.{target}", shape, part * rows)) is not None:
            adapters[target] = adapter
    return AdaptedLinear(linear, adapters) if adapters else linear


def _replace_adapted(model: M, replace: Callable[[AdaptedLinear], Linear]) -> M:
    def replace_node(node: object) -> object:
        return replace(node) if isinstance(node, AdaptedLinear) else node

    return cast(M, jax.tree.map(replace_node, model, is_leaf=_is_adapted))


def _is_adapted(node: object) -> bool:
    return isinstance(node, AdaptedLinear)


def _is_whole(node: object) -> bool:
    return isinstance(node, (Attention, MLP, *_READOUTS))
