"""Reads the tensors of a TorchScript archive without running anything of it, not even what PyTorch itself would."""

import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, cast, final

from .._errors import CheckpointError, shorten_error

_STORAGES: Final = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
_LISTS: Final = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist", "restore_type_tag")


def is_torchscript(path: Path) -> bool:
    """Whether a file is an archive of TorchScript: a zip with code beside its data."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    return any(name.endswith("/constants.pkl") for name in names) and any("/code/" in name for name in names)


def read_torchscript(path: Path, torch: Any) -> dict[str, Any]:
    """The tensors of an archive by name.

    The objects of its modules become plain ones that only hold what they held; its code is not looked at.

    **Raises:** `CheckpointError` if the archive is damaged, or holds something else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            root = name.removesuffix("data.pkl")
            with archive.open(name) as file:
                module: object = _Unpickler(file, lambda key: archive.read(f"{root}data/{key}"), torch).load()
    except CheckpointError as error:
        raise CheckpointError(f"{path} must be a TorchScript archive of tensors: {error}") from error
    except Exception as error:  # a damaged pickle can fail with any error
        raise CheckpointError(
            f"{path} must be a TorchScript archive that is complete, got an error: {shorten_error(error)}"
        ) from error
    return dict(_list_tensors("", module, torch))


@final
class _Module:
    """What is left of an object of TorchScript: the attributes."""

    def __setstate__(self, state: object) -> None:
        self.attributes = cast("dict[object, object]", state) if isinstance(state, dict) else {}


def _list_tensors(name: str, found: Any, torch: Any) -> Iterator[tuple[str, Any]]:
    if torch.is_tensor(found):
        yield name, found
    elif isinstance(found, _Module):
        for key, value in found.attributes.items():
            yield from _list_tensors(f"{name}.{key}" if name else str(key), value, torch)


def _pass(value: object = None, *others: object) -> object:
    """What a parameter or a list of TorchScript is built by: it stays what it is built from."""
    return value


@final
class _Unpickler(pickle.Unpickler):
    """Knows tensors, lists of plain values, and modules, which it does not make. Everything else is an error."""

    def __init__(self, file: Any, read: Callable[[str], bytes], torch: Any):
        super().__init__(file)
        self._read = read
        self._torch = torch

    def find_class(self, module: str, name: str, /) -> Any:
        if module.startswith("__torch__"):
            return _Module
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._rebuild
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _pass
        if module == "torch.jit._pickle" and name in _LISTS:
            return _pass
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch" and name in _STORAGES:
            return name
        raise CheckpointError(f"it holds {module}.{name}, which is not read from a file")

    def persistent_load(self, pid: Any, /) -> Any:
        _, kind, key, _, count = pid
        dtype = getattr(self._torch, _STORAGES[kind])
        if not count:
            return self._torch.empty(0, dtype=dtype)
        return self._torch.frombuffer(bytearray(self._read(str(key))), dtype=dtype, count=count)

    def _rebuild(self, storage: Any, offset: int, size: Any, stride: Any, *_: object) -> Any:
        return self._torch.as_strided(storage, tuple(size), tuple(stride), offset)
