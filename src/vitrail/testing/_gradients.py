"""The checks of gradients."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, Final, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ._subject import Subject, draw_array, draw_part, is_finite, list_parameters, list_statistics, run_compiled, tree

_STEPS: Final = (4e-3, 1e-3)
"""The steps of finite differences. The second is for a part that jumps near the first."""


def gradients_reach_every_parameter(subject: Subject) -> Iterator[str]:
    """The gradients of all parameters and of the inputs are finite and not zero."""
    part = draw_part(subject)
    of_parameters, of_inputs = run_compiled(differentiate(subject.call), part, subject.inputs, None)
    found = list_parameters(of_parameters)
    constant = list_statistics(part)
    for path in list_parameters(eqx.filter(part, eqx.is_inexact_array)):
        if path in constant:
            continue
        if path not in found or not np.any(np.asarray(found[path]) != 0):
            yield f"the gradient must reach the parameter {path}, but it is zero: use it, or do not stop its gradient"
        elif not is_finite(found[path]):
            yield f"the gradient of the parameter {path} must be finite"
    if not is_finite(of_inputs):
        yield "the gradient of the inputs must be finite"
    elif not any(np.any(np.asarray(x) != 0) for x in tree.leaves(of_inputs)):
        yield "the gradient must reach the inputs, but it is zero: nothing before this part can learn"


def gradients_are_slopes(subject: Subject) -> Iterator[str]:
    """The gradient of each parameter and of the inputs is the slope that finite differences give."""
    part = draw_part(subject)
    gradients = run_compiled(differentiate(subject.call), part, subject.inputs, None)
    if not is_finite(gradients):
        return  # another check has a line for it
    outs = tree.leaves(run_compiled(subject.call, part, subject.inputs, None))
    factors = [np.asarray(_draw_factors(x), np.float64) for x in outs]
    # What the difference cannot tell from rounding.
    floor = 1e-3 * float(np.sqrt(sum(np.sum(np.square(x, dtype=np.float64)) for x in outs)))
    variables, static = cast("tuple[Any, Any]", eqx.partition((part, subject.inputs), eqx.is_inexact_array))

    def find_total(direction: Any, step: float) -> float:
        moved = tree.map(functools.partial(_move, step=step), variables, direction)
        outs = tree.leaves(run_compiled(subject.call, *cast("tuple[Any, Any]", eqx.combine(moved, static)), None))
        return float(sum(np.vdot(np.asarray(x, np.float64), f) for x, f in zip(outs, factors, strict=True)))

    wrong = dict[str, None]()
    for name, direction in _choose_directions(gradients, list_statistics(part)):
        expected, length = _find_slope(gradients, direction)
        for step in _STEPS:
            slope = (find_total(direction, step) - find_total(direction, -step)) / (2 * step)
            if abs(slope - expected) <= 0.01 * length + floor:
                break
        else:
            wrong[name] = None
    for name in wrong:
        yield f"the gradient of {name} must be the slope of the result, but finite differences give another"


@functools.cache  # the same function, so that it compiles once for all checks
def differentiate(call: Callable[[Any, Any, Any], Any]) -> Any:
    """Returns a function for the gradients of a random sum of a call's output: of the parameters, and of the inputs."""

    def both(part: Any, inputs: Any, key: Any) -> Any:
        (variables, static) = cast("tuple[Any, Any]", eqx.partition((part, inputs), eqx.is_inexact_array))

        def loss(variables: Any) -> Any:
            part, inputs = cast("tuple[Any, Any]", eqx.combine(variables, static))
            return _sum_randomly(call(part, inputs, key))

        return cast(Any, jax.grad(loss)(variables))

    return both


def _sum_randomly(out: Any) -> Any:
    """A sum of the output with random factors, so that no symmetry makes a gradient vanish."""
    return jnp.sum(jnp.stack([jnp.vdot(x, _draw_factors(x)) for x in tree.leaves(out)]))


def _draw_factors(x: Any) -> Any:
    return draw_array(*x.shape, seed=9).astype(x.dtype)


def _choose_directions(gradients: Any, constant: set[str]) -> Iterator[tuple[str, Any]]:
    """Directions of length one, with names: that of the gradient of each parameter and of the inputs, and random ones.

    A direction is zero for all that it does not move. None moves what is `constant`.
    """
    of_parameters, of_inputs = gradients
    nothing = tree.map(np.zeros_like, gradients)
    leaves, structure = tree.flatten(of_parameters)
    for number, (path, leaf) in enumerate(list_parameters(of_parameters).items()):
        if path in constant:
            continue
        for direction in (leaf, draw_array(*leaf.shape, seed=20 + number)):
            (moved,) = _normalise([direction])
            changed = [moved if i == number else np.zeros_like(x) for i, x in enumerate(leaves)]
            yield f"the parameter {path}", (tree.unflatten(structure, changed), nothing[1])
    leaves, structure = tree.flatten(of_inputs)
    for seed in range(4):
        drawn = [draw_array(*x.shape, seed=40 + 10 * seed + i) if seed else x for i, x in enumerate(leaves)]
        yield "the inputs", (nothing[0], tree.unflatten(structure, _normalise(drawn)))


def _normalise(arrays: list[Any]) -> list[Any]:
    length = np.sqrt(sum(np.sum(np.square(x, dtype=np.float64)) for x in arrays))
    return [np.asarray(np.asarray(x, np.float64) / max(length, 1e-30), np.float32) for x in arrays]


def _find_slope(gradients: Any, direction: Any) -> tuple[float, float]:
    """The slope along a direction, and the length of the gradient of what it moves."""
    pairs = [
        (np.asarray(g, np.float64), np.asarray(d, np.float64))
        for g, d in zip(tree.leaves(gradients), tree.leaves(direction), strict=True)
        if np.any(d)
    ]
    return float(sum(np.vdot(g, d) for g, d in pairs)), float(np.sqrt(sum(np.vdot(g, g) for g, _ in pairs)))


def _move(x: Any, direction: Any, *, step: float) -> Any:
    return jnp.asarray(np.asarray(x) + np.float32(step) * direction) if np.any(direction) else x
