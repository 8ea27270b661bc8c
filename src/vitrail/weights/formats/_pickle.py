"""Converts PyTorch's pickles to safetensors. Nothing else in vitrail reads a pickle."""

import argparse
import collections
import pathlib
import re
import types
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, cast

import numpy as np

from ..._check import join_names
from ..._extras import require
from ..._files import write_whole
from .._errors import CheckpointError
from ._opened import OpenedFile, check_exists
from ._shards import list_shards
from ._torchscript import is_torchscript, read_torchscript

_OLDEST: Final = (2, 10)
_DEEPEST: Final = 4
_PLAIN: Final = (
    argparse.Namespace,
    types.SimpleNamespace,
    collections.Counter,
    pathlib.PosixPath,
    pathlib.PurePosixPath,
    list,
    dict,
    tuple,
    set,
    frozenset,
    int,
    float,
    bool,
    str,
    slice,
    complex,
    np.dtype,
    np.ndarray,
)
"""Types that training scripts save beside tensors, and that hold values alone."""


def convert_torch(path: Path | str, out: Path | str, *, pick: str | None = None) -> tuple[int, list[str]]:
    """Writes the tensors of a `.pt`, `.pth` or `.bin` file to safetensors, under the same names and equal to the bit.

    PyTorch reads the file with `weights_only=True`, which runs no code from it, and beside tensors knows plain types
    alone: numbers, containers, `argparse.Namespace`, scalars and arrays of NumPy. An archive of TorchScript, which
    holds code, is read by vitrail itself, for its tensors alone.

    **Arguments:**

    - `path`: the file of PyTorch: a dictionary of tensors, or one somewhere inside a dictionary, as training scripts
        save it; an archive of TorchScript; or the index of several files, `pytorch_model.bin.index.json`.
    - `out`: the safetensors file to write.
    - `pick`: which dictionary of tensors, if there are several: `"state_dict_ema"`; those within others with points
        between their names.

    **Returns:**

    The number of tensors that were written, and the names of what is not a tensor and was left out.

    **Raises:** `CheckpointError` if the file holds no tensors, several dictionaries of them, objects that are made by
    code, or tensors that safetensors cannot hold; `MissingExtraError` if PyTorch is not installed; `ValueError` if
    PyTorch is older than 2.10, whose `weights_only` is not safe, if `out` does not end in `.safetensors`, or if nothing
    has the name in `pick`; `OSError` if the file cannot be read.
    """
    path, out = Path(path), Path(out)
    if out.suffix != ".safetensors":
        raise ValueError(f"out must end in .safetensors, which is what is written, got {out}")
    check_exists(path)  # a missing file is an error before anybody installs PyTorch for it
    torch = _import_torch()
    safetensors: Any = require("safetensors.torch", extra="weights")
    named, left_out = _choose(path, _read(path, torch), pick, torch)
    tensors = {key: tensor for key, tensor in named.items() if torch.is_tensor(tensor)}
    left_out += [str(key) for key in named if key not in tensors]
    if not tensors:
        raise CheckpointError(f"{path} must hold tensors by name, got none")
    copies = _copy_tensors(path, tensors, torch)
    write_whole(out, lambda part: safetensors.save_file(copies, part, metadata={"format": "pt"}))
    return len(copies), left_out


def _read(path: Path, torch: Any) -> Any:
    """What a file holds, or several together."""
    if path.name.endswith(".index.json"):
        with ExitStack() as opened:
            weight_map = list_shards(path, opened.enter_context(OpenedFile(path)))
        return {
            name: tensor
            for shard in dict.fromkeys(weight_map.values())
            for name, tensor in _load(path.with_name(shard), torch).items()
        }
    return read_torchscript(path, torch) if is_torchscript(path) else _load(path, torch)


def _load(path: Path, torch: Any) -> Any:
    scalar: Any = np.float64(0).__reduce__()[0]
    rebuild: Any = np.zeros(1).__reduce__()[0]
    kinds = [type(np.dtype(code)) for code in np.typecodes["All"]]
    try:
        with torch.serialization.safe_globals([*_PLAIN, *kinds, *_name_numpy(scalar), *_name_numpy(rebuild)]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a pickle can fail with any error
        said = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # the codes for colours in a terminal
        if refused := re.search(r"GLOBAL (\S+)", said):
            raise CheckpointError(
                f"{path} holds {refused[1]!r}, which would have to be called to read it, and vitrail calls nothing "
                "that a file names: save the tensors alone where the file is from, with "
                "torch.save(model.state_dict(), path)"
            ) from error
        reason = (said.partition("WeightsUnpickler error:")[2] or said).partition("Check the documentation")[0]
        raise CheckpointError(
            f"{path} must be a file of tensors that PyTorch can read, got an error: {' '.join(reason.split())[:300]}"
        ) from error


def _name_numpy(function: Any) -> list[Any]:
    """A function of NumPy under the name of its module in version 2, and in version 1, for PyTorch's allow-list."""
    return [(function, f"numpy.{module}.multiarray.{function.__name__}") for module in ("_core", "core")]


def _import_torch() -> Any:
    torch: Any = require("torch", extra="torch")
    version = [int(part) for part in re.findall(r"\d+", str(torch.__version__))[:2]]
    if tuple(version) < _OLDEST:
        raise ValueError(f"torch must be 2.10 or newer to read a pickle safely, got {torch.__version__}: upgrade it")
    return torch


def _choose(path: Path, content: Any, pick: str | None, torch: Any) -> tuple[dict[Any, Any], list[str]]:
    """The dictionary of tensors, and the names of what is beside it and around it."""
    found = dict(_find_dictionaries((), content, torch))
    names = [".".join(keys) for keys in found]
    if pick is not None and pick not in names:
        raise ValueError(f"pick must be one of {join_names(names) or 'nothing'} for {path}, got {pick!r}")
    if pick is None and len(found) > 1:
        raise CheckpointError(
            f"{path} has several dictionaries of tensors, {join_names(names)}: pass pick=, or --pick, to choose one"
        )
    if not found:
        return {}, []
    keys = list(found)[0 if pick is None else names.index(pick)]
    left_out: list[str] = []
    for key in keys:
        left_out += [str(other) for other in content if other != key]
        content = content[key]
    return dict(found[keys]), left_out


def _find_dictionaries(
    keys: tuple[str, ...], content: Any, torch: Any
) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    """The dictionaries that have tensors, by the keys that lead to them."""
    if not isinstance(content, Mapping):
        return
    named = cast("Mapping[Any, Any]", content)
    if any(torch.is_tensor(value) and value.ndim for value in named.values()):  # not for the accuracy of a run
        yield keys, named
    elif len(keys) < _DEEPEST:
        for key, value in named.items():
            if isinstance(key, str):
                yield from _find_dictionaries((*keys, key), value, torch)


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
