"""The result of a run as a picture."""

import io
from typing import Any

from report import NAMES, fastest

from vitrail._extras import require
from vitrail.show._style import FAINT, INK, PAPER, RIGHT, WRONG

_WIDTH, _LINE, _AROUND = 5.0, 0.27, 0.95
"""Inches: of the picture, of a case, and of what is above and below the cases."""
_TEXT = 9


def render_ratios(result: dict[str, Any]) -> str:
    """Draws vitrail's time as a part of the fastest contender's, for each case, as SVG: median and quartiles."""
    written = io.StringIO()
    with require("matplotlib", extra="demo").rc_context({"svg.hashsalt": "vitrail"}):
        make_figure(result).savefig(written, format="svg", metadata={"Date": None})
    return written.getvalue()


def make_figure(result: dict[str, Any]) -> Any:
    """The figure. A case is green where both quartiles are below 1, red where both are above."""
    entries = result["timed"]
    figure = require("matplotlib.figure", extra="demo").Figure(
        figsize=(_WIDTH, _LINE * len(entries) + _AROUND), facecolor=PAPER, layout="constrained"
    )
    axes: Any = figure.subplots()
    axes.axvline(1, color=FAINT, linewidth=0.8, zorder=0)
    for place, entry in enumerate(entries):
        ratio = entry["ratio"][fastest(entry)]
        colour = RIGHT if ratio["high"] < 1 else WRONG if ratio["low"] > 1 else INK
        axes.plot((ratio["low"], ratio["high"]), (place, place), color=colour, linewidth=1.6, solid_capstyle="butt")
        axes.plot(ratio["median"], place, "o", color=colour, markersize=5)
    axes.set_ylim(len(entries) - 0.4, -0.6)
    axes.set_yticks(range(len(entries)), [entry["case"]["name"].replace(" pixels", " px") for entry in entries])
    beside = axes.secondary_yaxis("right")
    beside.set_yticks(range(len(entries)), [NAMES[fastest(entry)] for entry in entries])
    beside.tick_params(labelsize=_TEXT - 1, colors=FAINT, length=0)
    beside.spines["right"].set_visible(False)
    axes.set_facecolor(PAPER)
    for text, side in (("vitrail is faster  ", "right"), ("  slower", "left")):
        axes.text(1, -0.7, text, fontsize=_TEXT, color=INK, ha=side, va="bottom")
    figure.supxlabel("time of vitrail / time of the fastest other library", fontsize=_TEXT, color=INK)
    axes.tick_params(labelsize=_TEXT, colors=INK)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=FAINT, linewidth=0.3, alpha=0.5)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    return figure
