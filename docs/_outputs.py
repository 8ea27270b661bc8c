"""Keeps what the blocks of a page print, so that a build runs only the pages that something has changed for.

A page runs again if its own text, the package, the tests, the figures, a library or the version of Python has changed.
"""

import hashlib
import json
import platform
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[1]
_FOLDER = _ROOT / ".cache" / "pages"
_READ = ("src", "tests", "docs", "pyproject.toml", "README.md")


class Outputs:
    """What the blocks of one page printed, each with its code, in the order of the page."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kept: list[list[str]] | None = (
            json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        )
        self.printed: list[list[str]] = []
        self.has_failed = False

    def run(self, run: Callable[..., str], code: str, **options: Any) -> str:
        """What a block prints: as kept, or by running it."""
        if self.kept is not None:
            expected, output = self.kept[len(self.printed)]
            if code != expected:
                raise RuntimeError(f"{self.path} has another block here: remove it")
        else:
            try:
                output = run(code, **options)
            except Exception:
                self.has_failed = True
                raise
        self.printed.append([code, output])
        return output

    def keep(self) -> None:
        """Keeps what the page printed, if each of its blocks ran."""
        if self.kept is None and self.printed and not self.has_failed:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(self.printed), encoding="utf-8")


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


def on_page_markdown(markdown: str, **others: object) -> None:
    """Looks for what the blocks of the page printed."""
    global _outputs
    name = hashlib.sha256(f"{_digest}{markdown}".encode()).hexdigest()
    _outputs = Outputs(_FOLDER / f"{name}.json")


def on_page_content(html: str, **others: object) -> None:
    """Keeps what the blocks of the page printed."""
    _outputs.keep()


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
