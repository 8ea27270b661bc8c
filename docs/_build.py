"""What the build of the site does besides: fewer compilations, links of pictures, a way on from a page that is not
there, a search that works from a folder."""

import os
import re
from importlib.metadata import metadata, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig

_PICTURE = re.compile(r"<a\b.*?</a>|<img\b[^>]*>", re.DOTALL)


def on_startup(**others: object) -> None:
    """Has JAX compile less, before a page imports it.

    Pages and builds have many programs in common: `.cache` keeps them. Without optimisations, XLA compiles a step of
    training in 0.4 of the time, but the step takes twice as long. So the pages that train most turn optimisations on.
    For them, XLA's level 1 and its older code generator compile in 0.6 of the time. One piece of code instead of many
    (`split_count`) takes 5 % less. JAX 0.12 has that generator no longer, and XLA ends the process at a flag that it
    does not know.

    With one arena of glibc, a process that ran many pages has 80 MB less.
    """
    os.environ.setdefault("MALLOC_ARENA_MAX", "1")
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    older = (
        "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
        if version("jax").startswith("0.10.")
        else ""
    )
    os.environ.setdefault(
        "XLA_FLAGS", f"--xla_backend_optimization_level=1 {older}".strip()
    )
    os.environ.setdefault(
        "JAX_COMPILATION_CACHE_DIR",
        str(Path(__file__).resolve().parents[1] / ".cache" / "jax"),
    )
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


def on_config(config: "MkDocsConfig") -> None:
    """Writes into the footer which version the site describes. There is no address of a repository to link to yet."""
    of = metadata("vitrail")
    config.copyright = (
        f"vitrail {version('vitrail')}, {of['License-Expression']}. Source, issues and licence: in the repository that"
        " this site was built from."
    )


def on_page_content(html: str, **others: object) -> str:
    """Makes each picture a link to itself."""
    return link_pictures(html)


def on_post_template(output_content: str, template_name: str, **others: object) -> str:
    """Writes below the heading of `404.html` where to go on. Its links start at the root of a server, as its others."""
    if template_name != "404.html":
        return output_content
    heading, way_on = (
        "<h1>404 - Not found</h1>",
        '<p>There is no page at this address. Use the search, or go to <a href="/index.html">the first page</a>.</p>',
    )
    if heading not in output_content:
        raise ValueError(f"404.html must have the heading {heading}: its theme changed")
    return output_content.replace(heading, heading + way_on)


def on_post_build(config: "MkDocsConfig") -> None:
    """Writes the index of the search as a script too: a page that is a file cannot fetch JSON.

    Material loads this script where a page is a file; `assets/file-worker.js` does the rest.
    """
    index = Path(config.site_dir, "search", "search_index.json")
    index.with_suffix(".js").write_text(
        f"var __index = {index.read_text(encoding='utf-8')}\n", encoding="utf-8"
    )


def link_pictures(html: str) -> str:
    """Puts each picture into a link to its file, where it is in no link already and has a file."""

    def link(found: re.Match[str]) -> str:
        source = re.search(r'\ssrc="([^"]+)"', found[0])
        if found[0].startswith("<a") or source is None or source[1].startswith("data:"):
            return found[0]
        return f'<a class="figure" href="{source[1]}" title="Full size">{found[0]}</a>'

    return _PICTURE.sub(link, html)
