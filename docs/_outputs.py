"""Runs pages two at a time, and keeps what their blocks print, so that a build runs only those that something has
changed for.

A page runs again if its own text, the package, the tests, the figures, a library or the version of Python has changed.
"""

import hashlib
import multiprocessing
import platform
import sys
from concurrent.futures import Future, ProcessPoolExecutor
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _pages import Outputs, free_memory, run_page, start_process

if TYPE_CHECKING:
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

_ROOT = Path(__file__).resolve().parents[1]
_FOLDER = _ROOT / ".cache" / "pages"
_READ = ("src", "tests", "docs", "pyproject.toml", "README.md")

_processes: ProcessPoolExecutor | None = None
_running: dict[str, Future[None]] = {}
_outputs: Outputs
_digest: str


def on_pre_build(**others: object) -> None:
    """Has each block ask for what it printed before."""
    global _digest
    _digest = digest_sources(_ROOT)
    # Its version is pinned.
    from markdown_exec._internal.formatters import python

    run = getattr(python._run_python, "__wrapped__", python._run_python)

    def run_or_read(code: str, returncode: int | None = None, **options: Any) -> str:
        return _outputs.run(run, code, returncode=returncode, **options)

    run_or_read.__wrapped__ = run  # `mkdocs serve` builds many times
    python._run_python = run_or_read


def on_files(files: "Files", **others: object) -> None:
    """Begins to run the pages that nothing is kept for."""
    global _processes
    docs = str(_ROOT / "docs")
    if docs not in sys.path:
        sys.path.append(docs)  # for the processes to find `_pages`
    _processes = ProcessPoolExecutor(
        2, multiprocessing.get_context("spawn"), initializer=start_process
    )
    _running.clear()
    for file in files.documentation_pages():
        path = path_of(file.content_string)
        if 'exec="1"' in file.content_string and not path.exists():
            _running[file.src_uri] = _processes.submit(run_page, file.content_string, path)


def on_page_markdown(markdown: str, page: "Page", **others: object) -> None:
    """Waits for the page, and reads what its blocks printed."""
    global _outputs
    if page.file.src_uri in _running:
        _running[page.file.src_uri].result()
    _outputs = Outputs(path_of(markdown))


def on_page_content(html: str, page: "Page", **others: object) -> None:
    """Checks that the blocks of the page are those that were run."""
    if not _outputs.is_whole():
        raise RuntimeError(
            f"{page.file.src_uri}: Markdown finds other blocks than docs/_pages.py"
        )
    free_memory()


def on_env(env: object, **others: object) -> None:
    """Ends the processes: all pages have run."""
    assert _processes is not None
    _processes.shutdown()


def on_build_error(error: Exception, **others: object) -> None:
    """Runs no more pages."""
    if _processes is not None:
        _processes.shutdown(wait=False, cancel_futures=True)


def path_of(markdown: str) -> Path:
    """The file for what the blocks of a page print."""
    return _FOLDER / f"{hashlib.sha256(f'{_digest}{markdown}'.encode()).hexdigest()}.json"


def digest_sources(root: Path) -> str:
    """A digest of all that pages read besides their own text: files, libraries and the version of Python."""
    found = hashlib.sha256(platform.python_version().encode())
    libraries = {f"{each.metadata['Name']} {each.version}" for each in distributions()}
    found.update("\n".join(sorted(libraries)).encode())
    for start in _READ:
        files = [root / start] if (root / start).is_file() else (root / start).rglob("*")
        for path in sorted(files):
            if "__pycache__" in path.parts or (start == "docs" and path.suffix == ".md"):
                continue
            if path.is_file():
                found.update(f"{path.relative_to(root)}\0{path.stat().st_size}\0".encode())
                found.update(path.read_bytes())
    return found.hexdigest()
