"""Files that are whole or not there."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file next to its place and moves it there when it is complete and on the disk.

    Whatever happens, `path` holds what it held before, or all of what is new.

    **Raises:** `FileNotFoundError` where the folder is not there, and what `write` raises.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path} must lie in a folder that there is, but {path.parent} is none: make it first")
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(descriptor)
    part = Path(name)
    try:
        write(part)
        _flush(part)
        # mkstemp lets nobody else read; a file that is written plainly has what the process's mask leaves.
        part.chmod(0o666 & ~_mask())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    if os.name == "posix":
        _flush(path.parent)  # the new name, too, has to reach the disk


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _mask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
