"""Reads safetensors, strictly and without mapping the file into memory, and writes it.

The library maps the file. The mapped pages then count as memory beside the arrays that are filled from them: twice the
weights. Reading one tensor at a time needs the weights and one tensor.
"""

import json
import math
from collections.abc import Callable, Mapping
from io import FileIO
from pathlib import Path
from typing import Any, Final, cast, final

import ml_dtypes
import numpy as np

from ..._extras import require
from ..._files import write_whole
from .._errors import CheckpointError
from ._opened import OpenedFile
from ._source import MAX_HEADER, AbstractSource, NumpyArray, TensorInfo, allocate, read_into

DTYPES: Final[Mapping[str, np.dtype[Any]]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
"""The dtypes of the format by name. All are little-endian."""
_SHOWN: Final = 40
_OTHER_KINDS: Final[Mapping[bytes, str]] = {
    b"version https://git-lfs": "it is a pointer of Git LFS, which 'git lfs pull' replaces with the file",
    b"<": "it is a page in HTML or XML, as a failed download leaves it",
    b"\xff\xd8\xff": "it is a JPEG image",
    b"\x89PNG": "it is a PNG image",
}
"""What people take for a safetensors file, by its first bytes."""


@final
class SafetensorsFile(AbstractSource):
    """One safetensors file.

    Source: the description of the format, https://huggingface.co/docs/safetensors: eight bytes with the length of the
    header, the header in JSON, and the tensors one after the other without gaps.
    """

    def __init__(self, file: OpenedFile):
        path, raw, size = file.path, file.raw, file.size
        self.path: Path = path
        self.file: OpenedFile | None = file
        self._raw: FileIO = raw
        raw.seek(0)
        length = int.from_bytes(raw.read(8), "little")
        if size < 8 or length > size - 8:
            raw.seek(0)
            why = f"the header should have {length:,} bytes, the file has {size:,}"
            raise _refuse(path, _recognise_other(raw.read(_SHOWN)) or why)
        if length > MAX_HEADER:
            raise _refuse(path, f"the header has {length:,} bytes, more than {MAX_HEADER:,}")
        header = raw.read(length)
        entries = _read_header(path, header)
        metadata = entries.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(
            isinstance(text, str) for text in cast("dict[str, object]", metadata).values()
        ):
            raise _refuse(path, "the metadata is not an object of strings")
        self.metadata: Mapping[str, str] = cast("dict[str, str]", metadata)
        self._start = 8 + length
        self._spans = {name: _read_span(path, name, entry) for name, entry in entries.items()}
        self.tensors: Mapping[str, TensorInfo] = {name: info for name, (info, _) in self._spans.items()}
        end = 0
        for name, (info, begin) in sorted(self._spans.items(), key=lambda item: (item[1][1], _count_bytes(item[1][0]))):
            if begin != end:
                raise _refuse(path, f"the tensor {name!r} begins at byte {begin:,} instead of {end:,}")
            end += _count_bytes(info)
        if end != size - self._start:
            raise _refuse(path, f"the tensors have {end:,} bytes, but {size - self._start:,} follow the header")

    def read(self, name: str, row: int | None = None) -> NumpyArray:
        info, begin = self._spans[name]
        array = allocate(info.shape if row is None else info.shape[1:], DTYPES[info.dtype])
        self._raw.seek(self._start + begin + (row or 0) * array.nbytes)
        if not read_into(array, self._raw.read):
            raise _refuse(self.path, f"it ends within the tensor {name!r}")
        return array


def _recognise_other(start: bytes) -> str:
    """What else a file is by its first bytes; the empty string if they do not tell."""
    known = next((kind for beginning, kind in _OTHER_KINDS.items() if start.lstrip().startswith(beginning)), "")
    text = " ".join(start.decode("ascii", "replace").split()) if start.isascii() else ""
    return known or (f"it is text that begins with {text!r}" if text and text.isprintable() else "")


def _refuse(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path} is not a valid safetensors file: {why}. Download it again")


def _read_header(path: Path, header: bytes) -> dict[str, object]:
    def refuse_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found: dict[str, object] = {}
        for name, value in pairs:
            if name in found:
                raise _refuse(path, f"the header has the name {name!r} twice")
            found[name] = value
        return found

    try:
        entries: object = json.loads(header.decode(), object_pairs_hook=refuse_duplicates)
    except CheckpointError:
        raise
    except (ValueError, RecursionError) as error:
        raise _refuse(path, f"the header is not JSON ({str(error)[:100]})") from error
    if not isinstance(entries, dict):
        raise _refuse(path, "the header is not a JSON object")
    return cast("dict[str, object]", entries)


def _read_span(path: Path, name: str, entry: object) -> tuple[TensorInfo, int]:
    """The dtype and shape of a tensor, and the byte where it begins."""
    fields = cast("dict[str, object]", entry) if isinstance(entry, dict) else {}
    dtype, shape, offsets = (
        fields.get("dtype"),
        _read_lengths(fields.get("shape")),
        _read_lengths(fields.get("data_offsets")),
    )
    if len(fields) != 3 or not isinstance(dtype, str) or shape is None or offsets is None or len(offsets) != 2:
        raise _refuse(path, f"the header describes the tensor {name!r} by {str(cast(object, entry))[:100]}")
    if dtype not in DTYPES:
        raise _refuse(path, f"the tensor {name!r} has the unknown dtype {dtype!r}")
    info, (begin, end) = TensorInfo(dtype, shape), offsets
    if end - begin != _count_bytes(info):
        raise _refuse(path, f"the tensor {name!r} is {info} and has {end - begin:,} bytes")
    return info, begin


def _read_lengths(value: object) -> tuple[int, ...] | None:
    """A list of whole numbers that are not negative; `None` if it is something else."""
    if not isinstance(value, list):
        return None
    numbers = [n for n in cast("list[object]", value) if type(n) is int and n >= 0]
    return tuple(numbers) if len(numbers) == len(cast("list[object]", value)) else None


def _count_bytes(info: TensorInfo) -> int:
    return math.prod(info.shape) * DTYPES[info.dtype].itemsize


def write_safetensors(
    arrays: Mapping[str, NumpyArray],
    path: Path,
    metadata: Mapping[str, str],
    *,
    before_move: Callable[[], object] | None = None,
) -> None:
    """Writes a safetensors file with `write_whole`. An interruption leaves the file that was there before."""
    numpy_format = require("safetensors.numpy", extra="weights")
    # safetensors writes the memory as it is, and so would scramble an array that is not in C order.
    ordered = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    write_whole(
        path, lambda part: numpy_format.save_file(ordered, part, metadata=dict(metadata)), before_move=before_move
    )
