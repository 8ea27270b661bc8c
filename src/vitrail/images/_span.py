"""A part of a file, read as a file."""

import io
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
