"""A file that is opened once, so that all that is read from it is of one version."""

import os
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import final

from .._errors import CheckpointError


def check_exists(path: Path) -> None:
    """Raises a `FileNotFoundError` of one sentence if there is nothing at a path."""
    try:
        path.stat()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is not a file or a folder: check the path") from error


@final
class OpenedFile:
    """A file that is open for reading.

    Another file that takes its place meanwhile is not read. Leaving the context raises an error if the file itself was
    overwritten, and, for one of several files that belong together, if another took its place.
    """

    one_of_several: bool
    """Whether it belongs together with others. It can be set until the context is left."""

    def __init__(self, path: Path, *, one_of_several: bool = False):
        self.path: Path = path
        self.raw: FileIO = path.open("rb", buffering=0)
        self.size: int = os.fstat(self.raw.fileno()).st_size
        self.one_of_several = one_of_several
        self._before = self._read_state()

    def __enter__(self) -> "OpenedFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        changed = self._read_state() != self._before or (self.one_of_several and not self._is_in_place())
        self.raw.close()
        if changed and (error is None or isinstance(error, CheckpointError)):
            raise CheckpointError(
                f"{self.path} changed while it was read: load it again when it is complete"
            ) from error

    def _read_state(self) -> tuple[int, int]:
        held = os.fstat(self.raw.fileno())
        return held.st_size, held.st_mtime_ns

    def _is_in_place(self) -> bool:
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self.raw.fileno()))
        except OSError:
            return False
