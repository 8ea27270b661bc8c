"""`vitrail list models`: the published checkpoints, as a table."""

import functools
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, cast

from .._check import join_names, list_first
from ..weights import PublishedModel, list_models, suggest_names

_COLUMNS: Final[Mapping[str, Callable[[PublishedModel], str]]] = MappingProxyType(
    {
        "repository": lambda model: _name_file(model),
        "short name": lambda model: model.names[0] if model.names else "",
        "task": lambda model: model.task,
        "parameters": lambda model: _shorten(model.parameters),
        "FLOPs": lambda model: _shorten(model.flops),
        "pixels": lambda model: "x".join(map(str, dict.fromkeys(model.image_size))),
        "tokens": lambda model: str(model.tokens),
        "pool": lambda model: model.pool,
        "licence": lambda model: model.licence or "not known",
        "trained on": lambda model: ", ".join(model.data),
        "by": lambda model: model.organisation or "",
    }
)
_DROPPED: Final = ("by", "trained on", "pool", "tokens", "short name", "task")
"""The columns that a narrow terminal has no place for, the first first."""
_OPEN_CLIP: Final = "open_clip_model.safetensors"
_NAMED: Final = 2
"""How many models are named with a note."""
_NUMBERS: Final = ("parameters", "FLOPs", "pixels", "tokens")


def print_models(models: Sequence[PublishedModel], patterns: Sequence[str]) -> None:
    """Prints a line for each model, with as many columns as the terminal has place for, all where it is no terminal;
    below them what there is to note, and why there is none."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in draw_table(models, width) if models else ():
        print(line)
    for text in (*_list_notes(models), *_explain_missing(models, patterns)):
        indented = textwrap.wrap(text, width, subsequent_indent="    ", break_on_hyphens=False) if width else [text]
        print("\n".join(indented))
    print(f"{len(models)} of {len(list_models())} models")


def _explain_missing(models: Sequence[PublishedModel], patterns: Sequence[str]) -> list[str]:
    """The patterns that fit no model, each with the nearest names, or that the other options leave none."""
    lines: list[str] = []
    for pattern in patterns:
        if not list_models(pattern):
            near = suggest_names(pattern)
            hint = f": the nearest are {join_names(near)}" if near else ""
            lines.append(f"no model has {pattern!r} in its name{hint}")
    if not models and not lines:
        fitting = {model for pattern in patterns or (None,) for model in list_models(pattern)}
        lines.append(f"the other options leave none of {len(fitting):,} models: leave some out")
    return lines


def _list_notes(models: Sequence[PublishedModel]) -> list[str]:
    """What the libraries note, each once, with the models that it is about."""
    noted: dict[str, list[str]] = {}
    for model in models:
        if model.notes:
            noted.setdefault(model.notes, []).append(_name_file(model))
    return [f"note: {list_first(names, _NAMED)}: {note}" for note, names in noted.items()]


def draw_table(models: Sequence[PublishedModel], width: int | None) -> list[str]:
    """The lines of the table, at most so wide; without a width, with all columns.

    Where even the most important columns have no place, each repository gets a line of its own.
    """
    rows = {name: [name, *map(read, models)] for name, read in _COLUMNS.items()}
    widths = {name: max(map(len, cells)) for name, cells in rows.items()}
    shown = list(rows)

    def is_too_wide() -> bool:
        return width is not None and sum(widths[name] + 2 for name in shown) - 2 > width

    for name in _DROPPED:
        if is_too_wide():
            shown.remove(name)
    if is_too_wide():
        return _draw_in_two_lines(rows, widths, cast(int, width))
    return [
        "  ".join(_align(rows[name][i], widths[name], name) for name in shown).rstrip() for i in range(len(models) + 1)
    ]


def _draw_in_two_lines(rows: Mapping[str, Sequence[str]], widths: Mapping[str, int], width: int) -> list[str]:
    """The lines where the name of the repository needs one of its own, with the short name behind or below it."""
    lines: list[str] = []
    for i, repository in enumerate(rows["repository"]):
        short = rows["short name"][i]
        together = f"{repository}  {short}".rstrip()
        name = [repository] if len(repository) <= width else [f"{repository.rpartition('/')[0]}/", f"    {_OPEN_CLIP}"]
        lines += [together] if len(together) <= width else [*name, f"    {short}"] if short else name
        cells = (_align(rows[name][i], widths[name], name) for name in (*_NUMBERS, "licence"))
        lines.append(f"    {'  '.join(cells)}".rstrip())
    return lines


def _align(cell: str, width: int, name: str) -> str:
    return cell.rjust(width) if name in _NUMBERS else cell.ljust(width)


def _name_file(model: PublishedModel) -> str:
    """The repository, with the file where that alone loads another model."""
    is_second = model.file == _OPEN_CLIP and model.repository in _list_shared()
    return f"{model.repository}/{_OPEN_CLIP}" if is_second else model.repository


@functools.cache
def _list_shared() -> frozenset[str]:
    """The repositories with several models."""
    counts = Counter(model.repository for model in list_models())
    return frozenset(repository for repository, count in counts.items() if count > 1)


def _shorten(number: int) -> str:
    """A number with three digits and a unit: 22.1M, 1.14G, 3.57T."""
    for unit, size in (("T", 1e12), ("G", 1e9)):
        if number >= size:
            return f"{number / size:.3g}{unit}" if number < 999.5 * size else f"{number / size:,.0f}{unit}"
    return f"{number / 1e6:.3g}M"
