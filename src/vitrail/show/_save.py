"""Writes a figure to a file."""

from pathlib import Path
from typing import Any, Final

from .._files import write_whole

SUFFIXES: Final = (".png", ".pdf", ".svg")
"""The endings of the names of pictures."""


def save_figure(figure: Any, path: Path) -> None:
    """Writes a figure of matplotlib, in the format that the ending of the path names.

    **Raises:** `ValueError` if it names none; `OSError` if the file cannot be written.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"path must end in {', '.join(SUFFIXES)}, got {path}")
    write_whole(path, lambda part: figure.savefig(part, dpi=130))
