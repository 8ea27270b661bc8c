"""A picture of what a model says about held-out images, and of where it looked."""

from pathlib import Path
from typing import Any, Final, cast

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from .._extras import require
from ..model import ViT
from ._data import Dataset, Normalisation
from ._evaluate import Evaluation, in_batches
from ._look import attention_map

_COLUMNS: Final = 10
_ROWS_OF_MISTAKES: Final = 2
FULL_GLOW: Final = 4.0  # times an even share of the attention
_GLOW: Final = (1.0, 0.62, 0.11)
PAPER, INK, FAINT, RIGHT, WRONG = "#fbfaf7", "#22252b", "#6d7280", "#1d7a46", "#c0332b"
# Inches, from the upper left corner of the page.
_PAGE, _MARGIN, _HEAD, _FOOT, _TITLE, _LABEL, _GAP = 12.0, 0.4, 0.62, 0.42, 0.34, 0.36, 0.1


def draw_predictions(model: ViT, data: Dataset, evaluation: Evaluation, path: Path | str) -> None:
    """Writes a picture of held-out images with true and predicted classes, and where the model looked.

    Above are images that it classifies rightly, one of each class in turn; below are its mistakes, the surest first.
    Each image is drawn twice: as it is, and under a glow that follows `attention_map`, on one scale for all: dark where
    no attention goes, full where a patch gets four times an even share or more.

    **Arguments:**

    - `model`: the ViT that was evaluated.
    - `data`: the data set it was evaluated on.
    - `evaluation`: what `evaluate` returned.
    - `path`: of the file; its suffix says which format: `.png`, `.pdf`, `.svg`.

    **Raises:** `MissingExtraError` where matplotlib is not installed; `OSError` where the file cannot be written.
    """
    right, wrong, missed = _choose(evaluation)
    shown = f"the surest {len(wrong)} of {missed}" if missed > len(wrong) else f"all {missed}"
    sections = [
        ("Right, one of each class in turn: class and how sure", RIGHT, right),
        (f"Wrong, {shown}: true class → predicted, and how sure", WRONG, wrong),
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
    write(_PAGE - _MARGIN, 0.48, f"{counts} {_pool_name(model)}", fontsize=11, color=FAINT, ha="right")
    top = _HEAD
    for title, colour, chosen in sections:
        if len(chosen) == 0:
            continue
        write(_MARGIN, top + 0.22, title, fontsize=11, color=colour)
        top += _TITLE
        for place, (index, pixels) in enumerate(zip(chosen, _cells(model, data, chosen), strict=True)):
            x, y = _MARGIN + place % _COLUMNS * step, top + place // _COLUMNS * (cell_height + _LABEL)
            draw(x, y, pixels)
            label = _label(data.classes, evaluation, int(index))
            write(x + cell_width / 2, y + cell_height + 0.19, label, fontsize=10, color=colour, ha="center")
        top += -(-len(chosen) // _COLUMNS) * (cell_height + _LABEL)
    queries = "the class token" if model.readout.pool.needs_class_token else "all patches"
    write(
        _MARGIN,
        page_height - 0.2,
        f"The glow shows where the last block looked: the attention of {queries}, mean over heads. "
        f"Dark for none, full at {FULL_GLOW:.0f} times an even share.",
        fontsize=9,
        color=FAINT,
    )
    figure.savefig(path, dpi=130)


def _choose(evaluation: Evaluation) -> tuple[Int[np.ndarray, " right"], Int[np.ndarray, " wrong"], int]:
    """Which images to draw: a row of those classified rightly, class by class, and the mistakes it was surest of; and
    how many mistakes there are."""
    hit = evaluation.predicted == evaluation.labels
    right = np.flatnonzero(hit)
    labels = evaluation.labels[right]
    turns = np.zeros(len(right), int)  # how many of its class came before an image
    for label in np.unique(labels):
        turns[labels == label] = np.arange(np.sum(labels == label))
    missed = np.flatnonzero(~hit)
    surest = missed[np.argsort(-evaluation.probability[missed], kind="stable")]
    return right[np.lexsort((labels, turns))][:_COLUMNS], surest[: _ROWS_OF_MISTAKES * _COLUMNS], len(missed)


def _cells(
    model: ViT, data: Dataset, chosen: Int[np.ndarray, " chosen"]
) -> Float[np.ndarray, "chosen two_heights width 3"]:
    """Each image in RGB, and below it the same, dimmed where the model did not look and warm where it did."""
    images = data.test.images[chosen]
    shares = in_batches(_upsampled_shares, model, images, data.normalisation, _COLUMNS)
    return np.concatenate([in_rgb(images), glowing(images, shares)], axis=1)


def in_rgb(images: UInt8[np.ndarray, "images height width channels"]) -> Float[np.ndarray, "images height width 3"]:
    """Grey or coloured pixels as red, green and blue in [0, 1]."""
    return np.broadcast_to(images / 255, (*images.shape[:3], 3))


def glowing(
    images: UInt8[np.ndarray, "images height width channels"], shares: Float[np.ndarray, "images height width"]
) -> Float[np.ndarray, "images height width 3"]:
    """Images that are dim where a share is zero, and warm where it is four times an even one or more."""
    glow = np.clip(shares / FULL_GLOW, 0, 1)[..., None]
    lit = in_rgb(images) * (0.4 + 0.6 * glow)
    return lit + (1 - lit) * 0.75 * glow * np.asarray(_GLOW)


@eqx.filter_jit
def _upsampled_shares(
    model: ViT, images: UInt8[Array, "batch height width channels"], normalisation: Normalisation
) -> Float[Array, "batch height width"]:
    """The attention of each pixel's patch in even shares, interpolated between the patches."""

    def shares(image: Float[Array, "height width channels"]) -> Float[Array, "height width"]:
        weights = attention_map(model, image)
        return cast(Array, jax.image.resize(weights * weights.size, image.shape[:2], "linear"))

    return jax.vmap(shares)(normalisation(images))


def _pool_name(model: ViT) -> str:
    pool = model.config.pool
    return pool if isinstance(pool, str) else type(model.readout.pool).__name__


def _label(classes: tuple[str, ...], evaluation: Evaluation, index: int) -> str:
    true, predicted = (classes[int(labels[index])] for labels in (evaluation.labels, evaluation.predicted))
    names = _short(true, 12) if true == predicted else f"{_short(true, 6)} → {_short(predicted, 6)}"
    return f"{names}  {evaluation.probability[index]:.0%}"


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
