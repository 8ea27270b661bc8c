"""The hooks of the site: what the checks of the built pages find."""

import importlib
import logging
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(DOCS))
    return importlib.import_module("_checks")


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
