"""The optimiser of a recipe, and which arrays it trains."""

import functools
from typing import Any, Protocol, cast, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._extras import require
from ..nn import ParameterLabel, is_in_part, name_leaf, parameter_labels
from ._recipe import Recipe


@runtime_checkable
class Optimiser(Protocol):
    """An optimiser of optax: its state, and how it turns a gradient into an update."""

    def init(self, params: Any, /) -> Any: ...

    def update(self, updates: Any, state: Any, params: Any, /) -> tuple[Any, Any]: ...


def make_optimiser(recipe: Recipe, steps: int) -> Optimiser:
    """Makes the optimiser of a recipe: clipping, the rule by its name with weight decay and a schedule of `steps`
    steps, and a learning rate for each layer.

    **Arguments:**

    - `recipe`: its settings.
    - `steps`: the number of steps of the run.

    **Returns:**

    A transformation of gradients of optax.

    **Raises:** `MissingExtraError` if optax is not installed.
    """
    return _make_optimiser(recipe, steps)


@functools.cache  # the same recipe returns the same functions, so that a second run is not compiled again
def _make_optimiser(recipe: Recipe, steps: int) -> Optimiser:
    optax = require("optax", extra="train")
    schedule = make_schedule(recipe, steps)
    decay, betas = {"weight_decay": recipe.weight_decay, "mask": _select_matrices}, {"b1": 0.9, "b2": recipe.beta2}
    match recipe.optimiser:
        case "adamw":
            rule = optax.adamw(schedule, **betas, **decay)
        case "lion":
            rule = optax.lion(schedule, **betas, **decay)
        case "sgd":
            decayed = optax.add_decayed_weights(recipe.weight_decay, mask=_select_matrices)
            rule = optax.chain(decayed, optax.sgd(schedule, momentum=0.9))
        case "muon":
            rule = optax.contrib.muon(
                schedule,
                weight_decay=recipe.weight_decay,
                weight_decay_mask=_select_matrices,
                adam_weight_decay=recipe.weight_decay,
                adam_b2=recipe.beta2,
                muon_weight_dimension_numbers=_find_dimensions,
            )
    chain = [rule]
    if recipe.clip_norm is not None:
        chain.insert(0, optax.clip_by_global_norm(recipe.clip_norm))
    if recipe.layer_decay != 1:
        chain.append(optax.stateless(functools.partial(_scale_layers, recipe.layer_decay)))
    return cast(Optimiser, optax.chain(*chain))


def make_schedule(recipe: Recipe, steps: int) -> Any:
    """Makes the learning rate of each step: it rises linearly, and then falls along a cosine or a line, or stays.

    **Arguments:**

    - `recipe`: its settings.
    - `steps`: the number of steps of the run.

    **Returns:**

    A schedule of optax: a function of the step.

    **Raises:** `MissingExtraError` if optax is not installed.
    """
    optax = require("optax", extra="train")
    peak, warmup = recipe.peak_learning_rate, min(round(recipe.warmup * steps), steps - 1)
    rest = max(steps - warmup, 1)
    match recipe.schedule:
        case "cosine":
            fall = optax.cosine_decay_schedule(peak, rest)
        case "linear":
            fall = optax.linear_schedule(peak, 0.0, rest)
        case "constant":
            fall = optax.constant_schedule(peak)
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), fall], [warmup]) if warmup else fall


def find_trained(model: Any, recipe: Recipe) -> Any:
    """Which leaves of a model are trained: a tree of truth values.

    **Raises:** `ValueError` if the recipe names a part that the model does not have, or nothing is trained.
    """
    labels = parameter_labels(model)
    adapted = any(label.kind == "adapter" for label in jax.tree.leaves(labels) if isinstance(label, ParameterLabel))
    found: set[str] = set()
    parts: dict[str, None] = {}

    def choose(path: tuple[Any, ...], label: object) -> bool:
        if not isinstance(label, ParameterLabel):  # a leaf that is no parameter, as a function or a number
            return False
        name = name_leaf(path)
        parts.update(dict.fromkeys(name_leaf(path[:end]) for end in (1, 2)))
        named, frozen = ({part for part in given if is_in_part(name, part)} for given in (recipe.train, recipe.freeze))
        found.update(named, frozen)
        is_default = label.kind == "adapter" if adapted else not recipe.train
        return (is_default or bool(named)) and not frozen

    chosen = jax.tree_util.tree_map_with_path(choose, labels, is_leaf=_is_none)
    if unknown := [part for part in (*recipe.train, *recipe.freeze) if part not in found]:
        raise ValueError(
            f"train and freeze must name parts of the model, got {unknown[0]!r}: it has {', '.join(parts)} and what is "
            "in them"
        )
    if not any(jax.tree.leaves(chosen)):
        raise ValueError(f"something must be trained, got train={recipe.train} and freeze={recipe.freeze}")
    return chosen


def _is_none(node: object) -> bool:
    return node is None


def _select_matrices(parameters: Any) -> Any:
    """Which parameters weight decay acts on."""

    def is_matrix(label: ParameterLabel) -> bool:
        return label.kind == "matrix"

    return jax.tree.map(is_matrix, parameter_labels(parameters))


def _find_dimensions(parameters: Any) -> Any:
    """Rows and columns of each array for Muon, which are those of the blocks; `None` for what Adam trains."""
    numbers = require("optax", extra="train").contrib.MuonDimensionNumbers

    def find(label: ParameterLabel) -> Any:
        return numbers(reduction_axis=-1, output_axis=-2) if label.stacked and label.kind == "matrix" else None

    return jax.tree.map(find, parameter_labels(parameters))


def _scale_layers(decay: float, updates: Any, parameters: Any = None) -> Any:
    """Scales updates by a power of `decay`: 0 after the blocks, one more with each block towards the image."""
    labels = parameter_labels(updates)
    last = max((max(label.layers) for label in jax.tree.leaves(labels)), default=0)

    def scale(update: Float[Array, "..."], label: ParameterLabel) -> Float[Array, "..."]:
        rates = jnp.asarray([decay ** (last - layer) for layer in label.layers], update.dtype)
        return update * (rates.reshape(-1, *(1,) * (update.ndim - 1)) if label.stacked else rates[0])

    return jax.tree.map(scale, updates, labels)
