"""Checks the built pages: each link has its target, and nothing comes from elsewhere when a page is viewed.

MkDocs checks links in Markdown; those that executed code prints are only in the HTML.
"""

import logging
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig

_LOG = logging.getLogger("mkdocs.hooks.links")
_LOADED = {"src", "poster", "data", "background", "xlink:href"}
_NOT_LOADED = {"canonical", "next", "prev", "alternate", "license"}
_REFERENCE = re.compile(r"""url\(\s*["']?([^"')]+)|@import\s+["']([^"']+)""")


def on_post_build(config: "MkDocsConfig") -> None:
    """Warns of each link without a target, and of all that a browser would load from elsewhere: a strict build ends."""
    site = Path(config.site_dir).resolve()
    pages = {path: _Page(path) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        for link in sorted(page.links | page.loaded):
            if problem := _find_problem(link, path, site, pages):
                _LOG.warning("%s: the link %r %s", path.relative_to(site), link, problem)
    loaded = {path: page.loaded for path, page in pages.items()}
    loaded |= {
        path: _read_references(path.read_text(encoding="utf-8"))
        for path in sorted(site.rglob("*.css"))
    }
    for path, references in loaded.items():
        for reference in sorted(references):
            if urlsplit(reference).netloc:
                _LOG.warning(
                    "%s: %r is loaded from elsewhere", path.relative_to(site), reference
                )


class _Page(HTMLParser):
    """The links of a page, what a browser loads with it, and the names that links can point to."""

    def __init__(self, path: Path):
        super().__init__()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.names: set[str] = {"", "__skip"}
        self._style = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value}
        self._style = tag == "style"
        self.names |= {given[name] for name in ("id", "name") if name in given}
        self.loaded |= {given[name] for name in _LOADED & given.keys()} | _read_references(
            given.get("style", "")
        )
        self.loaded |= {
            choice.split()[0]
            for choice in given.get("srcset", "").split(",")
            if choice.strip()
        }
        if "href" in given:
            is_link = tag in ("a", "area") or given.get("rel") in _NOT_LOADED
            (self.links if is_link else self.loaded).add(given["href"])

    def handle_data(self, data: str) -> None:
        if self._style:
            self.loaded |= _read_references(data)


def _read_references(style: str) -> set[str]:
    """The files that a style sheet names."""
    return {(link or imported).strip() for link, imported in _REFERENCE.findall(style)}


def _find_problem(link: str, path: Path, site: Path, pages: dict[Path, _Page]) -> str:
    """What is wrong with a link of a page, in words; the empty string for nothing."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return (
            ""
            if parts.scheme in ("", "http", "https", "mailto", "data")
            else "has an unknown scheme"
        )
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
