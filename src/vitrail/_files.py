"""Atomic writing of files, reading them back, and folders for what is only needed for a while."""

import contextlib
import dataclasses
import json
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, Final, cast

if sys.platform != "win32":
    import fcntl

_SCRATCH: Final = re.compile(r"\..+\.\d+-[0-9a-f]{8}\.part")
_LOCK: Final = "lock"
_SHORT: Final = 60
"""Longer facts are not printed."""


def write_whole(
    path: Path, write: Callable[[Path], object], *, before_move: Callable[[], object] | None = None
) -> None:
    """Writes a file atomically: `path` has its old content or all of the new one, whatever happens.

    The file keeps its mode and, where that is allowed, its owner and group; a new one gets what the umask leaves. A
    symbolic link stays one, and the file that it points to is written.

    **Arguments:**

    - `path`: the file to write.
    - `write`: writes the file at the path that it is given, which is another one with the same suffix.
    - `before_move`: called when the new content is complete and on the disk, just before it is moved to its place.

    **Raises:** `FileNotFoundError` if the folder does not exist; `IsADirectoryError` if `path` is a folder; `OSError`
    if it is a device or a pipe; what `write` and `before_move` raise.
    """
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target.parent} is not a folder: make it before writing {path}")
    before = _read_status(path, target)
    with make_scratch(target.parent, target.name) as scratch:
        part = scratch / f"part{target.suffix}"
        write(part)
        _flush(part, os.O_RDWR)
        if before is None:
            part.chmod(stat.S_IMODE((scratch / _LOCK).stat().st_mode))  # what the umask leaves of a new file
        else:
            _give_status(part, before)
        if before_move is not None:
            before_move()
        part.replace(target)
    if os.name == "posix":
        _flush(target.parent, os.O_RDONLY)  # the new name has to reach the disk, too


def read_object(path: Path) -> dict[str, object]:
    """Reads a JSON object that vitrail wrote.

    **Raises:** `ValueError` that names the file if it holds something else; `OSError` if it cannot be read.
    """
    try:
        found: object = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} must be the JSON object that vitrail wrote, got an error: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(
            f"{path} must be the JSON object that vitrail wrote, got a value of the type {type(found).__name__}"
        )
    return cast("dict[str, object]", found)


def is_file_name(name: object) -> bool:
    """Whether this is the name of a file, and not a path to another folder."""
    return isinstance(name, str) and name == Path(name).name and name not in ("", ".", "..") and "\\" not in name


def spell_fields(options: Any) -> dict[str, str]:
    """The fields of a dataclass as they are printed, as a fact for `claim_folder`."""
    return {field.name: repr(getattr(options, field.name)) for field in dataclasses.fields(options)}


def check_facts(path: Path, facts: Mapping[str, object]) -> None:
    """Checks that the results in the folder of a file depend on these facts. A file that does not exist is as good.

    **Arguments:**

    - `path`: the file that `claim_folder` wrote.
    - `facts`: what the results depend on, by name; each a value, or several by name.

    **Raises:** `ValueError` that names the facts that differ, or if the file is not what vitrail wrote.
    """
    if not path.exists():
        return
    found = read_object(path)
    if missing := [name for name in facts if name not in found]:
        raise ValueError(f"{path} must be the record of such a run, got one without {missing[0]}: pass a new folder")
    told = [_tell_difference(name, found.get(name), value) for name, value in facts.items() if found.get(name) != value]
    if told:
        raise ValueError(
            f"{path.parent} has the results of another run, which differs in {' and '.join(told)}: pass a new folder, "
            "or the arguments of that run"
        )


