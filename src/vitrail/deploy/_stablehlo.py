"""Writes a function as StableHLO, by `jax.export`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, cast

import jax
import jax.core
import jax.export
import numpy as np
from jaxtyping import Shaped

from ..exported import ArraySpec, read_weights
from ._functions import Function

PLATFORMS: Final = ("cpu", "cuda", "tpu")
"""What the programs run on."""
_eval_jaxpr: Any = cast(Any, jax.core).eval_jaxpr  # its types are not known
_MOST: Final = 2**31 - 2**20
"""The most bytes of weights within a program: both formats have 32-bit offsets."""


def write_stablehlo(function: Function, path: Path, weights: Path | None) -> None:
    """Writes a function of a batch, and its weights if they have a file of their own.

    **Arguments:**

    - `function`: of one example.
    - `path`: the file of the program.
    - `weights`: the npz file of the weights; `None` for weights in the program.

    **Raises:** `ValueError` if the weights are too large for the program.
    """
    closed: Any = jax.make_jaxpr(jax.vmap(function.call))(*make_shapes(function.inputs))
    arrays = [np.asarray(const) for const in closed.consts]
    if weights is not None and any(array.dtype.kind == "V" for array in arrays):  # which npz does not know
        raise ValueError("weights must be 'inside' for a model with bfloat16 arrays, got 'beside'")
    check_size(arrays, weights)

    def run(*given: Any) -> Any:
        consts = arrays if weights is None else given[: len(arrays)]
        inputs = given if weights is None else given[len(arrays) :]
        outputs: Any = _eval_jaxpr(closed.jaxpr, consts, *inputs)
        return tuple(outputs)

    known = [] if weights is None else [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays]
    exported = jax.export.export(jax.jit(run), platforms=PLATFORMS)(*known, *closed.in_avals)
    path.write_bytes(exported.serialize())
    if weights is not None:
        np.savez(weights, *arrays)


def check_size(arrays: Sequence[Shaped[np.ndarray, "..."]], weights: Path | None) -> None:
    """Checks that weights in the program are not too large for it.

    **Raises:** `ValueError` if they are.
    """
    if weights is None and (size := sum(array.nbytes for array in arrays)) > _MOST:
        raise ValueError(f"weights must be 'beside' for a model of {size / 1e9:.1f} GB, got 'inside', which has 2 GB")


def run_stablehlo(path: Path, weights: Path | None, batch: tuple[Any, ...]) -> tuple[Any, ...]:
    """Runs what was written on this machine."""
    program: Any = jax.export.deserialize(bytearray(path.read_bytes()))
    given = read_weights(weights)
    return cast("tuple[Any, ...]", jax.jit(program.call)(*given, *batch))


def make_shapes(inputs: tuple[ArraySpec, ...]) -> list[jax.ShapeDtypeStruct]:
    """The shapes of a batch, whose named axes are symbolic."""
    names = dict.fromkeys(["batch", *(axis for spec in inputs for axis in spec.shape if isinstance(axis, str))])
    symbols = dict(zip(names, jax.export.symbolic_shape(",".join(names)), strict=True))
    return [
        jax.ShapeDtypeStruct(
            (symbols["batch"], *(symbols[axis] if isinstance(axis, str) else axis for axis in spec.shape)), spec.dtype
        )
        for spec in inputs
    ]
