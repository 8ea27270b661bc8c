"""From a recipe to the update of the parameters."""

import functools
from typing import Any, Final, Protocol, TypeVar, cast, runtime_checkable

import jax

from .._extras import require
from .._layers import Linear, is_norm
from ._recipe import Recipe


@runtime_checkable
class Optimiser(Protocol):
    """What optax makes: a state, and how a gradient becomes an update."""

    def init(self, params: Any, /) -> Any: ...

    def update(self, updates: Any, state: Any, params: Any, /) -> tuple[Any, Any]: ...


_T = TypeVar("_T")

_SPARED: Final = (["position"], ["prefix"], ["pool"])


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
    """Which parameters weight decay acts on: matrices and kernels, but not norms, positions, prefix tokens, nor what a
    pool holds besides its linear layers, such as queries.

    In the encoder each array has one axis more, that over depth, so a matrix has three there and a bias two.
    """

    def is_layer(part: object) -> bool:
        return is_norm(part) or isinstance(part, Linear)

    def decide(path: tuple[Any, ...], part: Any) -> Any:
        names = [getattr(key, "name", "") for key in path]
        spared = is_norm(part) or (names[:1] in _SPARED and not isinstance(part, Linear))
        over_depth = names[:2] == ["encoder", "stack"]

        def is_matrix(leaf: Any) -> bool:
            return not spared and leaf.ndim - over_depth >= 2

        return jax.tree.map(is_matrix, part)

    return cast(_T, jax.tree_util.tree_map_with_path(decide, parameters, is_leaf=is_layer))
