"""A folder of image files, and a file with the text of each."""

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, cast

import numpy as np

from .._check import join_names
from ._listing import Listing, find_parts, is_text
from ._open import FORMATS
from ._problems import DataError, describe_error

_CSV: Final = "captions.csv"
_LINES: Final = "captions.jsonl"


def holds_captions(folder: Path) -> bool:
    """Whether a folder has a file of texts."""
    return any((folder / name).is_file() for name in (_CSV, _LINES))


def list_captions(folder: Path, problems: list[str]) -> tuple[list[Listing], tuple[str, ...]]:
    """Lists the image files that `captions.csv` or `captions.jsonl` names.

    **Arguments:**

    - `folder`: has one of them, or `train` and `val` with one each.
    - `problems`: what is wrong with lines of these files is added to it.

    **Returns:**

    The files to learn from, those held out if they are divided, and no classes.

    **Raises:** `DataError` if a file of texts cannot be read; what `find_parts` raises.
    """
    return [_list_part(root, problems) for root in find_parts(folder, holds_captions)], ()


def _list_part(folder: Path, problems: list[str]) -> Listing:
    found = [folder / name for name in (_CSV, _LINES) if (folder / name).is_file()]
    if len(found) != 1:
        raise DataError(f"{folder} must have one of {_CSV} and {_LINES}, got {len(found)}")
    names: list[bytes] = []
    texts: list[Any] = []
    before = len(problems)
    for line, row in _read_rows(found[0]):
        name, text = row.get("file"), row.get("text")
        if not isinstance(name, str) or not name or not is_text(text):
            problems.append(f"line {line} of {found[0]} must have a file and its text, got {row}")
        elif os.path.isabs(name) or (name := os.path.normpath(name)).startswith(".."):
            problems.append(f"line {line} of {found[0]} must name a file within {folder}, got {row['file']!r}")
        elif os.path.splitext(name)[1].lower() not in FORMATS:
            problems.append(f"line {line} of {found[0]} must name an image ({', '.join(FORMATS)}), got {name!r}")
        elif not os.path.isfile(os.path.join(folder, name)):
            problems.append(f"line {line} of {found[0]} must name a file in {folder}, got {name!r}, which is not there")
        else:
            names.append(os.fsencode(name))
            texts.append(text)
    if len(names) < 2 and before == len(problems):
        problems.append(f"{found[0]} must have at least two lines, each with a file and its text, got {len(names)}")
    return Listing(
        folder,
        np.array(names, np.bytes_),
        np.zeros(len(names), np.int32),
        texts=np.array(texts, np.dtypes.StringDType()),
    )


def _read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number of each line, counted from 1, and its values."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.name == _LINES:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield number, _parse(path, number, line)
                return
            rows = csv.reader(file)
            columns = next(rows, list[str]())
            if not {"file", "text"} <= set(columns):
                raise DataError(
                    f"{path} must have the columns file and text in its first line, got {join_names(columns)}"
                )
            for row in rows:
                if not row:
                    continue
                if len(row) != len(columns):
                    raise DataError(
                        f"line {rows.line_num} of {path} must have {len(columns)} values as the first line, got "
                        f"{len(row)}: put a text with commas in double quotes"
                    )
                yield rows.line_num, dict(zip(columns, row, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} must be a text in UTF-8, got an error: {describe_error(error)}") from error


def _parse(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        found: object = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"line {number} of {path} must be JSON, got an error: {error}") from error
    if not isinstance(found, dict):
        raise DataError(f'line {number} of {path} must be as {{"file": "1.jpg", "text": "a cat"}}, got {line.strip()}')
    return cast("dict[str, Any]", found)
