"""Writes a function as ONNX, by jax2onnx, and runs it by onnxruntime."""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .._extras import require
from ..exported import open_onnx
from ._functions import Function
from ._stablehlo import check_size, make_shapes
from ._unroll import evaluate


def write_onnx(function: Function, path: Path, weights: Path | None) -> None:
    """Writes a function of a batch, and its weights if they have a file of their own.

    **Arguments:**

    - `function`: of one example.
    - `path`: the file of the program.
    - `weights`: the file of the weights, in the same folder; `None` for weights in the program.

    **Raises:** `ValueError` if the weights are too large for the program, or if jax2onnx cannot write the function;
    `MissingExtraError` if a library of the extra `onnx` is not installed.
    """
    jax2onnx: Any = require("jax2onnx", extra="onnx")
    onnx_ir: Any = require("onnx_ir", extra="onnx")
    shapes = make_shapes(function.inputs)
    closed: Any = jax.make_jaxpr(jax.vmap(function.call))(*shapes)
    consts = [np.asarray(const) for const in closed.consts]
    check_size(consts, weights)

    def run(*batch: Any) -> Any:
        outputs = evaluate(closed.jaxpr, consts, batch)
        return tuple(outputs) if len(outputs) > 1 else outputs[0]

    with _explain(path.stem, "jax2onnx"), _quiet("onnx_ir"):  # which warns of shapes that it leaves to the runtime
        model = jax2onnx.to_onnx(
            run,
            shapes,
            model_name=path.stem,
            return_mode="ir",
            input_names=[spec.name for spec in function.inputs],
            output_names=list(function.outputs),
        )
        onnx_ir.save(model, path, external_data=None if weights is None else weights.name)


def run_onnx(path: Path, function: Function, batch: tuple[Any, ...]) -> list[Any]:
    """Runs what was written on this machine's processor.

    **Raises:** `ValueError` if onnxruntime cannot run it.
    """
    with _explain(path.stem, "onnxruntime"):
        return open_onnx(path, [spec.name for spec in function.inputs])(*batch)


def list_versions() -> dict[str, str]:
    """The versions of what writes and runs the files."""
    return {name: version(name) for name in ("jax2onnx", "onnxruntime")}


@contextmanager
def _explain(name: str, library: str) -> Generator[None]:
    """Says of any error of a library that a function cannot be exported."""
    try:
        yield
    except Exception as error:  # jax2onnx and onnxruntime raise nearly anything
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
        raise ValueError(
            f"the function {name!r} cannot be exported as ONNX, {library} {version(library)} says: "
            f"{type(error).__name__}: {first}. Use format='stablehlo'"
        ) from error


@contextmanager
def _quiet(name: str) -> Generator[None]:
    """Leaves out the warnings of a library."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
