"""The checks of what a pool makes of masks and places, on grids of all shapes."""

import dataclasses
from collections.abc import Iterator
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np

from .._tokens import Tokens
from ..pool import AbstractGridPool
from ._gradients import differentiate
from ._subject import GRIDS, Subject, describe_error, differ, draw_part, draw_tokens, is_finite, run_compiled

MASK: Final = np.array([True, False, True, True, False, True])
"""A mask for the patches of `GRID`."""
_ONE: Final = np.arange(MASK.size) == 3
"""A mask that keeps one patch."""
_KEY_SEED: Final = 3


def respects_the_mask(subject: Subject) -> Iterator[str]:
    """A mask of ones changes nothing. A masked patch, NaN included, changes neither the result nor the gradient."""
    part, tokens = draw_part(subject), subject.inputs
    everything = set_mask(tokens, np.ones_like(MASK))
    if difference := differ(run(subject, part, everything), run(subject, part, tokens), 1e-5):
        yield f"a mask that is true everywhere must change nothing, but {difference}"
    masked = set_mask(tokens, MASK)
    out = run(subject, part, masked)
    for name, filling in (("other numbers", 7.0), ("NaN", jnp.nan)):
        if difference := differ(run(subject, part, fill_masked(masked, filling)), out, 1e-5):
            yield f"{name} in masked patches must not change the result, but {difference}"
            return
    both = differentiate(subject.call)
    expected, of_tokens = run_compiled(both, part, masked, None)
    if not is_finite(expected, of_tokens, run_compiled(both, part, set_mask(tokens, _ONE), None)):
        yield "the gradient with a mask must be finite, also if one patch is left"
        return
    if np.any(np.asarray(of_tokens.patches)[~MASK] != 0):
        yield "the gradient of masked patches must be zero"
    gradient, _ = run_compiled(both, part, fill_masked(masked, jnp.nan), None)
    if difference := differ(gradient, expected, 1e-5):
        yield f"NaN in masked patches must not change the gradient of the parameters, but {difference}"


def respects_the_mask_with_a_key(subject: Subject) -> Iterator[str]:
    """A masked patch, NaN included, changes nothing with a key either."""
    part, tokens, key = draw_part(subject), set_mask(subject.inputs, MASK), jax.random.key(_KEY_SEED)
    if not differ(subject.call(part, subject.inputs, key), subject.call(part, subject.inputs, None), 0):
        return  # the key changes nothing
    out = subject.call(part, tokens, key)
    for name, filling in (("other numbers", 7.0), ("NaN", jnp.nan)):
        if difference := differ(subject.call(part, fill_masked(tokens, filling), key), out, 1e-5):
            yield f"with a key, {name} in masked patches must not change the result, but {difference}"
            return


def a_mask_equals_a_subset(subject: Subject) -> Iterator[str]:
    """The result with a mask is that for the unmasked patches alone, several of them or one, in any order.

    Each has its place, so that in another order they stand where they stood.
    """
    part, tokens = draw_part(subject), subject.inputs
    for mask in (MASK, _ONE):
        out = run(subject, part, set_mask(tokens, mask))
        if out.ndim > 1:
            out = out[np.concatenate([np.ones(tokens.num_prefix, bool), mask])]
        subset = run(subject, part, _take(tokens, np.flatnonzero(mask)))
        if difference := differ(out, subset, 1e-5):
            yield f"the result with a mask must be that for the unmasked patches alone, but {difference}"
            return
        shuffled = run(subject, part, _take(tokens, np.flatnonzero(mask)[::-1]))
        if out.ndim > 1:
            shuffled = jnp.concatenate([shuffled[: tokens.num_prefix], shuffled[tokens.num_prefix :][::-1]])
        if difference := differ(shuffled, out, 1e-5):
            yield f"the patches in another order with their places must give the same, but {difference}"
            return


def refuses_a_mask_of_nothing(subject: Subject) -> Iterator[str]:
    """A mask that is false everywhere is an error, unless patches do not count at all."""
    part, nothing = draw_part(subject), set_mask(subject.inputs, np.zeros_like(MASK))
    try:
        out = subject.call(part, nothing, None)
    except (ValueError, RuntimeError):  # the second is that of equinox.error_if
        return
    if part.needs_class_token and is_finite(out) and not differ(out, run(subject, part, subject.inputs), 1e-6):
        return
    yield (
        "it must raise a ValueError if the mask is false everywhere, but it returned a result: read the patches with "
        "vitrail.read_patches, which raises it"
    )


