"""The licence that the model card of a folder names."""

import contextlib
import json
import re
from pathlib import Path
from typing import Final

README: Final = "README.md"
"""The model card of a repository or a folder."""
_LINE: Final = re.compile(
    r"""^(license|license_name):[ \t]*("(?:[^"\\\n]|\\.)*"|'[^'\n]*'|.*?)[ \t]*((?<=[ \t])#.*)?$""", re.MULTILINE
)
"""A line of the front matter: the name, the value, which can have quotes, and a comment."""
_READ: Final = 2**16
"""How many bytes of a model card are read: its front matter is at the beginning."""


def read_readme_licence(path: Path) -> str | None:
    """The licence in the front matter of the model card beside a file; `None` if there is none."""
    try:
        with path.with_name(README).open("rb") as file:
            text = file.read(_READ).decode("utf-8-sig", "replace").replace("\r\n", "\n").replace("\r", "\n")
    except OSError:
        return None
    front = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    found = {} if front is None else {name: _unquote(value) for name, value, _ in _LINE.findall(front[1])}
    licence = found.get("license_name", "other") if found.get("license") == "other" else found.get("license", "")
    return licence or None


def _unquote(value: str) -> str:
    """The text of a scalar of YAML, which is plain or in quotes."""
    with contextlib.suppress(ValueError):  # what is in double quotes has the escapes of JSON
        if value.startswith('"'):
            return str(json.loads(value))
    return value.strip("\"'")
