"""Writes each how-to page as a Jupyter notebook too, with a link at the top of the page.

Blocks of Python become cells, without the lines that `markdown-exec: hide` hides. A block with a title writes its file,
and a console block runs its commands. A block that the page runs without showing it makes a table or a picture of the
page, or sets up what later cells need: it becomes a (folded) cell if a later cell of its session reads a name that it
binds, and is left out otherwise. All else stays Markdown, with pictures attached, links to `.html`, and references to
the API as plain text.
"""

import base64
import dis
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

_BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_OPTION = re.compile(r'(\w+)="([^"]*)"')
_HIDE = "# markdown-exec: hide"


def on_page_markdown(
    markdown: str, page: "Page", config: "MkDocsConfig", files: "Files"
) -> str | None:
    """Adds the notebook of a how-to page to the files of the site, and a link to it below the heading."""
    if not page.file.src_uri.startswith("how-to/"):
        return None
    import nbformat
    from mkdocs.structure.files import File

    cells = []
    for index, cell in enumerate(make_cells(markdown)):
        if cell.kind == "code":
            folded = {"jupyter": {"source_hidden": True}} if cell.folded else {}
            tags = {"tags": ["raises-exception"]} if cell.raises else {}
            made = nbformat.v4.new_code_cell(
                cell.text, id=f"cell-{index}", metadata=folded | tags
            )
        else:
            text, attachments = attach_pictures(
                cell.text, Path(page.file.abs_src_path or "").parent
            )
            made = nbformat.v4.new_markdown_cell(
                text, id=f"cell-{index}", attachments=attachments
            )
        cells.append(made)
    kernel = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
    }
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=kernel)
    nbformat.validate(notebook)
    name = f"{Path(page.file.src_uri).stem}.ipynb"
    files.append(
        File.generated(config, f"how-to/{name}", content=nbformat.writes(notebook))
    )
    heading, rest = markdown.lstrip().split("\n", 1)
    return (
        f'{heading}\n\n<p><a href="{name}" download>Download as a notebook</a></p>\n{rest}'
    )


class Cell(NamedTuple):
    """A cell of a notebook: `"code"` or `"markdown"`."""

    kind: str
    text: str
    folded: bool = False
    raises: bool = False


class _Block(NamedTuple):
    language: str
    options: dict[str, str]
    code: str

    @property
    def is_python(self) -> bool:
        return self.language == "python" and "title" not in self.options

    @property
    def is_hidden(self) -> bool:
        return "exec" in self.options and "source" not in self.options


def make_cells(markdown: str) -> list[Cell]:
    """The cells of a page."""
    language, options, code = 1, 2, 3
    found = list(_BLOCK.finditer(markdown))
    blocks = [
        _Block(it[language], dict(_OPTION.findall(it[options])), it[code]) for it in found
    ]
    needed = _find_needed(blocks)
    cells: list[Cell] = []
    text, end = "", 0
    for index, (match, block) in enumerate(zip(found, blocks, strict=True)):
        text += markdown[end : match.start()]
        end = match.end()
        if block.is_python and block.is_hidden and index not in needed:
            continue
        cell = _make_code_cell(block)
        if cell is None:
            text += match[0]
            continue
        cells += [*_make_text_cells(text), cell]
        text = ""
    return [*cells, *_make_text_cells(text + markdown[end:])]


def _make_text_cells(text: str) -> Iterator[Cell]:
    """The cell of what stands between two cells of code, if anything does."""
    if text := text.strip():
        text = re.sub(r"\]\((?!\w+:)([^)#\s]+)\.md(#[^)]*)?\)", r"](\1.html\2)", text)
        yield Cell("markdown", re.sub(r"\[([^\]]+)\]\[[\w.]+\]", r"\1", text))


def _make_code_cell(block: _Block) -> Cell | None:
    """The cell of a block, or `None` for a block that stays in the text."""
    if title := block.options.get("title"):
        return Cell("code", f"%%writefile {title}\n{block.code.rstrip()}")
    if block.is_python:
        hidden = "\n".join(line for line in block.code.splitlines() if _HIDE in line)
        raises = "raises(" in hidden or "except " in hidden
        return Cell("code", _show(block.code), folded=block.is_hidden, raises=raises)
    if block.language == "console":
        return Cell(
            "code",
            "\n".join(_to_notebook(command) for command in _read_commands(block.code)),
        )
    return None


def _show(code: str) -> str:
    """The lines of a block that a page shows; those within a hidden `with` or `try` move to its left edge."""
    shown: list[str] = []
    edge: int | None = None
    for line in code.splitlines():
        indent = len(line) - len(line.lstrip())
        if _HIDE in line:
            edge = indent
            continue
        if edge is not None and line.strip() and indent <= edge:
            edge = None
        shown.append(line if edge is None else line[4:])
    return "\n".join(shown).strip()


def _read_commands(code: str) -> Iterator[str]:
    """The commands of a console block, each with the lines that a backslash continues."""
    yield from re.findall(r"^\$ ((?:.*\\\n)*.*)$", code, re.MULTILINE)


def _to_notebook(command: str) -> str:
    """A command as IPython runs it: what changes the process itself, and what goes on, has another form."""
    if command.startswith(("pip ", "cd ")):
        return f"%{command}"
    if command.endswith("&"):
        return f"import subprocess; subprocess.Popen({command.removesuffix('&').strip()!r}, shell=True)"
    return f"!{command}"


def _find_needed(blocks: list[_Block]) -> set[int]:
    """The numbers of the hidden blocks that bind a name which a later cell of their session reads."""
    needed: set[int] = set()
    wanted: dict[str, set[str]] = defaultdict(set)
    for index, block in reversed(list(enumerate(blocks))):
        if not block.is_python:
            continue
        session = block.options.get("session", "")
        reads, binds = _read_names(compile(_show(block.code), "a block", "exec"))
        if block.is_hidden and not binds & wanted[session]:
            continue
        if block.is_hidden:
            needed.add(index)
        wanted[session] = (wanted[session] - binds) | reads
    return needed


def _read_names(code: CodeType) -> tuple[set[str], set[str]]:
    """The names that a program reads before it binds them, and those that it binds."""
    reads: set[str] = set()
    binds: set[str] = set()
    for step in dis.get_instructions(code):
        if step.opname == "STORE_NAME":
            binds.add(step.argval)
        elif step.opname in ("LOAD_NAME", "LOAD_GLOBAL") and step.argval not in binds:
            reads.add(step.argval)
    inner = [
        _read_names(constant)[0]
        for constant in code.co_consts
        if isinstance(constant, CodeType)
    ]
    return reads | (set().union(*inner) - binds), binds


def attach_pictures(text: str, folder: Path) -> tuple[str, dict[str, dict[str, str]]]:
    """Markdown whose pictures are attached to its cell, and these attachments."""
    attachments: dict[str, dict[str, str]] = {}

    def attach(found: re.Match[str]) -> str:
        picture = folder / found[2]
        if not picture.is_file():  # of which MkDocs warns
            return found[0]
        attachments[picture.name] = {
            "image/png": base64.b64encode(picture.read_bytes()).decode()
        }
        return f"![{found[1]}](attachment:{picture.name})"

    return re.sub(r"!\[([^\]]*)\]\((?!\w+:)([^)\s]+\.png)\)", attach, text), attachments
