"""The hooks and the style of the site: the checks of built pages, links of pictures, notebooks, contrast."""

import contextlib
import importlib
import io
import logging
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

DOCS = Path(__file__).parent.parent / "docs"


def load_hook(monkeypatch: pytest.MonkeyPatch, name: str) -> ModuleType:
    monkeypatch.syspath_prepend(str(DOCS))
    return importlib.import_module(name)


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_hook(monkeypatch, "_checks")


def warnings_of(checks: ModuleType, caplog: pytest.LogCaptureFixture, site: Path) -> set[str]:
    with caplog.at_level(logging.WARNING):
        checks.on_post_build(SimpleNamespace(site_dir=str(site)))
    return set(caplog.messages)


def test_each_link_without_a_target_is_a_warning(
    checks: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "api").mkdir()
    (tmp_path / "api" / "b.html").write_text('<h2 id="here">b</h2> <a href="../a.html">a</a> <img src="no.png">')
    links = (
        "#top api/b.html#here api/b.html#there api/c.html https://arxiv.org //arxiv.org ftp://x api/b.md /etc/hostname"
    )
    text = "".join(f'<a href="{link}">x</a>' for link in links.split())
    (tmp_path / "a.html").write_text(f'<p id="top">{text}</p><style>a {{ background: url("no.woff2") }}</style>')
    assert warnings_of(checks, caplog, tmp_path) == {
        "a.html: the link 'api/b.html#there' has no target named 'there'",
        "a.html: the link 'api/c.html' has no target",
        "a.html: the link 'api/b.md' has no target",
        "a.html: the link 'ftp://x' has an unknown scheme",
        "a.html: the link '/etc/hostname' has no target",
        "a.html: the link 'no.woff2' has no target",
        "api/b.html: the link 'no.png' has no target",
    }


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.html", '<script src="https://example.org/a"></script>'),
        ("a.html", '<script src="//example.org/a"></script>'),
        ("a.html", '<link rel="stylesheet" href="https://example.org/a">'),
        ("a.html", '<link rel="preconnect" href="https://example.org/a">'),
        ("a.html", '<img srcset="a.html 1x, https://example.org/a 2x">'),
        ("a.html", '<object data="https://example.org/a"></object>'),
        ("a.html", '<svg><image xlink:href="https://example.org/a"/></svg>'),
        ("a.html", '<p style="background: url(https://example.org/a)">'),
        ("a.html", "<style>@import 'https://example.org/a';</style>"),
        ("a.css", '@import "https://example.org/a";'),
        ("a.css", "a { background: url( https://example.org/a ) }"),
    ],
)
def test_what_a_browser_would_load_from_elsewhere_is_a_warning(
    name: str, text: str, checks: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / name).write_text(text)
    (warning,) = warnings_of(checks, caplog, tmp_path)
    assert warning.endswith("example.org/a' is loaded from elsewhere")


def test_a_link_to_elsewhere_is_none_as_nothing_is_loaded_before_a_click(
    checks: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.html").write_text('<a href="https://example.org">x</a> <link rel="canonical" href="https://a.org">')
    (tmp_path / "a.css").write_text("a { b: url(\"data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg'/>\") }")
    assert not warnings_of(checks, caplog, tmp_path)


def test_a_picture_links_to_its_file_unless_it_is_in_a_link_or_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    link = load_hook(monkeypatch, "_build").link_pictures
    assert link('<p><img alt="a" src="a.png"></p>') == (
        '<p><a class="figure" href="a.png" title="Full size"><img alt="a" src="a.png"></a></p>'
    )
    for html in (
        '<a href="b.html"><b>b</b> <img src="a.png"></a>',
        '<img src="data:image/png;base64,AA==">',
        "<p></p>",
    ):
        assert link(html) == html


def test_a_page_that_is_not_there_has_a_way_on(monkeypatch: pytest.MonkeyPatch) -> None:
    add = load_hook(monkeypatch, "_build").on_post_template
    page = "<article><h1>404 - Not found</h1></article>"
    assert 'found</h1><p>There is no page at this address. Use the search, or go to <a href="/index.html">' in (
        add(page, template_name="404.html")
    )
    assert add(page, template_name="sitemap.xml") == page
    with pytest.raises(ValueError, match=r"404\.html must have the heading"):
        add("<article></article>", template_name="404.html")


def test_blocks_print_what_they_printed_before_until_something_changes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pages, path = load_hook(monkeypatch, "_pages"), tmp_path / "page.json"
    block = "```python %s\n%s\n```\n"

    def run(code: str, session: str | None) -> str:
        printed = list[str]()
        sessions[session]["print"] = lambda value: printed.append(f"{value}\n")
        exec(code, sessions[session])
        return "".join(printed)

    sessions: dict[str | None, dict[str, object]] = {"s": {}}
    pages.run_blocks(
        block % ('exec="1" session="s"', "a = 1\n\nprint(a)")
        + block % ('source="above"', "print(2)")
        + "    "
        + (block % ('result="text" exec="1" session="s"', "if a:\n    print(a + 2)")).replace("\n", "\n    "),
        path,
        run,
    )

    def fail(code: str) -> str:
        raise AssertionError(f"{code} is run again")

    def read(*blocks: str) -> list[str]:
        page = pages.Outputs(path)
        printed = [page.run(fail, block) for block in blocks]
        assert page.is_whole() == (blocks == (first, second))
        return printed

    first, second = "a = 1\n\nprint(a)", "if a:\n    print(a + 2)"
    assert read(first, second) == ["1\n", "3\n"]
    read(first, "print(2)")
    read(first)
    read(first, second, second)
    read("print(a)")


def test_nothing_is_kept_of_a_page_whose_block_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pages = load_hook(monkeypatch, "_pages")

    def run(code: str, session: str | None) -> str:
        if code == "1 / 0":
            raise ZeroDivisionError
        return code.upper()

    with pytest.raises(ZeroDivisionError):
        pages.run_blocks(
            '```python exec="1"\nprint(1)\n```\n```python exec="1"\n1 / 0\n```\n', tmp_path / "page.json", run
        )
    assert not list(tmp_path.iterdir())
    page = pages.Outputs(tmp_path / "page.json")
    assert page.run(run, "print(1)", session=None) == "PRINT(1)"  # the build runs it, and warns of what fails
    assert page.is_whole()


def test_pages_run_again_when_what_they_read_changes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    digest = load_hook(monkeypatch, "_outputs").digest_sources
    for name in ("src/a.py", "tests/b.py", "docs/c.csv", "docs/page.md", "pyproject.toml", "README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1")
    seen = {digest(tmp_path)}
    (tmp_path / "docs/page.md").write_text("2")  # which has a digest of its own
    assert digest(tmp_path) in seen
    for name in ("src/a.py", "tests/b.py", "docs/c.csv", "pyproject.toml", "README.md"):
        (tmp_path / name).write_text("2")
        seen.add(digest(tmp_path))
    (tmp_path / "src/a.py").rename(tmp_path / "src/b.py")
    seen.add(digest(tmp_path))
    monkeypatch.setattr("_outputs.distributions", lambda: [])
    seen.add(digest(tmp_path))
    assert len(seen) == 8


def luminance(colour: str) -> float:
    """The relative luminance of `#rrggbb`, as WCAG 2 defines it."""
    values = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in values]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["default", "slate"])
