"""A picture of a comparison of pools."""

from pathlib import Path
from statistics import fmean
from typing import Any, Final, Protocol, cast, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._extras import require
from ..images import Dataset
from ._save import save_figure
from ._style import FAINT, INK, PAPER, RIGHT, WRONG, add_glow

_CELL: Final = 0.95  # inches to a side of an image
_PLOT: Final = 5.4  # inches, with its labels


@runtime_checkable
class ComparedPool(Protocol):
    """The result of one pool, as `vitrail.lab.PoolRow` has it."""

    @property
    def pool(self) -> str:
        """The name of the pool."""
        ...

    @property
    def accuracy(self) -> float:
        """The mean accuracy over the runs."""
        ...

    @property
    def spread(self) -> float:
        """The standard deviation of the accuracy over the runs."""
        ...

    @property
    def microseconds(self) -> float:
        """The time for an image."""
        ...

    @property
    def needs_class_token(self) -> bool:
        """Whether the pool reads the class token."""
        ...

    @property
    def maps(self) -> Float[np.ndarray, "drawn rows cols"] | None:
        """The weights of the patches of some images, for a pool that has weights."""
        ...


@runtime_checkable
class ComparedPools(Protocol):
    """The results of a comparison, as `vitrail.lab.Comparison` has them."""

    @property
    def rows(self) -> tuple[ComparedPool, ...]:
        """One for each pool."""
        ...

    @property
    def map_images(self) -> tuple[int, ...]:
        """The held-out images that the maps are of."""
        ...


def draw_comparison(comparison: ComparedPools, data: Dataset, path: Path | str) -> None:
    """Draws the accuracy of pools against their cost, and the weights that they give to patches.

    The left panel plots accuracy against the time for an image, with the standard deviation over the runs. The right
    panel shows held-out images for each pool that has weights: a patch without weight is dark, one with four times an
    equal share or more has full brightness.

    **Arguments:**

    - `comparison`: what `compare_pools` returned.
    - `data`: the data set of the comparison.
    - `path`: the file to write, `.png`, `.pdf` or `.svg`.

    **Raises:** `MissingExtraError` if matplotlib is not installed; `ValueError` if `path` has another ending;
    `OSError` if the file cannot be written.
    """
    looking = [row for row in comparison.rows if row.maps is not None]
    columns = len(comparison.map_images)
    width = _PLOT + (0.3 + columns * _CELL + 1.1 if looking else 0.3)
    height = max(4.6, 1.0 + len(looking) * _CELL)
    figure = require("matplotlib.figure", extra="demo").Figure(figsize=(width, height), facecolor=PAPER)

    plot = figure.add_axes(
        (0.75 / width, 0.6 / height, (_PLOT - 2.2) / width, (height - 1.1) / height), facecolor=PAPER
    )
    _plot_cost(plot, comparison.rows)
    for place, row in enumerate(looking):
        for column, cell in enumerate(_draw_cells(row, comparison, data)):
            left, top = _PLOT + 0.3 + column * _CELL, 0.5 + place * _CELL
            size = 0.94 * _CELL
            axes = figure.add_axes((left / width, 1 - (top + size) / height, size / width, size / height))
            axes.imshow(cell, interpolation="nearest", aspect="auto")
            axes.set_axis_off()
        middle = 1 - (0.5 + (place + 0.47) * _CELL) / height
        right = (_PLOT + 0.3 + columns * _CELL + 0.06) / width
        figure.text(right, middle, row.pool, fontsize=9, color=INK, va="center", parse_math=False)
    if looking:
        left = (_PLOT + 0.3) / width
        figure.text(left, 1 - 0.36 / height, "Where each pool looks", fontsize=11, color=INK)
    figure.text(0.75 / width, 1 - 0.36 / height, "Accuracy against cost", fontsize=11, color=INK)
    save_figure(figure, Path(path))


def _plot_cost(axes: Any, rows: tuple[ComparedPool, ...]) -> None:
    times = [row.microseconds for row in rows]
    for row in rows:
        colour = WRONG if row.needs_class_token else RIGHT
        point = (row.microseconds, 100 * row.accuracy)
        axes.errorbar(*point, yerr=100 * row.spread, fmt="o", markersize=5, color=colour, elinewidth=0.8, capsize=2)
    low = min(100 * (row.accuracy - row.spread) for row in rows)
    high = max(100 * (row.accuracy + row.spread) for row in rows)
    margin = max(0.06 * (high - low), 0.1)
    axes.set_ylim(low - margin, high + margin)
    axes.set_xscale("log")
    axes.set_xlim(0.8 * min(times), 1.25 * max(times))
    axes.xaxis.set_major_locator(require("matplotlib.ticker", extra="demo").LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set_xlabel("microseconds an image, pool and head", fontsize=9, color=INK)
    axes.set_ylabel("accuracy on held-out images, %", fontsize=9, color=INK)
    axes.tick_params(labelsize=8, colors=INK, which="both")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    _name_points(axes, rows, (low - margin, high + margin))
    axes.text(0.02, 0.02, "red: reads the class token", transform=axes.transAxes, fontsize=8, color=FAINT)


def _name_points(axes: Any, rows: tuple[ComparedPool, ...], limits: tuple[float, float]) -> None:
    """Writes the names in a column beside the plot, near the height of their points, with lines to them."""
    low, high = limits
    heights = _space_out([(100 * row.accuracy - low) / (high - low) for row in rows], min(0.055, 1 / len(rows)))
    for row, height in zip(rows, heights, strict=True):
        axes.annotate(
            row.pool,
            xy=(row.microseconds, 100 * row.accuracy),
            xytext=(1.06, height),
            textcoords="axes fraction",
            fontsize=8,
            color=INK,
            va="center",
            parse_math=False,
            arrowprops={"arrowstyle": "-", "color": FAINT, "linewidth": 0.4, "alpha": 0.6},
        )


def _space_out(wanted: list[float], gap: float) -> list[float]:
    """Heights as near as possible to those wanted, the largest first, with a gap between any two."""
    blocks: list[list[float]] = []  # heights that touch, each raised by the gaps above it
    for i, height in enumerate(wanted):
        blocks.append([height + i * gap])
        while len(blocks) > 1 and fmean(blocks[-1]) > fmean(blocks[-2]):
            last = blocks.pop()
            blocks[-1] += last
    raised = [fmean(block) for block in blocks for _ in block]
    return [height - i * gap for i, height in enumerate(raised)]


def _draw_cells(
    row: ComparedPool, comparison: ComparedPools, data: Dataset
) -> Float[np.ndarray, "images height width 3"]:
    images = data.test.images[np.array(comparison.map_images)]
    assert row.maps is not None
    shares = jnp.asarray(row.maps * row.maps[0].size, jnp.float32)
    smooth = cast(Array, jax.image.resize(shares, (len(shares), *data.image_size), "linear"))
    return add_glow(images, np.asarray(smooth))
