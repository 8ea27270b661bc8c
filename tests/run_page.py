"""Runs the commands of a page in a folder, in order, and prints each with its output: what such a page shows is this.

    python tests/run_page.py docs/how-to/ship.md FOLDER --hub owner/name=FOLDER_OF_FILES

FOLDER has what the page begins with, as `photos`. A block of code with a title becomes the file of that name. The
models of the Hub come from folders of this machine, by the stand-in that the tests use. What the page installs must be
there.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from hub_stand_in import Repository, serve

BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
TITLE = re.compile(r'title="([^"]+)"')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hub", action="append", default=[], help="owner/name=FOLDER_OF_FILES")
    given = parser.parse_args()
    with serve() as hub:
        for name, _, folder in (text.partition("=") for text in given.hub):
            repository = hub.repositories[name] = Repository()
            repository.commit({file.name: file.read_bytes() for file in Path(folder).iterdir()})
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "HF_ENDPOINT": hub.url, "COLUMNS": "88", "PATH": programs}
        for language, options, code in BLOCK.findall(given.page.read_text(encoding="utf-8")):
            if title := TITLE.search(options):
                (given.folder / title.group(1)).write_text(code, encoding="utf-8")
            elif language == "console":
                for command in read_commands(code):
                    run(command, given.folder, environment)


def read_commands(code: str) -> list[str]:
    """The commands of a block: what follows each `$`, with the lines that a backslash continues."""
    lines = code.replace("\\\n", " ").splitlines()
    return [" ".join(line.removeprefix("$ ").split()) for line in lines if re.match(r"\$ (?!pip )", line)]


def run(command: str, folder: Path, environment: dict[str, str]) -> None:
    """Runs a command, and ends with its status where that is an error. One with `&` at its end goes on."""
    print(f"$ {command}", flush=True)
    begin = time.perf_counter()
    if command.endswith("&"):
        subprocess.Popen(command.removesuffix("&"), shell=True, cwd=folder, env=environment)
        time.sleep(30)
        return
    status = subprocess.run(command, shell=True, cwd=folder, env=environment).returncode
    print(f"# {time.perf_counter() - begin:.0f} s", flush=True)
    if status:
        sys.exit(status)


if __name__ == "__main__":
    main()
