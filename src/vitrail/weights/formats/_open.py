"""Opens a file of tensors by what is in it."""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from ..._check import join_names
from .._errors import CheckpointError
from ._npz import NpzFile
from ._opened import OpenedFile, check_exists
from ._safetensors import SafetensorsFile
from ._shards import ShardedFile, list_shards, refuse_pickle
from ._source import AbstractSource

_ZIP: Final = (b"PK\x03\x04", b"PK\x05\x06")
_PICKLE: Final = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_PICKLE_ENDINGS: Final = ("bin", "pth", "pt", "ckpt")
_MAIN_FILES: Final = ("model.safetensors", "model.safetensors.index.json", "open_clip_model.safetensors")


def list_files(path: Path) -> list[Path]:
    """The files of tensors that are read of a file, an index of several, or a folder with one.

    **Raises:** `CheckpointError` if a folder has none, or an index is damaged; `OSError` if it cannot be read.
    """
    check_exists(path)
    file = find_main_file(path)
    if not file.name.endswith(".index.json"):
        return [file]
    with ExitStack() as opened:
        shards = list_shards(file, opened.enter_context(OpenedFile(file)))
    return [file, *(file.with_name(shard) for shard in dict.fromkeys(shards.values()))]


@contextmanager
def open_source(path: Path) -> Generator[AbstractSource]:
    """Opens a file, or the main file of a folder. No tensor is read yet.

    **Returns:**

    A context manager that returns the tensors. They can be read until it is left.

    **Raises:** `CheckpointError` if it is a pickle or damaged, or changes while it is open; `OSError` if it cannot be
    read.
    """
    check_exists(path)
    with ExitStack() as opened:
        yield _choose_source(find_main_file(path), opened)


def _choose_source(path: Path, opened: ExitStack) -> AbstractSource:
    if path.name.endswith(".index.json"):
        return ShardedFile(path, opened)
    file = opened.enter_context(OpenedFile(path))
    start = file.raw.read(4)
    if start in _ZIP and path.suffix.removeprefix(".") not in _PICKLE_ENDINGS:
        return NpzFile(file)
    if start in _ZIP or start[:2] in _PICKLE:
        raise refuse_pickle(path, "is a pickle of PyTorch,")
    return SafetensorsFile(file)


def find_main_file(folder: Path) -> Path:
    """The file of a folder that is opened; a path that is no folder as it is."""
    if not folder.is_dir():
        return folder
    for name in _MAIN_FILES:
        if (folder / name).is_file():
            return folder / name
    if (index := folder / "pytorch_model.bin.index.json").is_file():
        return index
    pickles = (path for kind in _PICKLE_ENDINGS[:3] for path in sorted(folder.glob(f"*.{kind}")))
    if (pickle := next(pickles, None)) is not None:
        raise refuse_pickle(pickle, "is a pickle of PyTorch,")
    raise CheckpointError(f"{folder} has no {join_names(_MAIN_FILES)}: pass the path of the file itself")
