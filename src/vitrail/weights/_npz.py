"""Reading npz: NumPy's archive of arrays, in which the JAX code of ViT publishes."""

import lzma
import tokenize
import zipfile
import zlib
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, final

import numpy as np

from ._errors import CheckpointError
from ._safetensors import DTYPES
from ._source import AbstractSource, NumpyArray, TensorInfo, aligned, read_into

_NAMES: Final[Mapping[np.dtype[Any], str]] = {dtype: name for name, dtype in DTYPES.items()}
_BFLOAT16_ON_DISK: Final = np.dtype("V2")  # which NumPy does not know and writes as two bytes of no kind
_MOST_COMPRESSED: Final = 50
# What zipfile, its decompressors and NumPy raise on bytes that make no sense.
_NONSENSE: Final = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    tokenize.TokenError,
    EOFError,
    OSError,
    ValueError,
    RuntimeError,
    MemoryError,
)


@dataclass(frozen=True)
class _Member:
    """Where a tensor lies in the archive, and how."""

    filename: str
    info: TensorInfo
    start: int
    """At which byte of the member the numbers begin."""
    columns_first: bool
    """Whether the first axis is that which runs fastest."""


@final
class NpzFile(AbstractSource):
    """One npz file. Pickled objects in it are refused."""

    def __init__(self, path: Path):
        self.path = path
        self.metadata = {}
        with _readable(path), zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len({member.filename for member in members}) < len(members):
                raise _not_npz(path, "it has a name twice")
            packed, unpacked = (sum(getattr(m, size) for m in members) for size in ("compress_size", "file_size"))
            if unpacked > _MOST_COMPRESSED * packed + 2**20:
                raise _not_npz(path, f"its {packed:,} bytes would unpack to {unpacked:,}, which no weights do")
            self._members = {m.filename.removesuffix(".npy"): _member(path, archive, m) for m in members}
        self.tensors = {name: member.info for name, member in self._members.items()}
        self._streams: dict[str, IO[bytes]] = {}

    def read(self, name: str, row: int | None = None) -> NumpyArray:
        member = self._members[name]
        with _readable(self.path, f"the tensor {name!r} cannot be read"):
            if row is None or member.columns_first:
                whole = self._whole(member)
                return whole if row is None else whole[row]
            return self._row(name, member, row)

    def _whole(self, member: _Member) -> NumpyArray:
        shape = member.info.shape
        array = aligned(shape[::-1] if member.columns_first else shape, DTYPES[member.info.dtype])
        with zipfile.ZipFile(self.path) as archive, archive.open(member.filename) as stream:
            stream.seek(member.start)
            if not read_into(array, stream.read):
                raise EOFError("it ends too early")
        return array.T if member.columns_first else array

    def _row(self, name: str, member: _Member, row: int) -> NumpyArray:
        """One row, by a stream that stays where it is until the next is asked for, and closes after the last.

        So rows in order are unpacked once, and the digest of the whole is checked at its end.
        """
        array = aligned(member.info.shape[1:], DTYPES[member.info.dtype])
        if name not in self._streams:
            with zipfile.ZipFile(self.path) as archive:
                self._streams[name] = archive.open(member.filename)
        stream = self._streams.pop(name)
        try:
            stream.seek(member.start + row * array.nbytes)
            if not read_into(array, stream.read):
                raise EOFError("it ends too early")
        except BaseException:
            stream.close()
            raise
        if row + 1 < member.info.shape[0]:
            self._streams[name] = stream
        else:
            stream.close()
        return array


@contextmanager
def _readable(path: Path, what: str = "") -> Generator[None, None, None]:
    """Where the file is read: what is wrong with it is a `CheckpointError`."""
    try:
        yield
    except CheckpointError:
        raise
    except _NONSENSE as error:
        why = f"{type(error).__name__}: {str(error)[:100]}"
        raise _not_npz(path, f"{what}: {why}" if what else why) from error


def _not_npz(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path} must be an npz file of arrays, but {why}: get the file again")


def _member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> _Member:
    with archive.open(member) as file, _readable(path, f"the member {member.filename!r} is no array"):
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, columns_first, dtype = read(file)
        start = file.tell()
    name = "BF16" if dtype == _BFLOAT16_ON_DISK else _NAMES.get(dtype)
    if name is None:
        raise _not_npz(path, f"the tensor {member.filename!r} has the dtype {dtype}, which is not known")
    info = TensorInfo(name, tuple(shape))
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if any(axis < 0 for axis in shape) or start + size != member.file_size:
        raise _not_npz(path, f"the tensor {member.filename!r} is {info}, but has {member.file_size - start:,} bytes")
    return _Member(member.filename, info, start, columns_first)
