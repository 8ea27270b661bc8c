"""Evaluates a traced function as one straight line of primitive operations, as ONNX's runtimes like it."""

import math
from collections.abc import Sequence
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Literal

_CALLS: Final = ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call", "remat2", "checkpoint")
"""Calls, of which the function that is called is evaluated in place."""
_IDENTITIES: Final = ("name", "optimization_barrier")
"""What changes no value, and says something to autodiff or to XLA alone."""
_ELEMENTWISE: Final = ("add", "sub", "mul", "div", "max", "min", "eq", "ne", "lt", "le", "gt", "ge", "and", "or")
"""Operations of two arrays, which stretch axes of length one."""

_FEW: Final = 16
"""At most so many numbers are computed when the function is evaluated, and not by the program."""


class _Stretched:
    """An array that `broadcast_in_dim` stretches: most operations do that themselves, and need no larger copy.

    What is stretched twice is stretched once, as jax2onnx loses a symbolic axis in the second.
    """

    def __init__(self, small: Any, shape: tuple[Any, ...], axes: tuple[int, ...]):
        self.small, self.shape, self.axes = small, shape, axes
        self.ndim = len(shape)

        lengths = dict(zip(axes, np.shape(small), strict=True))
        self.thin_shape = tuple(lengths.get(axis, 1) for axis in range(len(shape)))

    def thin(self) -> Any:
        """With an axis of length one wherever it is stretched."""
        return jax.lax.reshape(self.small, self.thin_shape)

    def full(self) -> Any:
        """As large as it is said to be."""
        if self.thin_shape == self.shape:
            return self.thin()
        return jax.lax.broadcast_in_dim(self.small, self.shape, self.axes)


