"""What `vitrail compare` prints of its results, and what it says to type next."""

import itertools
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from ..lab import Comparison, tell_axis

_NAMED: Final = 3
"""So many names are printed of what was left out for one reason."""


def suggest_commands(
    comparison: Comparison, files: dict[str, Path | None], data: Path | None, given: Sequence[str]
) -> list[str]:
    """What to type next: trains the best readout, and the fastest that may be as good, if they read the last layer as
    `vitrail train` does. `given` are the options by which the models were loaded or built."""
    commands: list[str] = []
    free = (path for number in itertools.count(1) if not (path := Path(f"run-{number}")).exists())
    for row in comparison.contenders:
        if row.layer != -1:
            continue
        file, (height, width) = files[row.model], row.resolution
        words = [
            *("vitrail", "train"),
            *(("--data", str(data)) if data else ()),
            *(("--model", str(file), "--recipe", "probe") if file else ("--recipe", "demo")),
            *given,
            *("--pool", row.pool),
            *(("--image-size", str(height)) if height == width else ()),
            *(("--learning-rate", f"{row.learning_rate:g}") if file else ()),
            *("--out", str(next(free))),
        ]
        commands.append(shlex.join(words))
    return commands


def format_table(comparison: Comparison) -> list[str]:
    """Formats the rows as lines, with notes."""
    axes, shots = comparison.axes, comparison.shots
    heads = ("accuracy", "p", "k-NN", *(f"{n}-shot" for n in shots), "ms", "GFLOP", "MiB", "parameters", "rate")
    cells = [("#", *axes, *heads)]
    for place, (row, p_value) in enumerate(zip(comparison.rows, comparison.told_p_values, strict=True), start=1):
        few = (f"{np.mean(row.few_shot[n]):.1%}" if n in row.few_shot else "" for n in shots)
        cells.append(
            (
                str(place),
                *(tell_axis(row, axis) for axis in axes),
                f"{row.accuracy:.1%} ± {row.margin:.1%}",
                p_value,
                "" if row.knn_accuracy is None else f"{row.knn_accuracy:.1%}",
                *few,
                f"{row.milliseconds:.3g}",
                f"{row.flops / 1e9:.3g}",
                f"{row.memory / 2**20:.3g}",
                f"{row.pool_parameters:,} + {row.head_parameters:,}",
                f"{row.learning_rate:g}",
            )
        )
    notes = [
        "accuracy: mean of the runs, and half of the 95 % interval. p: of the difference to the best, by a two-sided "
        "sign-flip test over the test images, after Holm.",
        "k-NN: nearest neighbours by cosine, for pools without parameters. ms: of an image, noisy. GFLOP, MiB: of the "
        "backbone, for one image and for 8. rate: the learning rate that was chosen.",
    ]
    notes += [f"note: {note}." for note in comparison.notes]
    left_out = [
        f"left out: {_cut(names)} ({' '.join(reason.split())})" for reason, names in comparison.left_out.items()
    ]
    return [*align(cells, len(axes) + 1), "", *notes, *left_out]


def _cut(names: Sequence[str]) -> str:
    """The first names, and how many there are more."""
    more = f"; and {len(names) - _NAMED:,} more, which the report has" if len(names) > _NAMED else ""
    return "; ".join(names[:_NAMED]) + more


def align(rows: Sequence[tuple[str, ...]], names: int = 1) -> list[str]:
    """The lines of a table: names on the left, numbers on the right, and a rule below the first row."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def format_line(row: tuple[str, ...]) -> str:
        cells = zip(row, widths, strict=True)
        return "  ".join(f"{c:<{w}}" if i < names else f"{c:>{w}}" for i, (c, w) in enumerate(cells)).rstrip()

    first, *others = map(format_line, rows)
    return [first, "-" * len(first), *others]
