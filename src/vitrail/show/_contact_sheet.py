"""A picture of many pictures."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import UInt8

from .._extras import require
from ._save import save_figure
from ._style import FAINT, INK, PAPER

# Inches.
_PAGE, _MARGIN, _HEAD, _FOOT, _LABEL, _GAP = 12.0, 0.4, 0.75, 0.25, 0.5, 0.12
_COLUMNS: Final = 6
_LINES: Final = (0.18, 0.36)
_CHARACTERS: Final = 28
_TITLE: Final = 90


def draw_contact_sheet(
    pictures: UInt8[np.ndarray, "pictures height width 3"],
    captions: Sequence[tuple[str, str]],
    path: Path | str,
    *,
    title: str,
) -> None:
    """Draws pictures in rows of six, each with two lines below.

    **Arguments:**

    - `pictures`: RGB pixels of one size.
    - `captions`: two lines for each picture, of which the first stands out. What is too long is cut in the middle.
    - `path`: the file to write, `.png`, `.pdf` or `.svg`.
    - `title`: what is written at the top.

    **Raises:** `ValueError` if there is no picture, or not a caption for each, or `path` has another ending;
    `MissingExtraError` if matplotlib is not installed; `OSError` if the file cannot be written.
    """
    if len(pictures) == 0 or len(captions) != len(pictures):
        raise ValueError(f"captions must be one for each picture, got {len(captions)} for {len(pictures)} pictures")
    step = (_PAGE - 2 * _MARGIN + _GAP) / _COLUMNS
    width = step - _GAP
    height = width * pictures.shape[1] / pictures.shape[2]
    rows = -(-len(pictures) // _COLUMNS)
    page = _HEAD + rows * (height + _LABEL) + _FOOT
    figure = require("matplotlib.figure", extra="demo").Figure(figsize=(_PAGE, page), facecolor=PAPER)
    figure.text(_MARGIN / _PAGE, 1 - 0.45 / page, _shorten(title, _TITLE), fontsize=16, color=INK, parse_math=False)
    for number, (pixels, lines) in enumerate(zip(pictures, captions, strict=True)):
        left = _MARGIN + number % _COLUMNS * step
        below = _HEAD + number // _COLUMNS * (height + _LABEL) + height
        axes = figure.add_axes((left / _PAGE, 1 - below / page, width / _PAGE, height / page))
        axes.imshow(pixels, aspect="auto")
        axes.set_axis_off()
        for text, line, colour in zip(lines, _LINES, (INK, FAINT), strict=True):
            place = left / _PAGE, 1 - (below + line) / page
            figure.text(*place, _shorten(text, _CHARACTERS), fontsize=9, color=colour, parse_math=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # of a script that the font does not have
        save_figure(figure, Path(path))


def _shorten(text: str, longest: int) -> str:
    half = longest // 2 - 1
    return text if len(text) <= longest else f"{text[:half]}…{text[-half:]}"
