"""Runs the commands of a page in a folder, in order, and prints each with its output: what such a page shows is this.

    python tests/run_page.py docs/how-to/ship.md FOLDER --hub owner/name=FOLDER_OF_FILES
    python tests/run_page.py docs/getting-started.md CLONE --fresh

FOLDER has what the page begins with, as `photos`. A block of code with a title becomes the file of that name. The
models of the Hub come from folders of this machine, by the stand-in that the tests use. What the page installs must be
there.

With `--fresh` nothing has to be there: CLONE is a clone of the repository without an environment. The page makes
`.venv` in it and installs into it, and its blocks of Python run in that environment, in order, in one process.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"
BLOCK = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
TITLE = re.compile(r'title="([^"]+)"')
END = "\0\n"
PYTHON = """
import json, sys
page = {"__name__": "__main__"}
for line in sys.stdin:
    exec(compile(json.loads(line), sys.argv[1], "exec"), page)
    print(chr(0), flush=True)
"""
"""Runs each block that it is sent with the variables of those before, and prints `END` after it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hub", action="append", default=[], help="owner/name=FOLDER_OF_FILES")
    parser.add_argument("--fresh", action="store_true", help="install what the page installs, and run its Python too")
    given = parser.parse_args()
    if not given.fresh:
        run_commands(given.page, given.folder.resolve(), given.hub)
        return
    if given.hub:
        parser.error("--hub does nothing with --fresh")
    if (given.folder / ".venv").exists():
        parser.error(f"{given.folder / '.venv'} exists: remove it, as the page makes it")
    run_fresh(given.page, given.folder.resolve())


def run_commands(page: Path, folder: Path, models: list[str]) -> None:
    """Runs the commands of a page, in the environment of this Python."""
    from hub_stand_in import Repository, serve

    with serve() as hub:
        for name, _, files in (text.partition("=") for text in models):
            repository = hub.repositories[name] = Repository()
            repository.commit({file.name: file.read_bytes() for file in Path(files).iterdir()})
        environment = make_environment(Path(sys.executable).parent) | {"HF_ENDPOINT": hub.url}
        for language, options, code in read_blocks(page):
            if title := TITLE.search(options):
                (folder / title.group(1)).write_text(code, encoding="utf-8")
            elif language == "console":
                for command in read_commands(code):
                    if not command.startswith("pip "):
                        run_command(command, folder, environment)


def run_fresh(page: Path, folder: Path) -> None:
    """Runs the commands and the Python of a page, in the environment that the page makes in the folder."""
    environment = make_environment(folder / ".venv" / "bin", Path(sys.executable).parent)
    environment["PYTHONPATH"] = str(DOCS)  # the helpers of the blocks, and nothing else
    interpreter: subprocess.Popen[str] | None = None
    for language, _, code in read_blocks(page):
        if language == "console":
            for command in read_commands(code):
                run_command(command, folder, environment)
        elif language == "python":
            interpreter = interpreter or start_python(page, folder, environment)
            run_python(interpreter, code)


def make_environment(*programs: Path) -> dict[str, str]:
    """The variables of the commands, which find programs in these folders first."""
    return {**os.environ, "COLUMNS": "88", "PATH": os.pathsep.join([*map(str, programs), os.environ["PATH"]])}


def read_blocks(page: Path) -> list[tuple[str, str, str]]:
    """The blocks of code of a page: language, options, code."""
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def read_commands(code: str) -> list[str]:
    """The commands of a block: what follows each `$`, with the lines that a backslash continues."""
    lines = code.replace("\\\n", " ").splitlines()
    return [" ".join(line.removeprefix("$ ").split()) for line in lines if line.startswith("$ ")]


def run_command(command: str, folder: Path, environment: dict[str, str]) -> None:
    """Runs a command, and ends with its status where that is an error. One with `&` at its end goes on."""
    print(f"$ {command}", flush=True)
    begin = time.perf_counter()
    if command.endswith("&"):
        subprocess.Popen(command.removesuffix("&"), shell=True, cwd=folder, env=environment)
        time.sleep(30)
        return
    bash = None if os.name == "nt" else "/bin/bash"  # which has `source`
    status = subprocess.run(command, shell=True, cwd=folder, env=environment, executable=bash).returncode
    print(f"# {time.perf_counter() - begin:.0f} s", flush=True)
    if status:
        sys.exit(status)


def start_python(page: Path, folder: Path, environment: dict[str, str]) -> "subprocess.Popen[str]":
    """A Python that runs the blocks of a page."""
    command = [str(folder / ".venv" / "bin" / "python"), "-c", PYTHON, str(page)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=folder, env=environment)


def run_python(interpreter: "subprocess.Popen[str]", code: str) -> None:
    """Runs a block and prints what it prints. Ends with an error where the block raises one."""
    assert interpreter.stdin is not None
    assert interpreter.stdout is not None
    print("".join(f">>> {line}\n" for line in code.splitlines()), end="", flush=True)
    interpreter.stdin.write(json.dumps(code) + "\n")
    interpreter.stdin.flush()
    for line in interpreter.stdout:
        if line == END:
            return
        print(line, end="", flush=True)
    sys.exit(interpreter.wait() or 1)  # it has printed the error


if __name__ == "__main__":
    main()
