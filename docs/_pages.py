"""Runs the blocks of a page in a process beside the build, and keeps what they print."""

import ctypes
import gc
import json
import mmap
import re
import sys
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
        written = self.path.with_suffix(".part")
        written.write_text(json.dumps(self.printed), encoding="utf-8")
        written.replace(self.path)

    def check(self) -> None:
        """Raises an error if the page has other blocks than those that were run."""
        if self.kept not in (None, self.printed):
            raise RuntimeError(f"{self.path} is of other blocks: remove it")


def run_page(markdown: str, path: Path) -> None:
    """Runs the blocks of a page and keeps what they print in a file, or nothing if one of them fails."""
    # Its version is pinned.
    from markdown_exec._internal.formatters import python
    from markdown_exec._internal.formatters.base import ExecutionError

    outputs = Outputs(path)
    try:
        for options, code in _BLOCK.findall(markdown):
            session = _SESSION.search(options)
            outputs.run(python._run_python, dedent(code), session=session and session[1])
        outputs.keep()
    except ExecutionError:
        pass  # the build runs the page again, and warns
    finally:
        _free_memory(python._sessions_globals)


def _free_memory(sessions: dict[str, dict[str, Any]]) -> None:
    """Frees the variables of a page, and if they are large, the programs: many pages run in one process."""
    # `eqx.filter_jit` keeps a function, and so its page, in a structure that the garbage collector cannot look into.
    for variables in sessions.values():
        variables.clear()
    sessions.clear()
    if "jax" not in sys.modules:
        return
    jax = sys.modules["jax"]
    jax.config.update("jax_disable_most_optimizations", True)  # a page may have changed it
    if _is_large():
        jax.clear_caches()
        gc.collect()
        if sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)  # else glibc keeps the memory of the compiler


def _is_large() -> bool:
    """Whether the process has more than 500 MB of memory now, or that is not known."""
    pages = Path("/proc/self/statm")
    return not pages.exists() or int(pages.read_text().split()[1]) * mmap.PAGESIZE > 5e8
