"""A file whose blocks are stacked in one tensor, seen block by block."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final, final

from .._errors import CheckpointError
from ._source import AbstractSource, NumpyArray, TensorInfo

_MOST_BLOCKS: Final = 100_000
"""The largest published model has fewer than a thousand."""


@final
class UnstackedSource(AbstractSource):
    """A source whose blocks are stacked under one name, seen block by block.

    `Transformer/encoderblock/x` with a leading axis over depth becomes `Transformer/encoderblock_0/x` and so on.
    """

    def __init__(self, source: AbstractSource, stacked: str):
        self.path: Path = source.path
        self.metadata: Mapping[str, str] = source.metadata
        self.prefix: str = source.prefix
        self.outside: tuple[str, ...] = source.outside
        self._source = source
        stacks = {name: info for name, info in source.tensors.items() if stacked in name and info.shape}
        _check_blocks(source, stacked, stacks)
        self._homes: dict[str, tuple[str, int | None]] = {n: (n, None) for n in source.tensors if n not in stacks}
        self.tensors: Mapping[str, TensorInfo] = {name: source.tensors[name] for name in self._homes}
        for name, info in stacks.items():
            before, _, after = name.partition(stacked)
            for i in range(info.shape[0]):
                part = f"{before}{stacked[:-1]}_{i}/{after}"
                self._homes[part] = name, i
                self.tensors[part] = TensorInfo(info.dtype, info.shape[1:])

    def read(self, name: str, row: int | None = None) -> NumpyArray:
        stack, block = self._homes[name]
        if block is None or row is None:
            return self._source.read(stack, row if block is None else block)
        return self._source.read(stack, block)[row]


def _check_blocks(source: AbstractSource, stacked: str, stacks: Mapping[str, TensorInfo]) -> None:
    """Raises an error for stacks that would take all memory before the first number is read."""
    if any(0 in info.shape for info in stacks.values()) or sum(i.shape[0] for i in stacks.values()) > _MOST_BLOCKS:
        name, info = max(stacks.items(), key=lambda item: (0 in item[1].shape, item[1].shape[0]))
        raise CheckpointError(
            f"{source.path} must stack at most {_MOST_BLOCKS:,} blocks, none of them empty, under {stacked!r}, got "
            f"{name!r} as {info}"
        )
