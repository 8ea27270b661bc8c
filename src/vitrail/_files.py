"""Atomic writing of files."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file atomically: `path` has its old content or all of the new one, whatever happens.

    **Raises:** `FileNotFoundError` if the folder does not exist, and what `write` raises.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent} is not a folder: make it before writing {path}")
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(descriptor)
    part = Path(name)
    try:
        write(part)
        _flush(part)
        # mkstemp lets nobody else read; other files have the permissions that the umask leaves.
        part.chmod(0o666 & ~_read_umask())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    if os.name == "posix":
        _flush(path.parent)  # the new name has to reach the disk, too


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
