"""A file of named tensors in any format. The names, shapes and dtypes are known before a tensor is read."""

import abc
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast, final

import numpy as np
from jaxtyping import Shaped

from .._errors import CheckpointError
from ._opened import OpenedFile

MAX_HEADER: Final = 16 * 2**20
"""The largest header or JSON file that is read, in bytes. The largest published header has less than a megabyte."""
_CHUNK: Final = 2**20
_SHOWN: Final = 80

NumpyArray = Shaped[np.ndarray, "..."]


@dataclass(frozen=True)
class TensorInfo:
    """What a file says about one tensor."""

    dtype: str
    """The dtype by its name in safetensors: `F32`, `BF16`, `I64`."""
    shape: tuple[int, ...]
    """The shape."""

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


class AbstractSource(abc.ABC):
    """The tensors of one checkpoint by name. None is in memory until it is read."""

    path: Path
    """The file that was opened, for error messages."""
    tensors: Mapping[str, TensorInfo]
    """The dtype and the shape of each tensor."""
    metadata: Mapping[str, str]
    """What the file says about itself."""
    file: OpenedFile | None = None
    """The open file, if there is one and it is the only one."""
    prefix: str = ""
    """The beginning that the names of the tensors have in the file."""
    outside: tuple[str, ...] = ()
    """The names of the tensors that do not have it."""

    @abc.abstractmethod
    def read(self, name: str, row: int | None = None) -> NumpyArray:
        """Reads one tensor, or one row of its first axis, in the file's own dtype."""


@final
class ArraySource(AbstractSource):
    """Arrays in memory, seen as the file that they are going to be."""

    def __init__(self, path: Path, arrays: Mapping[str, NumpyArray]):
        self.path: Path = path
        self.metadata: Mapping[str, str] = {}
        self.tensors: Mapping[str, TensorInfo] = {
            name: TensorInfo("F32", array.shape) for name, array in arrays.items()
        }
        self._arrays = arrays

    def read(self, name: str, row: int | None = None) -> NumpyArray:
        return self._arrays[name] if row is None else self._arrays[name][row]


def allocate(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NumpyArray:
    """An empty array that begins on a cache line, so that JAX takes it over on a CPU without a copy."""
    size = math.prod(shape) * dtype.itemsize
    room = np.empty(size + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + size].view(dtype).reshape(shape)


def read_into(array: NumpyArray, read: Callable[[int], bytes | None]) -> bool:
    """Fills an array with the next bytes of a file; returns whether there were enough.

    It reads small pieces, since each piece is in memory twice.
    """
    view = memoryview(cast(Any, array.reshape(-1).view(np.uint8)))
    while view.nbytes:
        piece = read(min(view.nbytes, _CHUNK))
        if not piece:
            return False
        view[: len(piece)] = piece
        view = view[len(piece) :]
    return True


def parse_json(file: OpenedFile, what: str) -> object:
    """Reads a small JSON file that is open."""
    if file.size > MAX_HEADER:
        raise CheckpointError(f"{file.path} must be {what} of at most {MAX_HEADER:,} bytes, got {file.size:,}")
    file.raw.seek(0)
    content = file.raw.readall()
    try:
        return cast(object, json.loads(content))
    except (ValueError, RecursionError) as error:
        start = " ".join(content[:_SHOWN].decode("utf-8", "replace").split())
        raise CheckpointError(
            f"{file.path} must be {what} in JSON, got an error ({error}) in what begins with {start!r}"
        ) from error
