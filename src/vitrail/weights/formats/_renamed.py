"""A file whose tensors go by other names."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, final

from ._source import AbstractSource, NumpyArray, TensorInfo

# What PyTorch puts between the parts of a name when it compiles, shards or checkpoints a module.
_INSERTED: Final = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# The blocks in chunks, as DINOv2's training shards them; the second number counts all blocks.
_CHUNKED: Final = re.compile(r"(?<![^.])blocks\.\d+\.(\d+)\.")
_IN_BLOCKS: Final = re.compile(r"(?<![^.])blocks\.\d+\.")


@final
class RenamedSource(AbstractSource):
    """A source under other names. It has those tensors alone whose names begin with a prefix, which is cut off."""

    def __init__(self, source: AbstractSource, prefix: str = ""):
        """**Arguments:**

        - `source`: the file.
        - `prefix`: the beginning of names, without what PyTorch inserts into them.
        """
        self.path: Path = source.path
        self.metadata: Mapping[str, str] = source.metadata
        self.prefix: str = prefix
        self._source = source
        plain = unwrap_names(source.tensors)
        self._names = {new.removeprefix(prefix): old for new, old in plain.items() if new.startswith(prefix)}
        self.outside: tuple[str, ...] = tuple(old for new, old in plain.items() if not new.startswith(prefix))
        self.tensors: Mapping[str, TensorInfo] = {new: source.tensors[old] for new, old in self._names.items()}

    def read(self, name: str, row: int | None = None) -> NumpyArray:
        return self._source.read(self._names[name], row)


def unwrap_names(names: Iterable[str]) -> dict[str, str]:
    """The names of a file by what they are without the parts that PyTorch inserts, and without chunks of blocks.

    They stay as they are where two would become one.
    """
    found = {name: name for name in names}
    whole = [name for name in found if _IN_BLOCKS.search(name)]
    patterns = [_INSERTED, *([_CHUNKED] if whole and all(_CHUNKED.search(name) for name in whole) else [])]
    for pattern in patterns:
        replacement = r"blocks.\1." if pattern is _CHUNKED else ""
        renamed = {pattern.sub(replacement, new): old for new, old in found.items()}
        found = renamed if len(renamed) == len(found) else found
    return found
