"""Reading npz: NumPy's archive of arrays, in which the JAX code of ViT publishes."""

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast, final

import ml_dtypes
import numpy as np

from ._errors import CheckpointError
from ._safetensors import DTYPES
from ._source import AbstractSource, NumpyArray, TensorInfo

_NAMES: Final[Mapping[np.dtype[Any], str]] = {dtype: name for name, dtype in DTYPES.items()}
_BFLOAT16_ON_DISK: Final = np.dtype("V2")  # which NumPy does not know and writes as two bytes of no kind
_MOST_COMPRESSED: Final = 50


@final
class NpzFile(AbstractSource):
    """One npz file. Pickled objects in it are refused."""

    def __init__(self, path: Path):
        self.path = path
        self.metadata = {}
        try:
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
                if len({member.filename for member in members}) < len(members):
                    raise _not_npz(path, "it has a name twice")
                packed, unpacked = (sum(getattr(m, size) for m in members) for size in ("compress_size", "file_size"))
                if unpacked > _MOST_COMPRESSED * packed + 2**20:
                    raise _not_npz(path, f"its {packed:,} bytes would unpack to {unpacked:,}, which no weights do")
                self.tensors = {m.filename.removesuffix(".npy"): _info(path, archive, m) for m in members}
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise _not_npz(path, str(error)) from error

    def read(self, name: str) -> NumpyArray:
        try:
            with np.load(self.path, allow_pickle=False) as archive:
                array = cast(NumpyArray, archive[name])
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
            raise _not_npz(self.path, f"the tensor {name!r} cannot be read: {error}") from error
        return array.view(ml_dtypes.bfloat16) if array.dtype == _BFLOAT16_ON_DISK else array


def _not_npz(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path} must be an npz file of arrays, but {why}: get the file again")


def _info(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> TensorInfo:
    with archive.open(member) as file:
        try:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
        except ValueError as error:
            raise _not_npz(path, f"the member {member.filename!r} is no array: {str(error)[:100]}") from error
        header = file.tell()
    name = "BF16" if dtype == _BFLOAT16_ON_DISK else _NAMES.get(dtype)
    if name is None:
        raise _not_npz(path, f"the tensor {member.filename!r} has the dtype {dtype}, which is not known")
    info = TensorInfo(name, tuple(shape))
    if header + int(np.prod(shape, dtype=object)) * dtype.itemsize != member.file_size:
        raise _not_npz(path, f"the tensor {member.filename!r} is {info}, but has {member.file_size - header:,} bytes")
    return info
