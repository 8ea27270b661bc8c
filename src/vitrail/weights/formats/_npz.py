"""Reads npz, NumPy's archive of arrays, in which Google publishes its ViTs."""

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

from .._errors import CheckpointError
from ._opened import OpenedFile
from ._safetensors import DTYPES
from ._source import AbstractSource, NumpyArray, TensorInfo, allocate, read_into

_NAMES: Final[Mapping[np.dtype[Any], str]] = {dtype: name for name, dtype in DTYPES.items()}
_BFLOAT16_ON_DISK: Final = np.dtype("V2")  # NumPy does not know bfloat16 and writes two bytes without a type
_MOST_COMPRESSED: Final = 50
# What zipfile, its decompressors and NumPy raise for a damaged file.
_DAMAGE: Final = (
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
    """Where a tensor is in the archive."""

    filename: str
    info: TensorInfo
    start: int
    """The byte of the member where the numbers begin."""
    columns_first: bool
    """Whether it is in Fortran order."""


@final
class NpzFile(AbstractSource):
    """One npz file. One with pickled objects is an error."""

    def __init__(self, file: OpenedFile):
        path = file.path
        self.path: Path = path
        self.file: OpenedFile | None = file
        self.metadata: Mapping[str, str] = {}
        with _blame_archive(path):
            archive = zipfile.ZipFile(file.raw)
            self._archive: zipfile.ZipFile = archive
            members = archive.infolist()
            if len({member.filename for member in members}) < len(members):
                raise _refuse(path, "it has a name twice")
            packed, unpacked = (sum(getattr(m, size) for m in members) for size in ("compress_size", "file_size"))
            if unpacked > _MOST_COMPRESSED * packed + 2**20:
                raise _refuse(path, f"its {packed:,} bytes would unpack to {unpacked:,}, which weights never do")
            self._members = {m.filename.removesuffix(".npy"): _read_member(path, archive, m) for m in members}
        self.tensors: Mapping[str, TensorInfo] = {name: member.info for name, member in self._members.items()}
        self._streams: dict[str, IO[bytes]] = {}

    def read(self, name: str, row: int | None = None) -> NumpyArray:
        member = self._members[name]
        with _blame_archive(self.path, f"the tensor {name!r} cannot be read"):
            if row is None or member.columns_first:
                whole = self._read_whole(member)
                return whole if row is None else whole[row]
            return self._read_row(name, member, row)

    def _read_whole(self, member: _Member) -> NumpyArray:
        shape = member.info.shape
        array = allocate(shape[::-1] if member.columns_first else shape, DTYPES[member.info.dtype])
        with self._archive.open(member.filename) as stream:
            stream.seek(member.start)
            if not read_into(array, stream.read):
                raise EOFError("the file ends too early")
        return array.T if member.columns_first else array

    def _read_row(self, name: str, member: _Member, row: int) -> NumpyArray:
        """Reads one row. The stream stays open for the next row and closes after the last.

        So rows that are read in order are unpacked once, and the last one checks the digest of all.
        """
        array = allocate(member.info.shape[1:], DTYPES[member.info.dtype])
        if name not in self._streams:
            self._streams[name] = self._archive.open(member.filename)
        stream = self._streams.pop(name)
        try:
            stream.seek(member.start + row * array.nbytes)
            if not read_into(array, stream.read):
                raise EOFError("the file ends too early")
        except BaseException:
            stream.close()
            raise
        if row + 1 < member.info.shape[0]:
            self._streams[name] = stream
        else:
            stream.close()
        return array


@contextmanager
def _blame_archive(path: Path, what: str = "") -> Generator[None, None, None]:
    """Turns any error of a damaged file into a `CheckpointError`."""
    try:
        yield
    except CheckpointError:
        raise
    except _DAMAGE as error:
        why = f"{type(error).__name__}: {str(error)[:100]}"
        raise _refuse(path, f"{what}: {why}" if what else why) from error


def _refuse(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path} is not a valid npz file of arrays: {why}. Download it again")


def _read_member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> _Member:
    with archive.open(member) as file, _blame_archive(path, f"the member {member.filename!r} is not an array"):
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, columns_first, dtype = read(file)
        start = file.tell()
    name = "BF16" if dtype == _BFLOAT16_ON_DISK else _NAMES.get(dtype)
    if name is None:
        raise _refuse(path, f"the tensor {member.filename!r} has the unknown dtype {dtype}")
    info = TensorInfo(name, tuple(shape))
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if any(axis < 0 for axis in shape) or start + size != member.file_size:
        raise _refuse(path, f"the tensor {member.filename!r} is {info} and has {member.file_size - start:,} bytes")
    return _Member(member.filename, info, start, columns_first)
