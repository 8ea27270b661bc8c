"""From a recipe to the update of the parameters."""

import functools
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import equinox as eqx
import jax

from .._layers import LayerNorm
from ._extras import require
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
        warmup_steps=round(recipe.warmup * steps),
        decay_steps=steps,
    )
    chain: Optimiser = optax.chain(
        optax.clip_by_global_norm(recipe.clip_norm),
        optax.adamw(schedule, weight_decay=recipe.weight_decay, mask=decayed),
    )
    return chain


def decayed(parameters: _T) -> _T:
    """Which parameters weight decay acts on: those called `weight`, but for the norms' and other vectors.

    The name has to tell, as the encoder stacks its blocks: there a bias has two axes too.
    """

    def is_norm(part: object) -> bool:
        return isinstance(part, LayerNorm | eqx.nn.LayerNorm | eqx.nn.RMSNorm)

    def never(leaf: object) -> bool:
        return False

    def decide(path: tuple[Any, ...], leaf: Any) -> Any:
        if is_norm(leaf):
            return jax.tree.map(never, leaf)
        return bool(path) and getattr(path[-1], "name", "") == "weight" and leaf.ndim >= 2

    return cast(_T, jax.tree_util.tree_map_with_path(decide, parameters, is_leaf=is_norm))