def test_text_and_code_have_a_contrast_of_at_least_four_and_a_half(scheme: str) -> None:
    style = (DOCS / "assets" / "vitrail.css").read_text()
    (block,) = re.findall(rf'^\[data-md-color-scheme="{scheme}"\] {{(.*?)}}', style, re.DOTALL | re.MULTILINE)
    colours = dict(re.findall(r"--md-([\w-]+): (#[0-9a-f]{6});", block))
    code = {name: colour for name, colour in colours.items() if name.startswith(("code-hl", "code-fg", "default-fg"))}
    text = {name: colours[name] for name in ("default-fg-color", "default-fg-color--light", "typeset-a-color")}
    assert len(code) == 9
    for ground, inks in (("code-bg-color", code), ("default-bg-color", text)):
        for name, ink in inks.items():
            darker, lighter = sorted((luminance(ink), luminance(colours[ground])))
            assert (lighter + 0.05) / (darker + 0.05) >= 4.5, f"{name} on {ground}"


PAGE = """# A page

See [another](../a/b.md#c), [`vit`][vitrail.vit] and ![a picture](p.png).

```python exec="1" session="a"
table = "for the page alone"
print(table)
```

```python exec="1" session="a"
import math

def double(x):
    return 2 * offset + x

offset = 1
```

```python exec="1" source="block" result="text" session="a"
def shown(x):
    return double(x) + math.floor(0.5)

try:  # markdown-exec: hide
    offset = 3
    print(shown(1))
except ValueError:  # markdown-exec: hide
    pass  # markdown-exec: hide
```

```console
$ cd folder
$ vitrail predict \\
    photo.jpg  # a comment
$ python serve.py &
```

```text
what it prints
```

```python title="serve.py"
serve()
```
"""


def test_a_page_becomes_cells_of_what_it_shows_and_what_these_need(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = load_hook(monkeypatch, "_notebooks").make_cells(PAGE)
    assert [(cell.kind, cell.folded, cell.raises) for cell in cells] == [
        ("markdown", False, False),
        ("code", True, False),  # double and offset, but not the table
        ("code", False, True),
        ("code", False, False),
        ("markdown", False, False),
        ("code", False, False),
    ]
    text, setup, shown, commands, printed, written = (cell.text for cell in cells)
    assert text == "# A page\n\nSee [another](../a/b.html#c), `vit` and ![a picture](p.png)."
    assert commands.splitlines() == [
        "%cd folder",
        "!vitrail predict \\",
        "    photo.jpg  # a comment",
        "import subprocess; subprocess.Popen('python serve.py', shell=True)",
    ]
    assert printed == "```text\nwhat it prints\n```"
    assert written == "%%writefile serve.py\nserve()"
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(f"{setup}\n{shown}", {})
    assert output.getvalue() == "7\n"


def test_pictures_are_attached_to_their_cell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(b"\x00")
    text, attached = load_hook(monkeypatch, "_notebooks").attach_pictures(
        "![a](p.png) ![b](no.png) ![c](http://d/e.png)", tmp_path
    )
    assert text == "![a](attachment:p.png) ![b](no.png) ![c](http://d/e.png)"
    assert attached == {"p.png": {"image/png": "AA=="}}
