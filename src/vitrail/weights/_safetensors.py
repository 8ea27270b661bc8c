"""Reading safetensors, strictly and without mapping the file into memory.

The library maps the file, and the mapped pages count as memory of the process beside the arrays that are filled from
them: twice the weights. Plain reads of one tensor at a time need the weights and one tensor.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast, final

import ml_dtypes
import numpy as np

from ._errors import CheckpointError
from ._source import MAX_HEADER, AbstractSource, NumpyArray, TensorInfo, aligned, read_into

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
"""The dtypes of the format by name. All lie in memory with the lowest byte first."""
_SHOWN: Final = 40
_OTHER_KINDS: Final[Mapping[bytes, str]] = {
    b"version https://git-lfs": "it is a pointer of Git LFS, which 'git lfs pull' replaces by the file",
    b"<": "it is a page in HTML or XML, such as a failed download leaves",
    b"\xff\xd8\xff": "it is a JPEG picture",
    b"\x89PNG": "it is a PNG picture",
}
"""What is taken for a safetensors file by mistake, by its first bytes."""


@final
class SafetensorsFile(AbstractSource):
    """One safetensors file.

    Source: the format's description, https://huggingface.co/docs/safetensors: eight bytes of length, a JSON header,
    the tensors one after the other without gaps.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if size < 8 or length > size - 8:
                    file.seek(0)
                    why = f"its header would have {length:,} bytes, and the file has {size:,}"
                    raise _not_safetensors(path, _other_kind(file.read(_SHOWN)) or why)
                if length > MAX_HEADER:
                    raise _not_safetensors(path, f"its header has {length:,} bytes, more than {MAX_HEADER:,}")
                header = file.read(length)
        except IsADirectoryError as error:
            raise CheckpointError(f"{path} must be a file, but it is a folder") from error
        entries = _json(path, header)
        metadata = entries.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(
            isinstance(text, str) for text in cast("dict[str, object]", metadata).values()
        ):
            raise _not_safetensors(path, "its metadata is not an object of strings")
        self.metadata = cast("dict[str, str]", metadata)
        self._start = 8 + length
        self._spans = {name: _span(path, name, entry) for name, entry in entries.items()}
        self.tensors = {name: info for name, (info, _) in self._spans.items()}
        end = 0
        for name, (info, begin) in sorted(self._spans.items(), key=lambda item: (item[1][1], _num_bytes(item[1][0]))):
            if begin != end:
                raise _not_safetensors(path, f"the tensor {name!r} begins at byte {begin:,} instead of {end:,}")
            end += _num_bytes(info)
        if end != size - self._start:
            raise _not_safetensors(
                path, f"its tensors have {end:,} bytes, and {size - self._start:,} follow the header"
            )

    def read(self, name: str, row: int | None = None) -> NumpyArray:
        info, begin = self._spans[name]
        array = aligned(info.shape if row is None else info.shape[1:], DTYPES[info.dtype])
        with self.path.open("rb", buffering=0) as file:
            file.seek(self._start + begin + (row or 0) * array.nbytes)
            if not read_into(array, file.read):
                raise _not_safetensors(self.path, f"it ends within the tensor {name!r}")
        return array


def _other_kind(start: bytes) -> str:
    """What a file is by how it begins; the empty string where that says nothing."""
    known = next((kind for beginning, kind in _OTHER_KINDS.items() if start.lstrip().startswith(beginning)), "")
    text = " ".join(start.decode("ascii", "replace").split()) if start.isascii() else ""
    return known or (f"it is text that begins with {text!r}" if text and text.isprintable() else "")


def _not_safetensors(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path} must be a safetensors file, but {why}: get the file again")


def _json(path: Path, header: bytes) -> dict[str, object]:
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found: dict[str, object] = {}
        for name, value in pairs:
            if name in found:
                raise _not_safetensors(path, f"its header has the name {name!r} twice")
            found[name] = value
        return found

    try:
        entries: object = json.loads(header.decode(), object_pairs_hook=unique)
    except CheckpointError:
        raise
    except (ValueError, RecursionError) as error:
        raise _not_safetensors(path, f"its header is no JSON ({str(error)[:100]})") from error
    if not isinstance(entries, dict):
        raise _not_safetensors(path, "its header is no JSON object")
    return cast("dict[str, object]", entries)


def _span(path: Path, name: str, entry: object) -> tuple[TensorInfo, int]:
    """What the header says of a tensor, and at which byte it begins."""
    fields = cast("dict[str, object]", entry) if isinstance(entry, dict) else {}
    dtype, shape, offsets = fields.get("dtype"), _numbers(fields.get("shape")), _numbers(fields.get("data_offsets"))
    if len(fields) != 3 or not isinstance(dtype, str) or shape is None or offsets is None or len(offsets) != 2:
        raise _not_safetensors(path, f"the tensor {name!r} is described by {str(cast(object, entry))[:100]}")
    if dtype not in DTYPES:
        raise _not_safetensors(path, f"the tensor {name!r} has the dtype {dtype!r}, which is not known")
    info, (begin, end) = TensorInfo(dtype, shape), offsets
    if end - begin != _num_bytes(info):
        raise _not_safetensors(path, f"the tensor {name!r} is {info}, but has {end - begin:,} bytes")
    return info, begin


def _numbers(value: object) -> tuple[int, ...] | None:
    """A list of whole numbers that are not negative; `None` for anything else."""
    if not isinstance(value, list):
        return None
    numbers = [n for n in cast("list[object]", value) if type(n) is int and n >= 0]
    return tuple(numbers) if len(numbers) == len(cast("list[object]", value)) else None


def _num_bytes(info: TensorInfo) -> int:
    return math.prod(info.shape) * DTYPES[info.dtype].itemsize
