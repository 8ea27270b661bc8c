"""A picture of predictions for held-out images."""

from pathlib import Path
from typing import Any, Final, cast

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from .._extras import require
from ..images import Dataset, Preprocess
from ..model import ViT
from ..train import Evaluation, apply_in_batches
from ._attention import compute_attention_map
from ._save import save_figure
from ._style import FAINT, FULL_GLOW, INK, PAPER, RIGHT, WRONG, add_glow, to_rgb

_COLUMNS: Final = 10
_ROWS_OF_MISTAKES: Final = 2
# Inches, from the upper left corner of the page.
_PAGE, _MARGIN, _HEAD, _FOOT, _TITLE, _LABEL, _GAP = 12.0, 0.4, 0.62, 0.42, 0.34, 0.52, 0.1
_LINE: Final = 0.17
_POINTS: Final = 10


def draw_predictions(model: ViT, data: Dataset, evaluation: Evaluation, path: Path | str) -> None:
    """Draws held-out images with their true and predicted classes, and the attention of the model.

    At the top are images that are classified correctly, one of each class in turn; below are the mistakes, the most
    probable first. Each image is drawn twice: as it is, and lit by its attention: dark for none, full for four
    times an equal share or more.

    **Arguments:**

    - `model`: the ViT that was evaluated.
    - `data`: the data set it was evaluated on.
    - `evaluation`: what `evaluate` returned.
    - `path`: the file to write, `.png`, `.pdf` or `.svg`.

    **Raises:** `MissingExtraError` if matplotlib is not installed; `ValueError` if `path` has another ending;
    `OSError` if the file cannot be written.
    """
    right, wrong, missed = _choose(evaluation)
    number = f"the most probable {len(wrong)} of {missed}" if missed > len(wrong) else f"all {missed}"
    sections = [
        ("Right, one of each class in turn: class and probability", RIGHT, right),
        (f"Wrong, {number}: true class → predicted, and probability", WRONG, wrong),
    ]
    step = (_PAGE - 2 * _MARGIN + _GAP) / _COLUMNS
    cell_width = step - _GAP
    cell_height = 2 * cell_width * data.image_size[0] / data.image_size[1]
    rows = [-(-len(chosen) // _COLUMNS) for _, _, chosen in sections]
    page_height = _HEAD + _FOOT + sum(_TITLE + n * (cell_height + _LABEL) for n in rows if n)
    figure = require("matplotlib.figure", extra="demo").Figure(figsize=(_PAGE, page_height), facecolor=PAPER)

    def write(x: float, y: float, text: str, **style: Any) -> None:
        figure.text(
            x / _PAGE, 1 - y / page_height, text, **{"color": INK, "va": "baseline", "parse_math": False, **style}
        )

    def draw(x: float, y: float, pixels: Float[np.ndarray, "height width 3"]) -> None:
        lower = 1 - (y + cell_height) / page_height
        axes = figure.add_axes((x / _PAGE, lower, cell_width / _PAGE, cell_height / page_height))
        axes.imshow(pixels, interpolation="nearest", aspect="auto")
        axes.set_axis_off()

    write(_MARGIN, 0.48, f"{evaluation.accuracy:.1%} right", fontsize=20, fontweight="bold")
    counts = f"{evaluation.correct:,} of {len(evaluation.labels):,} held-out images · {data.name} · pool"
    write(_PAGE - _MARGIN, 0.48, f"{counts} {model.config.pool}", fontsize=11, color=FAINT, ha="right")
    top = _HEAD
    for title, colour, chosen in sections:
        if len(chosen) == 0:
            continue
        write(_MARGIN, top + 0.22, title, fontsize=11, color=colour)
        top += _TITLE
        for place, (index, pixels) in enumerate(zip(chosen, _draw_cells(model, data, chosen), strict=True)):
            x, y = _MARGIN + place % _COLUMNS * step, top + place // _COLUMNS * (cell_height + _LABEL)
            draw(x, y, pixels)
            label = _format_label(data.classes, evaluation, int(index), 72 * cell_width)
            for line, text in enumerate((label, f"{evaluation.probability[index]:.0%}")):
                below = y + cell_height + 0.02 + (line + 1) * _LINE
                write(x + cell_width / 2, below, text, fontsize=_POINTS, color=colour, ha="center")
        top += -(-len(chosen) // _COLUMNS) * (cell_height + _LABEL)
    queries = "the class token" if model.readout.pool.needs_class_token else "all patches"
    write(
        _MARGIN,
        page_height - 0.2,
        f"The light shows the attention of {queries} in the last block, mean over heads: "
        f"dark for none, full at {FULL_GLOW:.0f} times an equal share.",
        fontsize=9,
        color=FAINT,
    )
    save_figure(figure, Path(path))


def _choose(evaluation: Evaluation) -> tuple[Int[np.ndarray, " right"], Int[np.ndarray, " wrong"], int]:
    """Chooses the images to draw: a row of correct ones, class by class, and the most probable mistakes. Also returns
    the number of mistakes."""
    hit = evaluation.predicted == evaluation.labels
    right = np.flatnonzero(hit)
    labels = evaluation.labels[right]
    turns = np.zeros(len(right), int)  # how many images of its class are before an image
    for label in np.unique(labels):
        turns[labels == label] = np.arange(np.sum(labels == label))
    missed = np.flatnonzero(~hit)
    surest = missed[np.argsort(-evaluation.probability[missed], kind="stable")]
    return right[np.lexsort((labels, turns))][:_COLUMNS], surest[: _ROWS_OF_MISTAKES * _COLUMNS], len(missed)


def _draw_cells(
    model: ViT, data: Dataset, chosen: Int[np.ndarray, " chosen"]
) -> Float[np.ndarray, "chosen two_heights width 3"]:
    """Each image in RGB, and below it the same image lit by the attention map."""
    images = data.test.images[chosen]
    shares = apply_in_batches(_compute_shares, model, images, data.preprocess, _COLUMNS)
    return np.concatenate([to_rgb(images), add_glow(images, shares)], axis=1)


@eqx.filter_jit
def _compute_shares(
    model: ViT, images: UInt8[Array, "batch height width channels"], preprocess: Preprocess
) -> Float[Array, "batch height width"]:
    """The attention of each pixel in equal shares, interpolated between the patches."""

    def compute_one(image: Float[Array, "height width channels"]) -> Float[Array, "height width"]:
        weights = compute_attention_map(model, image)
        return cast(Array, jax.image.resize(weights * weights.size, image.shape[:2], "linear"))

    return jax.vmap(compute_one)(preprocess.normalise(images))


def _format_label(classes: tuple[str, ...], evaluation: Evaluation, index: int, width: float) -> str:
    """The true class and the predicted one if that is another, shortened to a width in points."""
    names = [classes[int(labels[index])] for labels in (evaluation.labels, evaluation.predicted)]
    names = list(dict.fromkeys(names))
    texts = (" → ".join(_shorten(name, most) for name in names) for most in range(max(map(len, names)), 0, -1))
    return next((text for text in texts if _measure(text) <= width), "…")


def _measure(text: str) -> float:
    """The width of a text in points."""
    paths = require("matplotlib.textpath", extra="demo").text_to_path
    font = require("matplotlib.font_manager", extra="demo").FontProperties(size=_POINTS)
    return paths.get_text_width_height_descent(text, font, ismath=False)[0]


def _shorten(name: str, most: int) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
