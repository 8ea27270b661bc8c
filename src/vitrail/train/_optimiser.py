"""From a recipe to the update of the parameters."""

import functools
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import jax

from .._extras import require
from .._layers import is_norm
from ._recipe import Recipe


@runtime_checkable
class Optimiser(Protocol):
    """What optax makes: a state, and how a gradient becomes an update."""

    def init(self, params: Any, /) -> Any: ...

    def update(self, updates: Any, state: Any, params: Any, /) -> tuple[Any, Any]: ...


_T = TypeVar("_T")


@functools.cache  # the same recipe gives the same functions, so that a second run does not compile again
def make_optimiser(recipe: Recipe, steps: int) -> Optimiser:
    """AdamW after clipping, under a schedule of so many steps."""
    optax = require("optax", extra="train")
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=recipe.learning_rate,
        warmup_steps=min(round(recipe.warmup * steps), steps - 1),
        decay_steps=steps,
    )
    chain: Optimiser = optax.chain(
        optax.clip_by_global_norm(recipe.clip_norm),
        optax.adamw(schedule, weight_decay=recipe.weight_decay, mask=decayed),
    )
    return chain


def decayed(parameters: _T) -> _T:
    """Which parameters weight decay acts on: matrices and kernels, but not norms, positions and prefix tokens.

    In the encoder each array has one axis more, that over depth, so a matrix has three there and a bias two.
    """

    def never(leaf: object) -> bool:
        return False

    def decide(path: tuple[Any, ...], leaf: Any) -> Any:
        if is_norm(leaf):
            return jax.tree.map(never, leaf)
        names = [getattr(key, "name", "") for key in path]
        axes = leaf.ndim - 1 if names[:2] == ["encoder", "stack"] else leaf.ndim
        return axes >= 2 and names[0] not in ("position", "prefix")

    return cast(_T, jax.tree_util.tree_map_with_path(decide, parameters, is_leaf=is_norm))
