"""Panels of pixels in rows, as one figure."""

from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Float

from .._extras import require
from ._save import save_figure
from ._style import FAINT, INK, PAPER

_COLUMNS: Final = 9
# Inches.
_WIDTH, _GAP, _LABEL, _MARGIN, _FOOT, _LINE = 1.5, 0.08, 0.24, 0.25, 0.1, 0.14


class Cell(NamedTuple):
    """One panel: what stands above it, and its pixels."""

    label: str
    pixels: Float[np.ndarray, "height width 3"]


def draw_cells(rows: list[list[Cell]], path: Path, notes: list[str]) -> None:
    """Draws the cells of each picture in lines of the same length."""
    count = len(rows[0])
    lines = -(-count // _COLUMNS)
    columns = max(-(-count // lines), 3)
    height = _WIDTH * rows[0][0].pixels.shape[0] / rows[0][0].pixels.shape[1]
    page = (
        2 * _MARGIN + columns * (_WIDTH + _GAP) - _GAP,
        _MARGIN + len(rows) * lines * (height + _LABEL) - _LABEL + _FOOT + (len(notes) + 1) * _LINE,
    )
    figure: Any = require("matplotlib.figure", extra="demo").Figure(figsize=page, facecolor=PAPER)
    for number, row in enumerate(rows):
        for place, cell in enumerate(row):
            left = _MARGIN + place % columns * (_WIDTH + _GAP)
            top = _MARGIN + (number * lines + place // columns) * (height + _LABEL)
            figure.text(
                (left + 0.02) / page[0], 1 - (top - 0.04) / page[1], cell.label, fontsize=8, color=INK, va="baseline"
            )
            lower = 1 - (top + height) / page[1]
            axes = figure.add_axes((left / page[0], lower, _WIDTH / page[0], height / page[1]))
            axes.imshow(cell.pixels, interpolation="nearest", aspect="auto")
            axes.set_axis_off()
    for number, note in enumerate(reversed(notes)):
        figure.text(_MARGIN / page[0], (_FOOT + number * _LINE) / page[1], note, fontsize=7, color=FAINT)
    save_figure(figure, path)
