"""A picture of a comparison of readouts."""

import io
import textwrap
from pathlib import Path
from typing import Any, Final, Protocol, cast, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from .._extras import require
from ._save import save_figure
from ._style import FAINT, INK, PAPER, RIGHT, add_glow

# Inches. The width is that of a telephone, on which text of this size can be read.
_WIDTH: Final = 5.4
_MARGIN: Final = 0.15
_TITLE: Final = 0.45
_PLOT: Final = 3.3
_LINE: Final = 0.31
_AXIS: Final = 0.62
_TEXT: Final = 12
CERTAIN: Final = 0.05
"""A difference with a smaller p-value is called certain."""
_RANKED: Final = 30
_DRAWN: Final = 6
"""So many rows are ranked, and so many have pictures of where they look."""


@runtime_checkable
class ComparedRow(Protocol):
    """The result of one readout, as `vitrail.lab.Row` has it."""

    @property
    def model(self) -> str:
        """The name of the model."""
        ...

    @property
    def resolution(self) -> tuple[int, int]:
        """Height and width of the images."""
        ...

    @property
    def accuracy(self) -> float:
        """The mean accuracy."""
        ...

    @property
    def margin(self) -> float:
        """Half of the 95 % interval of the accuracy."""
        ...

    @property
    def p_value(self) -> float | None:
        """The p-value of the difference to the best; `None` for the best."""
        ...

    @property
    def milliseconds(self) -> float:
        """The time for an image."""
        ...

    @property
    def readout_milliseconds(self) -> float:
        """The time of pool and head alone."""
        ...

    @property
    def maps(self) -> Float[np.ndarray, "drawn rows cols"] | None:
        """The weights of the patches of some images, for a pool that has weights."""
        ...


