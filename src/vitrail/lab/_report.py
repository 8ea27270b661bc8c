"""A report of a comparison as one HTML file."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from .._files import write_whole
from ..show import CERTAIN, render_comparison
from ._results import Comparison
from ._rows import Row, tell_axis

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #22252b; --paper: #fbfaf7; --faint: #6d7280; --best: #1d7a46; --line: #dcdad3 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e4de; --paper: #17191d; --faint: #9aa0ad; --best: #57c98a; --line: #363a42 }
}
body { background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; margin: 0 auto;
  max-width: 72rem; padding: 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
.lead { font-size: 1.1rem } .note, figcaption { color: var(--faint); font-size: .9rem }
figure { margin: 1rem 0; max-width: 36rem } figure svg { height: auto; width: 100% }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .6rem; text-align: right; white-space: nowrap }
th.text, td.text { text-align: left } th button { all: unset; cursor: pointer; font-weight: 600 }
th button:focus-visible { outline: 2px solid var(--best) } th[aria-sort] button { color: var(--best) }
tr.worse td { color: var(--faint) } td.front { color: var(--best) !important; font-weight: 600 }
pre { background: color-mix(in srgb, var(--line) 45%, transparent); border-radius: .4rem; overflow-x: auto;
  padding: .7rem 1rem }
"""
_SCRIPT: Final = """
const table = document.querySelector("table"), body = table.tBodies[0];
for (const [i, head] of [...table.tHead.rows[0].cells].entries())
  head.firstElementChild.onclick = () => {
    const up = head.ariaSort !== "ascending", key = row => row.cells[i].dataset.key;
    const differ = (a, b) => head.className === "text" ? a.localeCompare(b, undefined, {numeric: true}) : a - b;
    const order = (a, b) => differ(key(a), key(b)) * (up ? 1 : -1);
    const rows = [...body.rows], empty = rows.filter(row => key(row) === "");
    body.append(...rows.filter(row => key(row) !== "").sort(order), ...empty);
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.ariaSort = up ? "ascending" : "descending";
  };
"""
_TITLES: Final = {"model": "model", "layer": "layer", "resolution": "pixels", "pool": "pool"}


def write_report(
    comparison: Comparison, path: Path | str, *, about: Sequence[str] = (), commands: Sequence[str] = ()
) -> None:
    """Writes a comparison as one HTML file: the conclusion, the figure, a table that sorts, and what to type next.

    The file needs no server and loads nothing. It is light or dark as the reader's system is.

    **Arguments:**

    - `comparison`: what `compare` returned.
    - `path`: the file to write.
    - `about`: lines about the images and the models.
    - `commands`: what to type next.

    **Raises:** `MissingExtraError` if matplotlib is not installed; `OSError` if the file cannot be written.
    """
    text = _make_page(comparison, about, commands)
    write_whole(Path(path), lambda part: part.write_text(text, encoding="utf-8"))


def _make_page(comparison: Comparison, about: Sequence[str], commands: Sequence[str]) -> str:
    escape = html.escape
    conclusion = " ".join(comparison.conclusion)
    left_out = "".join(
        f"<li>{escape('; '.join(names))}: {escape(reason)}</li>" for reason, names in comparison.left_out.items()
    )
    parts = [
        "<h1>Which model, layer, resolution and pool?</h1>",
        f'<p class="lead">{escape(conclusion)}</p>',
        *(f'<p class="note">{escape(line)}</p>' for line in about),
        *(f'<p class="note">Note: {escape(note)}.</p>' for note in comparison.notes),
        f'<figure role="img" aria-label="{escape(conclusion)}">{render_comparison(comparison)}<figcaption>Bars are '
        "95&nbsp;% intervals: of the choice of the test images and of the runs together.</figcaption></figure>",
        "<h2>All results</h2>",
        '<p class="note">The numbers (#) are those in the figure. Click on the head of a column to sort. Green times '
        "are on the Pareto front; pale rows are "
        f"certainly worse than the best (p below {CERTAIN:g}).</p>",
        f'<div class="scroll">{_make_table(comparison)}</div>',
        '<p class="note">±: half of the 95&nbsp;% interval. p: of the difference to the best, by a two-sided sign-flip '
        "test paired over the test images, after Holm. k-NN: nearest neighbours by cosine, for pools without "
        "parameters. n-shot: trained on n images of each class. GFLOP and MiB: of the backbone.</p>",
        f"<h2>Left out</h2><ul>{left_out}</ul>" if left_out else "",
        f"<h2>What to type next</h2><pre>{escape(chr(10).join(commands))}</pre>" if commands else "",
    ]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>vitrail compare</title><style>{_STYLE}</style>"
    )
    body = "\n".join(part for part in parts if part)
    body += f"\n<script>{_SCRIPT}</script>"
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def _make_table(comparison: Comparison) -> str:
    """The table, with the number that each cell is sorted by."""
    columns = [
        ("#", False),
        *((_TITLES[axis], True) for axis in comparison.axes),
        *((name, False) for name in ("accuracy, %", "±", "p", "k-NN, %")),
        *((f"{shots}-shot, %", False) for shots in comparison.shots),
        *((name, False) for name in ("ms", "GFLOP", "MiB", "parameters", "learning rate")),
    ]
    kinds = {True: ' class="text"', False: ""}
    heads = "".join(f"<th{kinds[text]}><button>{html.escape(name)}</button></th>" for name, text in columns)
    lines: list[str] = []
    told = zip(comparison.rows, comparison.front, comparison.told_p_values, strict=True)
    for place, (row, front, p_value) in enumerate(told, start=1):
        worse = row.p_value is not None and row.p_value < CERTAIN
        names = "".join(
            f'<td class="text" data-key="{html.escape(tell_axis(row, axis))}">{html.escape(tell_axis(row, axis))}</td>'
            for axis in comparison.axes
        )
        numbers = "".join(
            f'<td{" class=front" if name == "ms" and front else ""} data-key="{"" if key is None else f"{key:.6g}"}">'
            f"{shown}</td>"
            for name, key, shown in _list_numbers(row, comparison.shots, p_value)
        )
        number = f'<td data-key="{place}">{place}</td>'
        lines.append(f"<tr{' class=worse' if worse else ''}>{number}{names}{numbers}</tr>")
    return f"<table><thead><tr>{heads}</tr></thead><tbody>\n{chr(10).join(lines)}\n</tbody></table>"


def _list_numbers(row: Row, shots: Sequence[int], p_value: str) -> list[tuple[str, float | None, str]]:
    """The name of each column, what it is sorted by, and what it shows."""
    few = [(f"{n}", float(np.mean(row.few_shot[n])) if n in row.few_shot else None) for n in shots]
    shares = [("accuracy", row.accuracy), ("±", row.margin)]
    return [
        *((name, share, f"{100 * share:.2f}") for name, share in shares),
        ("p", 2.0 if row.p_value is None else row.p_value, html.escape(p_value)),
        *(
            (name, share, "" if share is None else f"{100 * share:.1f}")
            for name, share in [("k-NN", row.knn_accuracy), *few]
        ),
        ("ms", row.milliseconds, f"{row.milliseconds:.3g}"),
        ("GFLOP", row.flops, f"{row.flops / 1e9:.3g}"),
        ("MiB", row.memory, f"{row.memory / 2**20:.3g}"),
        ("parameters", row.pool_parameters + row.head_parameters, f"{row.pool_parameters:,} + {row.head_parameters:,}"),
        ("rate", row.learning_rate, f"{row.learning_rate:g}"),
    ]
