"""A checkpoint in several safetensors files, with a JSON index that says which file holds which tensor."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import cast, final

from ..._files import is_file_name
from .._errors import CheckpointError
from ._opened import OpenedFile
from ._safetensors import SafetensorsFile
from ._source import AbstractSource, NumpyArray, TensorInfo, parse_json


@final
class ShardedFile(AbstractSource):
    """The files that an index lists, for example `model.safetensors.index.json`. They lie beside it."""

    def __init__(self, path: Path, opened: ExitStack):
        """**Arguments:**

        - `path`: the index.
        - `opened`: closes the files.
        """
        self.path: Path = path
        self.metadata: Mapping[str, str] = {}
        self._homes: dict[str, SafetensorsFile] = {}
        weight_map = list_shards(path, opened.enter_context(OpenedFile(path, one_of_several=True)))
        shards = sorted(set(weight_map.values()))
        if pickles := [shard for shard in shards if not shard.endswith(".safetensors")]:
            raise refuse_pickle(path, f"lists {pickles[0]!r}, a pickle of PyTorch,")
        # All are opened before the first is read, and looked at again when they are closed.
        files = [opened.enter_context(OpenedFile(path.parent / shard, one_of_several=True)) for shard in shards]
        for shard, file in zip(shards, map(SafetensorsFile, files), strict=True):
            listed = {name for name, home in weight_map.items() if home == shard}
            if difference := sorted(listed ^ file.tensors.keys()):
                raise CheckpointError(
                    f"{path} and {file.path} disagree on {difference[0]!r}, which only one of them has: download both "
                    "again"
                )
            self._homes |= dict.fromkeys(listed, file)
        self.tensors: Mapping[str, TensorInfo] = {name: file.tensors[name] for name, file in self._homes.items()}

    def read(self, name: str, row: int | None = None) -> NumpyArray:
        return self._homes[name].read(name, row)


def list_shards(path: Path, file: OpenedFile) -> dict[str, str]:
    """The file of each tensor that an index names, all of them beside it."""
    weight_map = _read_index(file)
    for shard in sorted(set(weight_map.values())):
        _check_shard(path, shard)
    return weight_map


def refuse_pickle(path: Path, what: str) -> CheckpointError:
    """The error of a file that is, or lists, a pickle."""
    name = path.name.removesuffix(".index.json") if path.name.endswith(".index.json") else path.name
    return CheckpointError(
        f"{path} {what} which can run any code when it is read: convert it with 'vitrail convert --from-torch {path} "
        f"{path.with_name(name).with_suffix('.safetensors')}'"
    )


def _check_shard(path: Path, shard: str) -> None:
    if not is_file_name(shard):
        raise CheckpointError(f"{path} must list files beside it, got {shard!r}: an index may not point elsewhere")
    if not _is_file(path.parent / shard):
        raise CheckpointError(f"{path} lists the file {shard[:100]!r}, which is not beside it: download that file too")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # the name is too long for a file
        return False


def _read_index(file: OpenedFile) -> dict[str, str]:
    path, index = file.path, parse_json(file, "an index")
    found = cast("dict[str, object]", index).get("weight_map") if isinstance(index, dict) else None
    weight_map = cast("dict[str, object]", found) if isinstance(found, dict) else {}
    if not weight_map or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise CheckpointError(
            f"{path} must be an index with a 'weight_map' of names to files, got none: download it again"
        )
    return cast("dict[str, str]", weight_map)
