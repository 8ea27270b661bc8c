"""From a recipe to the update of the parameters."""

import functools
from typing import Any, Final, Protocol, TypeVar, cast, runtime_checkable

import equinox as eqx
import jax

from .._extras import require
from .._layers import Decayed
from ._recipe import Recipe


@runtime_checkable
class Optimiser(Protocol):
    """What optax makes: a state, and how a gradient becomes an update."""

    def init(self, params: Any, /) -> Any: ...

    def update(self, updates: Any, state: Any, params: Any, /) -> tuple[Any, Any]: ...


_T = TypeVar("_T")

_EQUINOX: Final = (eqx.nn.Linear, eqx.nn.Conv)


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
    """Which parameters weight decay acts on: those that their modules name as `decayed`, and the weights of Equinox's
    own linear and convolutional layers. Biases, norms, positions, tokens, queries and scales are spared."""
    chosen: set[int] = set()

    def visit(node: object) -> bool:
        names = node.decayed if isinstance(node, Decayed) else ("weight",) if isinstance(node, _EQUINOX) else ()
        chosen.update(id(leaf) for name in names for leaf in cast("list[object]", jax.tree.leaves(getattr(node, name))))
        return False  # to see the modules inside of this one, too

    jax.tree.leaves(parameters, is_leaf=visit)

    def is_chosen(leaf: object) -> bool:
        return id(leaf) in chosen

    return cast(_T, jax.tree.map(is_chosen, parameters))
