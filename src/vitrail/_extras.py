"""Imports the libraries of extras when they are used."""

import json
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Literal
from urllib.parse import urlsplit
from urllib.request import url2pathname

Extra = Literal["train", "demo", "weights", "text", "hub", "torch", "board", "export", "onnx", "test"]
"""An extra of pyproject.toml that a user needs."""


class MissingExtraError(ImportError):
    """A library of an extra is not installed. The message has the command that installs it. It is an `ImportError`."""


def require(library: str, *, extra: Extra) -> ModuleType:
    """Imports a library of an extra.

    **Arguments:**

    - `library`: the name of the module to import.
    - `extra`: the extra of vitrail that installs it.

    **Returns:**

    The module.

    **Raises:** `MissingExtraError` with the command that installs the library.
    """
    if find_spec(library.partition(".")[0]) is None:
        raise MissingExtraError(
            f"{library.partition('.')[0]} is not installed, it is part of the extra {extra!r}: run "
            f"{write_install_command(extra)}"
        )
    return import_module(library)


def write_install_command(extra: Extra) -> str:
    """Writes the command that installs an extra: from the clone that vitrail is from, or from the index."""
    clone = Path(__file__).parents[2]
    project = clone / "pyproject.toml"  # of another project, if this is a copy within it
    if project.is_file() and 'name = "vitrail"' in project.read_text("utf-8"):
        return f"pip install -e '{clone}[{extra}]'"
    return f"pip install '{_find_origin() or 'vitrail'}[{extra}]'"


def _find_origin() -> Path | None:
    """The folder that pip installed vitrail from, `None` if it is from elsewhere or no longer there."""
    try:
        origin: Any = json.loads(distribution("vitrail").read_text("direct_url.json") or "{}")
    except PackageNotFoundError:
        return None
    folder = Path(url2pathname(urlsplit(str(origin.get("url", ""))).path))
    return folder if "dir_info" in origin and (folder / "pyproject.toml").is_file() else None
