"""A file of named tensors, whatever its format: what it holds is known before anything is read."""

import abc
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import numpy as np
from jaxtyping import Shaped

MAX_HEADER: Final = 16 * 2**20
"""Bytes. The largest published checkpoints have headers of less than a megabyte."""

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
    def read(self, name: str) -> NumpyArray:
        """One tensor, in the file's own dtype."""


@final
class UnstackedSource(AbstractSource):
    """A source whose blocks are stacked under one name, seen block by block.

    `Transformer/encoderblock/x` with a leading axis over depth becomes `Transformer/encoderblock_0/x` and so on.
    """

    def __init__(self, source: AbstractSource, stacked: str):
        self.path = source.path
        self.metadata = source.metadata
        self._source = source
        self._parts = dict(self._unstacked(source.tensors, stacked))
        self.tensors = {name: info for name, (_, _, info) in self._parts.items()}
        self._last: tuple[str, NumpyArray] | None = None

    @staticmethod
    def _unstacked(
        tensors: Mapping[str, TensorInfo], stacked: str
    ) -> Iterator[tuple[str, tuple[str, int | None, TensorInfo]]]:
        for name, info in tensors.items():
            before, found, after = name.partition(stacked)
            if not found or not info.shape:
                yield name, (name, None, info)
                continue
            for i in range(info.shape[0]):
                part = TensorInfo(info.dtype, info.shape[1:])
                yield f"{before}{stacked[:-1]}_{i}/{after}", (name, i, part)

    def read(self, name: str) -> NumpyArray:
        original, index, _ = self._parts[name]
        if index is None:
            return self._source.read(original)
        if self._last is None or self._last[0] != original:
            self._last = (original, self._source.read(original))
        return self._last[1][index]


def aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NumpyArray:
    """Room for an array that JAX takes over without a copy on a CPU, for which it must begin on a cache line."""
    size = math.prod(shape) * dtype.itemsize
    room = np.empty(size + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + size].view(dtype).reshape(shape)
