"""A picture of the metrics of a run."""

from pathlib import Path
from typing import Any

from .._extras import require
from ..train import read_metrics
from ._save import save_figure
from ._style import FAINT, INK, PAPER, RIGHT, WRONG

_PERCENT = {"accuracy": ("on augmented training images", FAINT), "validation": ("on images of validation", RIGHT)}


def draw_curves(folder: Path | str, path: Path | str) -> None:
    """Draws the loss of a run against its steps, and beside it the accuracies, if it has any.

    **Arguments:**

    - `folder`: of the run, as `vitrail.train.fit` keeps it.
    - `path`: the file to write, `.png`, `.pdf` or `.svg`.

    **Raises:** `MissingExtraError` if matplotlib is not installed; `ValueError` if `path` has another ending, or the
    run has no metrics yet; `OSError` if a file cannot be read or written.
    """
    lines = read_metrics(folder)
    if not lines:
        raise ValueError(f"{folder} must be the folder of a run with metrics, got one without: train a step first")
    shares = [name for name in _PERCENT if any(name in line for line in lines)]
    figure = require("matplotlib.figure", extra="demo").Figure(
        figsize=(5.0 * (2 if shares else 1), 3.6), facecolor=PAPER, layout="constrained"
    )
    plots: Any = figure.subplots(1, 2 if shares else 1, squeeze=False)[0]
    _plot(plots[0], lines, "loss", 1.0, WRONG, "loss")
    plots[0].set_title("Loss", fontsize=11, color=INK, loc="left")
    for name in shares:
        label, colour = _PERCENT[name]
        _plot(plots[1], lines, name, 100.0, colour, label)
    if shares:
        plots[1].set_title("Accuracy, %", fontsize=11, color=INK, loc="left")
        plots[1].legend(fontsize=8, frameon=False, labelcolor=INK)
    save_figure(figure, Path(path))


def _plot(axes: Any, lines: list[dict[str, float]], name: str, scale: float, colour: str, label: str) -> None:
    points = [(line["step"], scale * line[name]) for line in lines if name in line]
    marker = "o" if name == "validation" or len(points) == 1 else None
    axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.2, marker=marker, markersize=3, label=label)
    axes.set_facecolor(PAPER)
    axes.set_xlabel("step", fontsize=9, color=INK)
    axes.tick_params(labelsize=8, colors=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
