"""A file of named tensors, whatever its format: what it holds is known before anything is read."""

import abc
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast, final

import numpy as np
from jaxtyping import Shaped

from ._errors import CheckpointError

MAX_HEADER: Final = 16 * 2**20
"""Bytes. The largest published checkpoints have headers of less than a megabyte."""

_MOST_PARTS: Final = 100_000
"""Of blocks that are stacked. The largest published model has less than a thousand."""
_CHUNK: Final = 2**20

NumpyArray = Shaped[np.ndarray, "..."]


@dataclass(frozen=True)
class TensorInfo:
    """What a file says of one tensor."""

    dtype: str
    """As safetensors writes it: `F32`, `BF16`, `I64`."""
    shape: tuple[int, ...]
    """Its axes."""

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


class AbstractSource(abc.ABC):
    """The tensors of one checkpoint by name. Nothing but the list is in memory until one is read."""

    path: Path
    """What was opened, for sentences."""
    tensors: Mapping[str, TensorInfo]
    """What there is."""
    metadata: Mapping[str, str]
    """What the file says of itself."""

    @abc.abstractmethod
    def read(self, name: str, row: int | None = None) -> NumpyArray:
        """One tensor, or one row of it along its first axis, in the file's own dtype."""


@final
class UnstackedSource(AbstractSource):
    """A source whose blocks are stacked under one name, seen block by block.

    `Transformer/encoderblock/x` with a leading axis over depth becomes `Transformer/encoderblock_0/x` and so on.
    """

    def __init__(self, source: AbstractSource, stacked: str):
        self.path = source.path
        self.metadata = source.metadata
        self._source = source
        stacks = {name: info for name, info in source.tensors.items() if stacked in name and info.shape}
        if any(0 in info.shape for info in stacks.values()) or sum(i.shape[0] for i in stacks.values()) > _MOST_PARTS:
            name, info = max(stacks.items(), key=lambda item: (0 in item[1].shape, item[1].shape[0]))
            raise CheckpointError(
                f"{self.path} must have blocks under {stacked!r} that a model can have, but it has {name!r} as {info}"
            )
        self._parts: dict[str, tuple[str, int | None]] = {n: (n, None) for n in source.tensors if n not in stacks}
        self.tensors = {name: source.tensors[name] for name in self._parts}
        for name, info in stacks.items():
            before, _, after = name.partition(stacked)
            for i in range(info.shape[0]):
                part = f"{before}{stacked[:-1]}_{i}/{after}"
                self._parts[part] = name, i
                self.tensors[part] = TensorInfo(info.dtype, info.shape[1:])

    def read(self, name: str, row: int | None = None) -> NumpyArray:
        original, block = self._parts[name]
        if block is None or row is None:
            return self._source.read(original, row if block is None else block)
        return self._source.read(original, block)[row]


def aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NumpyArray:
    """Room for an array that JAX takes over without a copy on a CPU, for which it must begin on a cache line."""
    size = math.prod(shape) * dtype.itemsize
    room = np.empty(size + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + size].view(dtype).reshape(shape)


def read_into(array: NumpyArray, read: Callable[[int], bytes | None]) -> bool:
    """Fills an array with what a file's `read` gives next, in small pieces, as these are copies; whether there was
    enough."""
    view = memoryview(cast(Any, array.reshape(-1).view(np.uint8)))
    while view.nbytes:
        piece = read(min(view.nbytes, _CHUNK))
        if not piece:
            return False
        view[: len(piece)] = piece
        view = view[len(piece) :]
    return True


def read_json(path: Path, what: str) -> object:
    """What a file beside the weights says in JSON, which may not be as large as these are."""
    if path.stat().st_size > MAX_HEADER:
        raise CheckpointError(f"{path} must be {what}, but it has {path.stat().st_size:,} bytes")
    try:
        return cast(object, json.loads(path.read_bytes()))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} must be {what} in JSON, but it cannot be read: {error}") from error