def evaluate(jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
    """Evaluates a traced function: loops over blocks are unrolled, calls are inlined, and what is stretched stays thin
    where the next operation stretches it.

    **Arguments:**

    - `jaxpr`: the function.
    - `consts`: its constants. Those of NumPy that a loop goes over are cut into one array for each turn.
    - `inputs`: what it is called with.

    **Returns:**

    Its outputs.
    """
    return [_fill(value) for value in _evaluate(jaxpr, consts, inputs)]


def _evaluate(jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *inputs), strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        outputs = _apply(equation, list(map(read, equation.invars)))
        values.update(zip(equation.outvars, outputs, strict=True))
    return list(map(read, jaxpr.outvars))


def _apply(equation: Any, inputs: list[Any]) -> list[Any]:
    name, params = equation.primitive.name, equation.params
    if name in _CALLS:
        inner = params["call_jaxpr"] if "call_jaxpr" in params else params["jaxpr"]
        closed = isinstance(inner, ClosedJaxpr)
        return _evaluate(inner.jaxpr if closed else inner, inner.consts if closed else (), inputs)
    if name in _IDENTITIES:
        return inputs
    if name == "scan":
        return _unroll(equation, inputs)
    if name == "select_n" and np.ndim(inputs[0]) == 0 and _is_known(inputs[0]):
        return [inputs[1 + int(inputs[0])]]
    if name == "cond" and _is_known(inputs[0]):
        branch = params["branches"][int(inputs[0])]
        return _evaluate(branch.jaxpr, branch.consts, inputs[1:])
    if _is_small(equation, inputs):
        return _compute_now(equation, inputs)
    if name == "broadcast_in_dim":
        return [_stretch(equation.params, inputs[0])]
    if name in _ELEMENTWISE and any(isinstance(value, _Stretched) for value in inputs):
        inputs = _stretch_together(inputs)
    rewrite = _REWRITES.get(name)
    if rewrite is not None and (rewritten := rewrite(params, list(map(_fill, inputs)))) is not None:
        return [rewritten]
    outputs = equation.primitive.bind(*map(_fill, inputs), **params)
    return list(outputs) if equation.primitive.multiple_results else [outputs]


def _is_known(value: Any) -> bool:
    """Whether it is a number or an array, and not what the program computes."""
    return not isinstance(value, Tracer | _Stretched)


def _is_small(equation: Any, inputs: list[Any]) -> bool:
    """Whether it computes few numbers of known ones, as the number of a branch."""
    known = bool(inputs) and all(map(_is_known, inputs))
    return known and all(_count(output.aval.shape) <= _FEW for output in equation.outvars)


def _count(shape: tuple[Any, ...]) -> float:
    """The numbers in an array of a shape; without end if an axis is symbolic."""
    return math.prod(shape) if all(isinstance(length, int) for length in shape) else math.inf


def _compute_now(equation: Any, inputs: list[Any]) -> list[Any]:
    with jax.ensure_compile_time_eval():
        found = equation.primitive.bind(*inputs, **equation.params)
    return [np.asarray(value) for value in (found if equation.primitive.multiple_results else [found])]


def _stretch(params: Any, value: Any) -> _Stretched:
    axes = tuple(map(int, params["broadcast_dimensions"]))
    if isinstance(value, _Stretched):
        return _Stretched(value.small, params["shape"], tuple(axes[axis] for axis in value.axes))
    return _Stretched(value, params["shape"], axes)


def _stretch_together(inputs: list[Any]) -> list[Any]:
    """The inputs of an operation of two arrays, one of which at least has the full size."""
    full = [not isinstance(value, _Stretched) and np.ndim(value) > 0 for value in inputs]
    if not any(full):
        return inputs
    return [value.thin() if isinstance(value, _Stretched) else value for value in inputs]


def _fill(value: Any) -> Any:
    return value.full() if isinstance(value, _Stretched) else value


def _unroll(equation: Any, inputs: list[Any]) -> list[Any]:
    params = equation.params
    inner = params["jaxpr"]
    num_rows = _count_rows(equation.invars, inner.jaxpr.invars)
    num_carry = len(equation.outvars) - _count_rows(equation.outvars, inner.jaxpr.outvars)
    filled = [_fill(value) for value in inputs]
    num_consts = len(filled) - num_carry - num_rows
    consts, carry, rows = filled[:num_consts], filled[num_consts:][:num_carry], filled[num_consts + num_carry :]
    turns = range(params["length"])
    found: dict[int, list[Any]] = {}
    for turn in reversed(turns) if params["reverse"] else turns:
        outputs = _evaluate(inner.jaxpr, inner.consts, [*consts, *carry, *(_take(row, turn) for row in rows)])
        carry, found[turn] = outputs[:num_carry], [_fill(output) for output in outputs[num_carry:]]
    stacked = zip(*(found[turn] for turn in turns), strict=True)
    return [*carry, *(jax.lax.concatenate([jax.lax.expand_dims(x, (0,)) for x in xs], 0) for xs in stacked)]


def _count_rows(outer: Sequence[Any], inner: Sequence[Any]) -> int:
    """How many arrays a loop goes over, or stacks: within it they have an axis less."""
    return sum(len(a.aval.shape) != len(b.aval.shape) for a, b in zip(outer, inner, strict=True))


def _take(rows: Any, turn: int) -> Any:
    return rows[turn] if isinstance(rows, np.ndarray) else jax.lax.index_in_dim(rows, turn, keepdims=False)


def _gather(params: Any, inputs: list[Any]) -> Any:
    """A slice at a place that is known, and a row of each example at a place that is computed, as the product with a
    vector that is one there; `None` for other slices. jax2onnx loses the axis of the batch in both."""
    x, places = inputs
    numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
    axes, batched = tuple(map(int, numbers.start_index_map)), tuple(numbers.operand_batching_dims)
    if _is_known(places) and np.ndim(places) == 1 and not numbers.collapsed_slice_dims:
        starts: list[int] = np.asarray(places).tolist()
        for axis, start in zip(axes, starts, strict=True):
            x = jax.lax.slice_in_dim(x, start, start + sizes[axis], axis=axis)
        return x
    if x.ndim != 3 or batched != (0,) or axes != (1, 2) or sizes != (1, 1, x.shape[2]):
        return None
    batch, count, _ = x.shape
    place = jax.lax.slice_in_dim(places, 0, 1, axis=1)
    place = jnp.minimum(jnp.maximum(place, 0), count - 1)
    here = jax.lax.broadcasted_iota(np.int32, (batch, count), 1)
    weights = jax.lax.eq(here, jax.lax.broadcast_in_dim(place, (batch, count), (0, 1))).astype(x.dtype)
    return jax.lax.dot_general(weights[:, None], x, (((2,), (1,)), ((0,), (0,))), precision="highest")


def _pad(params: Any, inputs: list[Any]) -> Any:
    """Padding by pieces of the value on each side; `None` for padding between the numbers. jax2onnx pads no array with
    a symbolic axis."""
    x, value = inputs
    if any(between for _, _, between in params["padding_config"]):
        return None
    for axis, (low, high, _) in enumerate(params["padding_config"]):
        x = jax.lax.slice_in_dim(x, max(-low, 0), x.shape[axis] - max(-high, 0), axis=axis)
        sides = [(*x.shape[:axis], max(number, 0), *x.shape[axis + 1 :]) for number in (low, high)]
        before, after = ([jax.lax.broadcast(value, side)] if side[axis] else [] for side in sides)
        if before or after:
            x = jax.lax.concatenate([*before, x, *after], axis)
    return x


def _choose(params: Any, inputs: list[Any]) -> Any:
    """A choice between truth values, which onnxruntime knows of numbers alone; `None` for those."""
    chosen, *cases = inputs
    if len(cases) != 2 or any(case.dtype != np.bool_ for case in cases) or np.shape(chosen) != np.shape(cases[0]):
        return None
    return jax.lax.bitwise_or(
        jax.lax.bitwise_and(jax.lax.bitwise_not(chosen), cases[0]), jax.lax.bitwise_and(chosen, cases[1])
    )


_REWRITES: Final = {"select_n": _choose, "gather": _gather, "pad": _pad}
"""What is computed in another way that jax2onnx knows."""
