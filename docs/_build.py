"""What the build of the site does besides: it lets JAX compile less, and checks the links of the built pages.

MkDocs checks links in Markdown; those that executed code prints are only in the HTML.
"""

import ctypes
import gc
import logging
import os
import sys
from html.parser import HTMLParser
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig

_LOG = logging.getLogger("mkdocs.hooks.links")


def on_startup(**others: object) -> None:
    """Has JAX compile less, before a page imports it.

    Pages and builds have many programs in common: `.cache` keeps them. XLA takes half the time for a step of training
    at level 1 and with its older code generator, and the step is as fast. Level 0 makes slow steps; JAX 0.12 has that
    generator no longer, and XLA ends the process at a flag that it does not know.
    """
    older = "--xla_cpu_use_fusion_emitters=false" if version("jax").startswith("0.10.") else ""
    os.environ.setdefault("XLA_FLAGS", f"--xla_backend_optimization_level=1 {older}".strip())
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).resolve().parents[1] / ".cache" / "jax"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


def on_page_content(html: str, **others: object) -> None:
    """Frees the variables and the programs of a page: all pages run in one process."""
    from markdown_exec._internal.formatters.python import _sessions_globals  # its version is pinned

    _sessions_globals.clear()
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
        gc.collect()
        if sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)  # else glibc keeps the memory of the compiler


def on_post_build(config: "MkDocsConfig") -> None:
    """Warns of each link to a page, a file or a heading that the site does not have, which ends a strict build."""
    site = Path(config.site_dir).resolve()
    pages = {path: _Page(path) for path in site.rglob("*.html")}
    for path, page in pages.items():
        for link in page.links:
            if problem := _find_problem(link, path, site, pages):
                _LOG.warning("%s: the link %r %s", path.relative_to(site), link, problem)


class _Page(HTMLParser):
    """The links of a page, and the names that links can point to."""

    def __init__(self, path: Path):
        super().__init__()
        self.links: set[str] = set()
        self.names: set[str] = {"", "__skip"}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.names |= {value for name in ("id", "name") if (value := given.get(name))}
        self.links |= {value for name in ("href", "src") if (value := given.get(name))}


def _find_problem(link: str, path: Path, site: Path, pages: dict[Path, _Page]) -> str:
    """What is wrong with a link of a page, in words; the empty string for nothing."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return "" if parts.scheme in ("http", "https", "mailto", "data") else "has an unknown scheme"
    if path.name == "404.html":  # its links start at the root of a server
        return ""
    target = path if not parts.path else (path.parent / unquote(parts.path)).resolve()
    if target.is_dir():
        target /= "index.html"
    if not target.is_file() or not target.is_relative_to(site):
        return "has no target"
    if target in pages and unquote(parts.fragment) not in pages[target].names:
        return f"has no target named {parts.fragment!r}"
    return ""
