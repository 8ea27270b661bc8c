"""The checks of the weights that a weighing pool shows."""

import dataclasses
from collections.abc import Iterator
from typing import Any, Final

import jax.numpy as jnp
import numpy as np

from .._tokens import Tokens
from ..pool import AbstractWeighingPool
from ._mask import MASK, fill_masked, run, set_mask
from ._subject import Subject, differ, draw_part, redraw, run_compiled, to_bfloat16, trace, tree

_ORDER: Final = np.array([4, 2, 0, 5, 1, 3])
_DRAWS: Final = 6


def weights_are_shares(subject: Subject) -> Iterator[str]:
    """The weights of a weighing pool are finite, not negative, sum to one, and are zero for masked patches.

    They sum to less than one if other tokens than patches count, and then not always to the same.
    """
    part, tokens = draw_part(subject), subject.inputs
    if not isinstance(part, AbstractWeighingPool):
        return
    masked = dataclasses.replace(set_mask(tokens, MASK), places=jnp.arange(len(MASK)))
    for when, given in (("without a mask", tokens), ("with a mask", masked)):
        weights = _weigh(part, given)
        if weights.ndim != 2 or weights.shape[1] != len(MASK):
            yield f"weights must have the shape (maps, {len(MASK)}), one column for each patch, got {weights.shape}"
            return
        if not np.all(np.isfinite(weights)):
            yield f"weights must be finite, which fails {when}"
            return
        if np.any(weights < 0) or np.any(weights.sum(axis=1) > 1 + 1e-5):
            yield f"weights must not be negative, and a row must sum to at most one, which fails {when}"
    if np.any(_weigh(part, masked)[:, ~MASK] != 0):
        yield "weights of masked patches must be zero"
    sums = np.stack([_weigh(part, redraw(tokens, seed=seed)).sum(axis=1) for seed in (100, 200, 300)])
    if np.any((np.ptp(sums, axis=0) < 1e-5) & (sums[0] < 1 - 1e-3)):
        yield f"a row of weights must sum to one, or to less if other tokens count, got always {sums[0].min():.3g}"
    yield from _find_changes(part, tokens, masked)


def _find_changes(part: AbstractWeighingPool, tokens: Tokens, masked: Tokens) -> Iterator[str]:
    """What changes the weights and must not, and their dtype."""
    if difference := differ(_weigh(part, fill_masked(masked, jnp.nan)), _weigh(part, masked), 1e-5):
        yield f"NaN in masked patches must not change the weights, but {difference}"
    placed = dataclasses.replace(tokens, patches=tokens.patches[_ORDER], places=jnp.asarray(_ORDER))
    shuffled = set_mask(placed, MASK[_ORDER])
    if difference := differ(_weigh(part, shuffled), _weigh(part, masked)[:, _ORDER], 1e-5):
        yield f"weights must follow the places of the patches, but {difference}"
    if (dtype := trace(_call_weights, *to_bfloat16((part, tokens))).dtype) != jnp.float32:
        yield f"weights must be at least in float32, got {dtype} for tokens in bfloat16"


def weights_weigh_what_is_pooled(subject: Subject) -> Iterator[str]:
    """Without a patch that has weight the result is another; without one that has none it stays.

    The parameters and the tokens are drawn so large that few patches count. That a patch of no weight changes something
    is a breach only if most do: the lowest of all values may come from any patch.
    """
    part = draw_part(subject, scale=1.5)
    if not isinstance(part, AbstractWeighingPool):
        return
    lost, free = 0, list[bool]()
    for seed in range(_DRAWS):
        part = draw_part(subject, seed=seed, scale=1.5)
        tokens = tree.map(_enlarge, redraw(subject.inputs, seed=100 * seed))
        weights = _weigh(part, tokens)
        if weights.ndim != 2:
            return  # another check has a line for it
        share = weights.max(axis=0)
        influence = _leave_each_out(subject, part, tokens)
        lost += int(np.any(share[influence < 1e-3] > 0.03))
        free += list(influence[share < 1e-4] > 0.05)
    if lost > 1:
        yield "weights must weigh what is pooled, but patches with large weights change nothing when they are left out"
    if free and np.mean(free) > 0.5:
        yield "weights must weigh what is pooled, but patches without weight change the result when they are left out"


def _leave_each_out(subject: Subject, part: Any, tokens: Tokens) -> np.ndarray:
    """How far the result moves without each patch, relative to the farthest."""
    masks = [np.ones_like(MASK), *~np.eye(len(MASK), dtype=bool)]
    out, *others = (np.asarray(run(subject, part, set_mask(tokens, mask)), np.float64) for mask in masks)
    moved = np.array([np.linalg.norm(other - out) for other in others])
    return moved / max(moved.max(), 1e-30)


def _call_weights(part: Any, tokens: Any) -> Any:
    return part.weights(tokens)


def _weigh(part: Any, tokens: Tokens) -> np.ndarray:
    return np.asarray(run_compiled(_call_weights, part, tokens), np.float64)


def _enlarge(x: Any) -> Any:
    return 3 * x
