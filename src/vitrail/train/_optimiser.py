"""The optimiser of a recipe."""

import functools
from typing import Any, Final, Protocol, TypeVar, cast, runtime_checkable

import equinox as eqx
import jax

from .._extras import require
from ..nn import Decayed
from ._recipe import Recipe


@runtime_checkable
class Optimiser(Protocol):
    """An optimiser of optax: its state, and how it turns a gradient into an update."""

    def init(self, params: Any, /) -> Any: ...

    def update(self, updates: Any, state: Any, params: Any, /) -> tuple[Any, Any]: ...


_T = TypeVar("_T")

_EQUINOX: Final = (eqx.nn.Linear, eqx.nn.Conv)


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
        optax.adamw(schedule, weight_decay=recipe.weight_decay, mask=is_decayed),
    )
    return chain


def is_decayed(parameters: _T) -> _T:
    """Returns which parameters weight decay acts on: those that modules name as `decayed`, and the weights of Equinox's
    linear and convolutional layers. It does not act on biases, norms, positions, tokens, queries and scales."""
    chosen: set[int] = set()

    def visit(node: object) -> bool:
        names = node.decayed if isinstance(node, Decayed) else ("weight",) if isinstance(node, _EQUINOX) else ()
        chosen.update(id(leaf) for name in names for leaf in cast("list[object]", jax.tree.leaves(getattr(node, name))))
        return False  # go on to the modules inside

    jax.tree.leaves(parameters, is_leaf=visit)

    def is_chosen(leaf: object) -> bool:
        return id(leaf) in chosen

    return cast(_T, jax.tree.map(is_chosen, parameters))
