"""Converts PyTorch's pickles to safetensors. Nothing else in vitrail reads a pickle."""

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

from ..._extras import require
from ..._files import write_whole
from .._errors import CheckpointError, shorten_error

_WRAPPERS: Final = ("state_dict", "model", "model_state_dict", "teacher", "module")
_OLDEST: Final = (2, 10)


def convert_torch(path: Path | str, out: Path | str) -> tuple[int, list[str]]:
    """Writes the tensors of a `.pt`, `.pth` or `.bin` file to safetensors, under the same names and equal to the bit.

    PyTorch reads the file with `weights_only=True`, which runs no code from it.

    **Arguments:**

    - `path`: the file of PyTorch: a dictionary of tensors, or a dictionary that holds one as `state_dict`, `model`,
        `model_state_dict`, `teacher` or `module`.
    - `out`: the safetensors file to write.

    **Returns:**

    The number of tensors that were written, and the names of what is not a tensor and was left out.

    **Raises:** `CheckpointError` if the file holds no tensors, or tensors that safetensors cannot hold;
    `MissingExtraError` if PyTorch is not installed; `ValueError` if PyTorch is older than 2.10, whose `weights_only`
    is not safe; `OSError` if the file cannot be read.
    """
    path = Path(path)
    path.stat()  # a missing file is an error before anybody installs PyTorch for it
    torch = _import_torch()
    safetensors: Any = require("safetensors.torch", extra="weights")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # the arguments of a script, plain values
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a pickle can fail with any error
        raise CheckpointError(
            f"{path} must be a file of tensors that PyTorch can read, got an error: {shorten_error(error)}"
        ) from error
    named, left_out = _unwrap(content)
    tensors = {key: tensor for key, tensor in named.items() if torch.is_tensor(tensor)}
    left_out += [str(key) for key in named if key not in tensors]
    if not tensors:
        raise CheckpointError(f"{path} must hold tensors by name, got none")
    copies = _copy_tensors(path, tensors, torch)
    write_whole(Path(out), lambda part: safetensors.save_file(copies, part, metadata={"format": "pt"}))
    return len(copies), left_out


def _import_torch() -> Any:
    torch: Any = require("torch", extra="torch")
    version = [int(part) for part in re.findall(r"\d+", str(torch.__version__))[:2]]
    if tuple(version) < _OLDEST:
        raise ValueError(f"torch must be 2.10 or newer to read a pickle safely, got {torch.__version__}: upgrade it")
    return torch


def _unwrap(content: Any) -> tuple[dict[Any, Any], list[str]]:
    """The innermost dictionary, and the names beside it and around it."""
    left_out: list[str] = []
    while isinstance(content, Mapping):
        named = cast("Mapping[Any, Any]", content)
        inner = next((key for key in _WRAPPERS if isinstance(named.get(key), Mapping)), None)
        if inner is None:
            return dict(named), left_out
        left_out += [str(key) for key in named if key != inner]
        content = named[inner]
    return {}, left_out


def _copy_tensors(path: Path, tensors: Mapping[Any, Any], torch: Any) -> dict[str, Any]:
    copies: dict[str, Any] = {}
    for key, tensor in tensors.items():
        if tensor.layout is not torch.strided or tensor.is_complex() or tensor.is_quantized:
            raise CheckpointError(
                f"{path} has {key!r} as {tensor.dtype} in the layout {tensor.layout}, which safetensors cannot hold: "
                "make it a dense tensor of real numbers with PyTorch"
            )
        if str(key) in copies:
            raise CheckpointError(f"{path} must have each name once, got {str(key)!r} twice")
        # safetensors rejects tensors that share memory or are not contiguous.
        copies[str(key)] = tensor.clone().contiguous()
    return copies
