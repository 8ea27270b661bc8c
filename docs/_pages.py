"""Runs the blocks of a page in a process beside the build, and keeps what they print."""

import contextlib
import ctypes
import gc
import json
import mmap
import multiprocessing
import os
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

_BLOCK = re.compile(
    r'^ *```python ([^\n]*exec="1"[^\n]*)\n(.*?)\n *```$', re.DOTALL | re.MULTILINE
)
_SESSION = re.compile(r'session="([^"]+)"')


class Outputs:
    """What the blocks of one page printed, each with its code, in the order of the page."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kept: list[list[str]] | None = (
            json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        )
        self.printed: list[list[str]] = []

    def run(self, run: Callable[..., str], code: str, **options: Any) -> str:
        """What a block prints: as kept, or by running it."""
        if self.kept is None:
            output = run(code, **options)
        else:
            output = "".join(printed for _, printed in self.kept[len(self.printed) :][:1])
        self.printed.append([code, output])
        return output

    def keep(self) -> None:
        """Keeps what the page printed."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        written = self.path.with_suffix(f".{os.getpid()}")
        written.write_text(json.dumps(self.printed), encoding="utf-8")
        written.replace(self.path)

    def is_whole(self) -> bool:
        """Whether the blocks that were asked for are those that are kept, if any are."""
        return self.kept in (None, self.printed)


def start_process() -> None:
    """Has this process end with the one that started it, also if that one is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def run_page(markdown: str, path: Path) -> None:
    """Runs the blocks of a page and keeps what they print in a file, or nothing if one of them fails."""
    # Its version is pinned.
    from markdown_exec._internal.formatters import python
    from markdown_exec._internal.formatters.base import ExecutionError

    try:
        with contextlib.chdir("."):  # a page may change it
            run_blocks(markdown, path, python._run_python)
    except ExecutionError:
        pass  # the build runs the page again, and warns
    finally:
        free_memory()


def run_blocks(markdown: str, path: Path, run: Callable[..., str]) -> None:
    """Runs the blocks of a page and keeps what they print in a file, or raises the error of a block."""
    outputs = Outputs(path)
    for options, code in _BLOCK.findall(markdown):
        session = _SESSION.search(options)
        outputs.run(run, dedent(code), session=session and session[1])
    outputs.keep()


def free_memory() -> None:
    """Frees the variables of a page, and the programs if the process is large: many pages run in one process."""
    from markdown_exec._internal.formatters.python import _sessions_globals

    # `eqx.filter_jit` keeps a function, and so its page, in a structure that the garbage collector cannot look into.
    for variables in _sessions_globals.values():
        variables.clear()
    _sessions_globals.clear()
    if "jax" not in sys.modules:
        return
    jax = sys.modules["jax"]
    # A page may have changed it.
    jax.config.update(
        "jax_disable_most_optimizations",
        os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS") == "1",
    )
    if _is_large():
        jax.clear_caches()
        gc.collect()
        if sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)  # else glibc keeps the memory of the compiler


def _is_large() -> bool:
    """Whether the process has more than 500 MB of memory now, or that is not known."""
    pages = Path("/proc/self/statm")
    return not pages.exists() or int(pages.read_text().split()[1]) * mmap.PAGESIZE > 5e8
