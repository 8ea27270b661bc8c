"""The optimiser of a recipe."""

import functools
from typing import Any, Protocol, runtime_checkable

import jax

from .._extras import require
from ..nn import ParameterLabel, parameter_labels
from ._recipe import Recipe


@runtime_checkable
class Optimiser(Protocol):
    """An optimiser of optax: its state, and how it turns a gradient into an update."""

    def init(self, params: Any, /) -> Any: ...

    def update(self, updates: Any, state: Any, params: Any, /) -> tuple[Any, Any]: ...


@functools.cache  # the same recipe returns the same functions, so that a second run is not compiled again
def make_optimiser(recipe: Recipe, steps: int) -> Optimiser:
    """Makes AdamW with clipping and a schedule of `steps` steps."""
    optax = require("optax", extra="train")
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=recipe.learning_rate,
        warmup_steps=min(round(recipe.warmup * steps), steps - 1),
        decay_steps=steps,
    )
    chain: Optimiser = optax.chain(
        optax.clip_by_global_norm(recipe.clip_norm),
        optax.adamw(schedule, weight_decay=recipe.weight_decay, mask=_select_matrices),
    )
    return chain


def _select_matrices(parameters: Any) -> Any:
    """Which parameters weight decay acts on."""

    def is_matrix(label: ParameterLabel) -> bool:
        return label.kind == "matrix"

    return jax.tree.map(is_matrix, parameter_labels(parameters))
