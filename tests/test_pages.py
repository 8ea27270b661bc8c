"""The commands that the pages show, and the program that runs them."""

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import run_page

from vitrail.cli._parser import parse
from vitrail.cli._train_options import Train

ROOT = Path(__file__).parent.parent
RUN_PAGE = Path(run_page.__file__)


def commands_of_vitrail(page: Path) -> Iterator[list[str]]:
    """The arguments of each `vitrail` in the consoles of a page, also where a pipe or a variable is around it."""
    for language, _, code in run_page.read_blocks(page):
        for line in run_page.read_commands(code) if language == "console" else ():
            words = shlex.shlex(line, posix=True, punctuation_chars=True)
            words.whitespace_split = True
            command: list[str] = []
            for word in [*words, ";"]:
                if set(word) <= set("();<>|&"):
                    while command and re.fullmatch(r"\w+=.*", command[0]):
                        del command[0]
                    if command and command[0] == "vitrail":
                        yield command[1:]
                    command = []
                else:
                    command.append(word)


def test_commands_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```console\n$ A=1 vitrail list pools | head -2  # all\nvitrail\n$ pip install .\n"
        "$ vitrail predict a.b \\\n    'c d' > out.txt && vitrail verify x\n```\n```sh\nvitrail demo\n```\n"
    )
    assert list(commands_of_vitrail(page)) == [["list", "pools"], ["predict", "a.b", "c d"], ["verify", "x"]]


def test_every_command_that_a_page_shows_can_be_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the parser of the command: its names, options and choices exist."""
    monkeypatch.setattr(
        "vitrail.cli._train_options.read_settings", lambda run: Train()
    )  # of the run in `--resume run/`
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    found = {tuple(command): page.name for page in pages for command in commands_of_vitrail(page)}
    assert len(found) > 80
    wrong = [f"{page}: vitrail {shlex.join(command)}" for command, page in found.items() if not can_parse(command)]
    assert not wrong, "the error of each is printed above"


@pytest.mark.parametrize("wrong", [["lists"], ["list", "pool"], ["demo", "--pol", "cls"], ["predict"]])
def test_a_wrong_command_cannot_be_parsed(wrong: list[str]) -> None:
    assert not can_parse(wrong)


def can_parse(command: list[str] | tuple[str, ...]) -> bool:
    try:
        parse(command)
    except SystemExit as end:
        return end.code == 0  # of --help
    except ValueError:
        return False
    return True


def test_the_extras_are_those_that_getting_started_describes() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    table = (ROOT / "docs" / "getting-started.md").read_text().partition("| (none) |")[2].partition("\n\n")[0]
    described = {name: row for row in table.splitlines()[1:] for name in re.findall(r"`([^`]+)`", row.split("|")[1])}
    assert described.keys() == project["optional-dependencies"].keys()
    for extra in ("train", "weights"):
        names = [re.split(r"[\[><=]", name)[0].partition("-")[0] for name in project["optional-dependencies"][extra]]
        assert [name for name in names if name not in described[extra].lower()] == []


@pytest.mark.parametrize(
    ("block", "status", "printed"),
    [
        ("```python\nprint(x + 1)\n```", 0, "2\n"),
        ("```python\nprint(y)\n```", 1, "NameError: name 'y' is not defined"),
        ("```console\n$ exit 3\n```", 3, "$ exit 3\n"),
    ],
)
def test_a_page_is_run_in_the_environment_that_it_makes(block: str, status: int, printed: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    make = f"```console\n$ mkdir -p .venv/bin\n$ ln -s {sys.executable} .venv/bin/python\n```\n"
    page.write_text(f"{make}```python\nx = 1\n```\n```console\n$ python -c 'print(40 + 2)'\n```\n{block}\n")
    command = [sys.executable, str(RUN_PAGE), str(page), str(tmp_path), "--fresh"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.returncode == status
    assert "\n42\n" in ran.stdout
    assert printed in ran.stdout + ran.stderr
    again = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert again.returncode == 2
    assert "exists: remove it" in again.stderr
