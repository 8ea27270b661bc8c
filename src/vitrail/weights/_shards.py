"""A checkpoint in several safetensors files, and the JSON that says which tensor lies in which."""

from pathlib import Path
from typing import cast, final

from ._errors import CheckpointError
from ._safetensors import SafetensorsFile
from ._source import AbstractSource, NumpyArray, read_json


@final
class ShardedFile(AbstractSource):
    """The files that an index such as `model.safetensors.index.json` names, which lie beside it."""

    def __init__(self, path: Path):
        self.path = path
        self.metadata = {}
        self._homes: dict[str, SafetensorsFile] = {}
        weight_map = _weight_map(path)
        shards = sorted(set(weight_map.values()))
        for shard in shards:
            if shard != Path(shard).name or shard in ("", ".", "..") or "\\" in shard:
                raise CheckpointError(
                    f"{path} must name files beside it, but it names {shard!r}: a checkpoint has no business elsewhere"
                )
            if not _is_file(path.parent / shard):
                raise CheckpointError(
                    f"{path} names the file {shard[:100]!r}, which is not beside it: get that file too"
                )
        for shard in shards:
            file = SafetensorsFile(path.parent / shard)
            listed = {name for name, home in weight_map.items() if home == shard}
            if difference := sorted(listed ^ file.tensors.keys()):
                raise CheckpointError(
                    f"{path} and {file.path} must agree on the tensors of that file, but they do not on "
                    f"{difference[0]!r}: get both again"
                )
            self._homes |= dict.fromkeys(listed, file)
        self.tensors = {name: file.tensors[name] for name, file in self._homes.items()}

    def read(self, name: str, row: int | None = None) -> NumpyArray:
        return self._homes[name].read(name, row)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long for any file
        return False


def _weight_map(path: Path) -> dict[str, str]:
    index = read_json(path, "an index")
    found = cast("dict[str, object]", index).get("weight_map") if isinstance(index, dict) else None
    weight_map = cast("dict[str, object]", found) if isinstance(found, dict) else {}
    if not weight_map or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise CheckpointError(f"{path} must be an index with a 'weight_map' of names to files, but it is not")
    return cast("dict[str, str]", weight_map)