def _tell_difference(name: str, there: object, here: object) -> str:
    """The name of a fact, and what differs if that says something: a digest or a number that was computed does not."""
    if isinstance(there, str) and isinstance(here, str) and max(len(there), len(here)) <= _SHORT:
        return f"{name} ({there} there, {here} here)"
    if not isinstance(there, Mapping) or not isinstance(here, Mapping):
        return name
    old, new = cast("Mapping[str, object]", there), cast("Mapping[str, object]", here)
    differing = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    return f"{name} ({'; '.join(f'{key}: {old.get(key)} there, {new.get(key)} here' for key in differing)})"


def claim_folder(path: Path, facts: Mapping[str, object], notes: Mapping[str, object] | None = None) -> None:
    """Notes in a file what the results in its folder depend on, or checks that they depend on the same.

    **Arguments:**

    - `path`: the file. Its folder is made.
    - `facts`: what they depend on, by name.
    - `notes`: what is written beside and not compared.

    **Raises:** what `check_facts` raises.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(path.parent)
    check_facts(path, facts)
    if not path.exists():
        text = json.dumps({**facts, **(notes or {})}, indent=2)
        write_whole(path, lambda part: part.write_text(text))


@contextlib.contextmanager
def make_scratch(folder: Path, name: str) -> Generator[Path]:
    """Makes a hidden folder in `folder`, and removes it at the end.

    If the process is killed, the folder stays. The next one that is made in `folder` removes it: a process holds a lock
    on its own, which ends with the process.

    **Arguments:**

    - `folder`: where the folder is made.
    - `name`: what it is for; a part of its name.

    **Returns:**

    A context manager that returns the path of the folder.
    """
    remove_stale(folder)
    scratch, lock = _lock_new(folder, name)
    try:
        yield scratch
    finally:
        os.close(lock)  # Windows removes no file that is open
        shutil.rmtree(scratch, ignore_errors=True)


def remove_stale(folder: Path) -> None:
    """Removes the folders that `make_scratch` made in `folder` for processes that are dead.

    Those stay that are not ours to remove, and those on a file system without locks.
    """
    with contextlib.suppress(OSError):
        for path in [Path(entry) for entry in os.scandir(folder) if _SCRATCH.fullmatch(entry.name)]:
            with contextlib.suppress(OSError):
                _remove_if_stale(path)


def _remove_if_stale(path: Path) -> None:
    if sys.platform == "win32":
        return
    try:
        lock = os.open(path / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        path.rmdir()  # its process died before it made the lock, or is about to make it, and then makes another folder
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(lock)


def _lock_new(folder: Path, name: str) -> tuple[Path, int]:
    """Makes a folder, with a locked file in it; also returns the open file."""
    while True:
        # A file name has at most 255 bytes, and a character at most four.
        path = folder / f".{name[:50]}.{os.getpid()}-{secrets.token_hex(4)}.part"
        path.mkdir(0o700)
        try:
            lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except FileNotFoundError:
            continue  # another process took it for a stale one before it was locked
        if sys.platform != "win32":
            with contextlib.suppress(OSError):  # a file system without locks, on which nothing is ever stale
                fcntl.flock(lock, fcntl.LOCK_EX)
        if os.fstat(lock).st_nlink:
            return path, lock
        os.close(lock)


def _read_status(path: Path, target: Path) -> os.stat_result | None:
    """The status of the file that is to be replaced; `None` if there is none."""
    try:
        status = target.stat()
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(f"{path} is a folder: pass the path of a file in it")
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"{path} must be a file, got a device or a pipe: pass the path of a file")
    return status


def _give_status(part: Path, status: os.stat_result) -> None:
    """Gives a file the owner, the group and the mode of another."""
    made = part.stat()
    if sys.platform != "win32" and (made.st_uid, made.st_gid) != (status.st_uid, status.st_gid):
        for owner, group in ((-1, status.st_gid), (status.st_uid, -1)):
            with contextlib.suppress(PermissionError):  # only root gives files away
                os.chown(part, owner, group)
    part.chmod(stat.S_IMODE(status.st_mode))


def _flush(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def count_cores() -> int:
    """Counts the cores that this process may use: so many files are decoded at a time."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
