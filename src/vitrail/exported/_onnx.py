"""Opens a program in ONNX by onnxruntime."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._extras import require


def open_onnx(path: Path, names: Sequence[str]) -> Callable[..., list[Any]]:
    """Opens a program on this machine's processor.

    **Arguments:**

    - `path`: the file. Weights beside it are found by the name that the file has for them.
    - `names`: of the inputs, in the order in which they are passed.

    **Returns:**

    A function of the inputs that returns a list of the outputs.

    **Raises:** what onnxruntime raises; `MissingExtraError` if it is not installed.
    """
    onnxruntime: Any = require("onnxruntime", extra="onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # an error is raised, and need not be printed
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(*arrays: Any) -> list[Any]:
        outputs = session.run(None, dict(zip(names, map(np.asarray, arrays), strict=True)))
        return [jnp.asarray(output) for output in outputs]

    return run