def holds_on_every_grid(subject: Subject) -> Iterator[str]:
    """On grids of one patch, flat, tall, square and large, it is finite, respects mask and places, and keeps its order.

    A grid on which it does not hold is a line of its own only if it holds on the usual one.
    """
    for number, grid in enumerate(GRIDS):
        there = dataclasses.replace(subject, context=dataclasses.replace(subject.context, grid=grid))
        part = draw_part(there if isinstance(draw_part(subject), AbstractGridPool) else subject)
        tokens = draw_tokens(subject.inputs.dim, grid, class_token=True, num_registers=number % 3)
        try:
            problem = next(_find_problems(subject, part, tokens), None)
        except Exception as error:
            problem = f"it must work as well, but it raised {describe_error(error)}"
        if problem is not None:
            if not any(
                _find_problems(subject, draw_part(subject), subject.inputs)
            ):  # for those the other checks have a line
                yield f"on a grid of {grid}, {problem}"
            return


def _find_problems(subject: Subject, part: Any, tokens: Tokens) -> Iterator[str]:
    """What is wrong on one grid. All masks and orders have one program."""
    number = tokens.patches.shape[0]
    rng = np.random.default_rng(number)
    order, mask = rng.permutation(number), rng.random(number) < 0.7
    mask[0], mask[number // 2] = False, True
    one = np.arange(number) == number // 2
    cells = jnp.asarray(np.arange(number))
    masked = dataclasses.replace(set_mask(tokens, mask), places=cells)
    shuffled = dataclasses.replace(
        set_mask(tokens, mask[order]), patches=jnp.asarray(np.asarray(tokens.patches)[order]), places=cells
    )
    everything, out, alone, other, nan, moved, placed = (
        run(subject, part, x)
        for x in (
            dataclasses.replace(set_mask(tokens, np.ones_like(mask)), places=cells),
            masked,
            set_mask(masked, one),
            fill_masked(masked, 7.0),
            fill_masked(masked, jnp.nan),
            shuffled,
            dataclasses.replace(shuffled, places=jnp.asarray(order)),
        )
    )
    # Without a mask it is another program, so only for one patch.
    plain = run(subject, part, tokens) if number == 1 else everything
    if not is_finite(plain, everything, out):
        yield "the result must be finite"
    if not is_finite(alone):
        yield "the result must be finite with a mask that keeps one patch"
    if difference := differ(everything, plain, 1e-5):
        yield f"a mask that is true everywhere, and the place of each patch, must change nothing, but {difference}"
    for name, filled in (("other numbers", other), ("NaN", nan)):
        if difference := differ(filled, out, 1e-5):
            yield f"{name} in masked patches must not change the result, but {difference}"
    rows = np.concatenate([np.arange(tokens.num_prefix), tokens.num_prefix + order])
    if difference := differ(placed, out[rows] if out.ndim > 1 else out, 1e-5):
        yield f"the patches in another order with their places must give the same, but {difference}"
    if part.order_invariant and (difference := differ(moved, out, 1e-5)):
        yield f"in another order of the patches {difference}, but order_invariant is True: declare False"


def run(subject: Subject, part: Any, tokens: Tokens) -> Any:
    """Calls the part, compiled, without a key."""
    return run_compiled(subject.call, part, tokens, None)


def set_mask(tokens: Tokens, mask: np.ndarray) -> Tokens:
    """The tokens with a mask."""
    return dataclasses.replace(tokens, mask=jnp.asarray(mask))


def fill_masked(tokens: Tokens, value: float) -> Tokens:
    """The tokens with another value in all patches for which the mask is false."""
    assert tokens.mask is not None
    patches = np.where(np.asarray(tokens.mask)[:, None], tokens.patches, np.float32(value))
    return dataclasses.replace(tokens, patches=jnp.asarray(patches))


def _take(tokens: Tokens, indices: np.ndarray) -> Tokens:
    """What `tokens.take` returns, without a program for each number of indices."""
    patches = jnp.asarray(np.asarray(tokens.patches)[indices])
    return dataclasses.replace(tokens, patches=patches, places=jnp.asarray(indices))
