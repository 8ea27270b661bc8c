"""A part of a file, read as a file."""

import io
import os
from collections.abc import Sequence
from typing import Any, Final, final

_SMALL: Final = 2**16
"""Up to how many bytes are read at once, which is faster."""


@final
class _Span(io.RawIOBase):
    """The bytes of a file from a place on. Nothing is read that is not asked for."""

    def __init__(self, path: str, begin: int, size: int):
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115
        self._begin, self._size, self._place = begin, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._begin + self._place)
        wanted = memoryview(buffer)[: max(0, self._size - self._place)]
        number = self._file.readinto(wanted)
        self._place += number
        return number

    def close(self) -> None:
        self._file.close()
        super().close()


def open_span(path: str, begin: int, size: int) -> io.BufferedIOBase:
    """Opens a part of a file.

    **Arguments:**

    - `path`: the file.
    - `begin`: where the part begins.
    - `size`: how many bytes it has.

    **Returns:**

    A file of these bytes.
    """
    if size <= _SMALL:
        with open(path, "rb", buffering=0) as file:
            file.seek(begin)
            return io.BytesIO(file.read(size))
    return io.BufferedReader(_Span(path, begin, size))


def read_ends(path: bytes, spans: Sequence[Sequence[int] | None], at_most: int | None) -> list[bytes]:
    """Reads the ends of parts of a file.

    **Arguments:**

    - `path`: the file.
    - `spans`: where each part begins, and how many bytes it has; `None` for all of the file.
    - `at_most`: how many bytes of each part are read; `None` for all.

    **Returns:**

    The last bytes of each part; none, if the file cannot be read.
    """
    try:
        file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except OSError:
        return [b""] * len(spans)
    try:
        whole = (0, os.fstat(file).st_size)
        return [_read_end(file, span or whole, at_most) for span in spans]
    except OSError:
        return [b""] * len(spans)
    finally:
        os.close(file)


def _read_end(file: int, span: Sequence[int], at_most: int | None) -> bytes:
    begin, size = span
    many = size if at_most is None else min(size, at_most)
    os.lseek(file, begin + size - many, os.SEEK_SET)
    return os.read(file, many)