@runtime_checkable
class ComparedRows(Protocol):
    """The results of a comparison, as `vitrail.lab.Comparison` has them."""

    @property
    def rows(self) -> tuple[ComparedRow, ...]:
        """One for each readout, the best first."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """What tells each row from the others."""
        ...

    @property
    def axes(self) -> tuple[str, ...]:
        """What the rows differ in."""
        ...

    @property
    def front(self) -> tuple[bool, ...]:
        """Whether each row is on the Pareto front of accuracy and time."""
        ...

    @property
    def pictures(self) -> UInt8[np.ndarray, "drawn height width channels"] | None:
        """The images that the maps are of, as the model of the first row reads them."""
        ...


def draw_comparison(comparison: ComparedRows, path: Path | str) -> None:
    """Draws the accuracy of readouts against their cost, their ranking, and the weights that they give to patches.

    The figure is one column, to be read on a telephone too. The first panel plots accuracy against the time for an
    image, with the number of the row in the ranking; a line joins the Pareto front. If only pools differ, the time is
    that of pool and head. The second panel ranks the rows: dark where no difference to the best is certain, pale where
    a row is certainly worse (p below 0.05). Bars are 95 % intervals. The last panel shows test images for the first
    rows of the best model that have weights: a patch without weight is dark, one with four times an equal share or more
    has full brightness.

    **Arguments:**

    - `comparison`: what `compare` returned.
    - `path`: the file to write, `.png`, `.pdf` or `.svg`.

    **Raises:** `MissingExtraError` if matplotlib is not installed; `ValueError` if `path` has another ending, or there
    are no rows; `OSError` if the file cannot be written.
    """
    save_figure(_make_figure(comparison), Path(path))


def render_comparison(comparison: ComparedRows) -> str:
    """Draws the same for a web page.

    **Arguments:**

    - `comparison`: what `compare` returned.

    **Returns:**

    An SVG element, whose colours are the variables `--ink`, `--paper`, `--faint` and `--best` of the page.

    **Raises:** what `draw_comparison` raises.
    """
    written = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    _make_figure(comparison).savefig(written, format="svg", metadata=nothing)
    text = written.getvalue()
    text = text[text.index("<svg") :]
    for colour, name in ((INK, "ink"), (PAPER, "paper"), (FAINT, "faint"), (RIGHT, "best")):
        text = text.replace(colour, f"var(--{name})")
    return text


def _make_figure(comparison: ComparedRows) -> Any:
    rows = comparison.rows
    if not rows:
        raise ValueError("comparison must have at least one row, got none")
    best = rows[0]
    looking = [
        place
        for place, row in enumerate(rows)
        if row.maps is not None and (row.model, row.resolution) == (best.model, best.resolution)
    ][:_DRAWN]
    pictures = comparison.pictures
    looking = [] if pictures is None else looking
    side = (_WIDTH - 2 * _MARGIN - 1.5) / (1 if pictures is None else len(pictures))
    ranked = min(len(rows), _RANKED)
    heights = [_TITLE + _PLOT + _AXIS, _TITLE + ranked * _LINE + _AXIS]
    heights += [_TITLE + len(looking) * side] if looking else []
    total = sum(heights) + 2 * _MARGIN
    figure = require("matplotlib.figure", extra="demo").Figure(figsize=(_WIDTH, total), facecolor=PAPER)

    def add_axes(left: float, top: float, width: float, height: float) -> Any:
        place = (left / _WIDTH, 1 - (top + height) / total, width / _WIDTH, height / total)
        return figure.add_axes(place, facecolor="none")

    def write(left: float, top: float, text: str, size: float = _TEXT, color: str = INK) -> None:
        figure.text(left / _WIDTH, 1 - top / total, text, fontsize=size, color=color, va="center", parse_math=False)

    top = _MARGIN
    write(_MARGIN, top + 0.2, "Accuracy and cost", _TEXT + 2)
    _plot_cost(add_axes(0.75, top + _TITLE, _WIDTH - 0.9, _PLOT), comparison)
    top += heights[0]
    write(
        _MARGIN, top + 0.2, f"Ranking{f', the first {ranked} of {len(rows)}' if ranked < len(rows) else ''}", _TEXT + 2
    )
    label = min(max(len(name) for name in comparison.names[:ranked]) * 0.095 + 0.45, 2.9)
    _plot_ranking(
        add_axes(_MARGIN + label, top + _TITLE, _WIDTH - label - 2 * _MARGIN, ranked * _LINE), comparison, ranked
    )
    top += heights[1]
    if looking and pictures is not None:
        write(_MARGIN, top + 0.2, "Where each pool looks", _TEXT + 2)
        for line, place in enumerate(looking):
            for column, cell in enumerate(_light(rows[place], pictures)):
                axes = add_axes(_MARGIN + column * side, top + _TITLE + line * side, 0.95 * side, 0.95 * side)
                axes.imshow(cell, interpolation="nearest", aspect="auto")
                axes.set_axis_off()
            beside = _MARGIN + len(pictures) * side + 0.05
            write(
                beside, top + _TITLE + (line + 0.47) * side, textwrap.fill(f"{place + 1} {comparison.names[place]}", 15)
            )
    return figure


def _plot_cost(axes: Any, comparison: ComparedRows) -> None:
    rows = comparison.rows
    only_pools = comparison.axes == ("pool",)
    times = [row.readout_milliseconds if only_pools else row.milliseconds for row in rows]
    front = sorted(
        (time, 100 * row.accuracy) for time, row, on in zip(times, rows, comparison.front, strict=True) if on
    )
    axes.plot(*zip(*front, strict=True), color=RIGHT, linewidth=1.2, alpha=0.6, drawstyle="steps-post", zorder=1)
    for place, (row, time, on) in enumerate(zip(rows, times, comparison.front, strict=True)):
        colour = RIGHT if on else INK
        axes.errorbar(
            time, 100 * row.accuracy, yerr=100 * row.margin, color=colour, elinewidth=0.6, alpha=0.35, zorder=1
        )
        axes.plot(time, 100 * row.accuracy, "o", markersize=17, color=PAPER, markeredgecolor=colour, zorder=2)
        axes.text(
            time,
            100 * row.accuracy,
            str(place + 1),
            fontsize=_TEXT - 2,
            color=colour,
            ha="center",
            va="center",
            zorder=3,
        )
    axes.set_xscale("log")
    axes.set_xlim(0.75 * min(times), 1.33 * max(times))
    ticker = require("matplotlib.ticker", extra="demo")
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    what = "pool and head" if only_pools else "backbone, pool and head"
    axes.set_xlabel(f"milliseconds an image, {what}", fontsize=_TEXT, color=INK)
    axes.set_ylabel("accuracy, %", fontsize=_TEXT, color=INK)
    _finish(axes)
    axes.text(
        0.98, 0.03, "line: the Pareto front", transform=axes.transAxes, fontsize=_TEXT - 1, color=RIGHT, ha="right"
    )


def _plot_ranking(axes: Any, comparison: ComparedRows, ranked: int) -> None:
    for place, row in enumerate(comparison.rows[:ranked]):
        worse = row.p_value is not None and row.p_value < CERTAIN
        colour = RIGHT if place == 0 else FAINT if worse else INK
        axes.errorbar(
            100 * row.accuracy,
            place,
            xerr=100 * row.margin,
            fmt="o",
            markersize=5,
            color=colour,
            elinewidth=1,
            capsize=2,
        )
    axes.set_ylim(ranked - 0.5, -0.5)
    names = [f"{place + 1} {_cut(name)}" for place, name in enumerate(comparison.names[:ranked])]
    axes.set_yticks(range(ranked), names, parse_math=False)
    axes.set_xlabel("accuracy, %; pale: certainly worse", fontsize=_TEXT, color=INK, loc="right")
    axes.grid(axis="x", color=FAINT, linewidth=0.3, alpha=0.5)
    _finish(axes)
    axes.tick_params(axis="y", length=0)


def _cut(name: str) -> str:
    """A name that fits beside the plot: its ends, the model and the pool, tell it from others."""
    return name if len(name) <= 28 else f"{name[:12]}…{name[-15:]}"


def _finish(axes: Any) -> None:
    axes.tick_params(labelsize=_TEXT - 1, colors=INK, which="both")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)


def _light(
    row: ComparedRow, pictures: UInt8[np.ndarray, "images height width channels"]
) -> Float[np.ndarray, "images height width 3"]:
    """The pictures, lit by the weights of a row."""
    assert row.maps is not None
    shares = jnp.asarray(row.maps * row.maps[0].size, jnp.float32)
    smooth = cast(Array, jax.image.resize(shares, (len(shares), *pictures.shape[1:3]), "linear"))
    return add_glow(pictures, np.asarray(smooth))
