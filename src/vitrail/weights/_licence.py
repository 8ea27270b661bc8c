"""The licence that the model card of a folder names."""

import re
from pathlib import Path
from typing import Final

README: Final = "README.md"
"""The model card of a repository or a folder."""
_READ: Final = 2**16
"""How many bytes of a model card are read: its front matter is at the beginning."""


def read_readme_licence(path: Path) -> str | None:
    """The licence in the front matter of the model card beside a file; `None` if there is none."""
    try:
        with path.with_name(README).open("rb") as file:
            text = file.read(_READ).decode("utf-8", "replace")
    except OSError:
        return None
    front = re.match(r"---\r?\n(.*?)\r?\n---", text, re.DOTALL)
    found = {} if front is None else dict(re.findall(r"^(license|license_name):[ \t]*(.*?)[ \t]*$", front[1], re.M))
    licence = found.get("license_name", "other") if found.get("license") == "other" else found.get("license", "")
    return licence.strip("\"'") or None
