"""Pictures of what a masked autoencoder makes of images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Shaped

from ..images import Preprocess
from ..systems import MaskedAutoencoder, Reconstruction
from ._cells import Cell, draw_cells
from ._style import restore_pixels, to_rgb

_GREY = 0.55


def draw_reconstructions(
    model: MaskedAutoencoder,
    images: Sequence[Shaped[np.ndarray, "height width channels"]],
    results: Sequence[Reconstruction],
    path: Path | str,
    *,
    preprocess: Preprocess,
) -> None:
    """Draws each image, what the model saw of it, its prediction, and the prediction with what it saw pasted in.

    **Arguments:**

    - `model`: a masked autoencoder.
    - `images`: as `preprocess` prepared them.
    - `results`: what `model.reconstruct` returned for each.
    - `path`: the file to write, `.png`, `.pdf` or `.svg`.
    - `preprocess`: how the images were prepared.

    **Raises:** `ValueError` if there are no images or as many results; `FloatingPointError` if a prediction is not
    finite; `MissingExtraError` if matplotlib is not installed; `OSError` if the file cannot be written.
    """
    if not images or len(images) != len(results):
        raise ValueError(f"images must be one or more, with a result for each, got {len(images)} and {len(results)}")
    rows: list[list[Cell]] = []
    for image, result in zip(images, results, strict=True):
        predicted = np.asarray(result.pixels)
        if not np.isfinite(predicted).all():
            raise FloatingPointError(
                "the prediction must be finite, got NaN or infinity: look for NaN in the weights of the model"
            )
        hidden = _enlarge_mask(model, np.asarray(result.masked))
        original, filled = (_to_rgb(pixels, preprocess) for pixels in (image, predicted))
        rows.append(
            [
                Cell(f"{image.shape[0]} x {image.shape[1]}", original),
                Cell(f"{np.mean(hidden):.0%} hidden", np.where(hidden, _GREY, original)),
                Cell("prediction", filled),
                Cell("hidden ones filled in", np.where(hidden, filled, original)),
            ]
        )
    draw_cells(rows, Path(path), [])


def _to_rgb(
    image: Shaped[np.ndarray, "height width channels"], preprocess: Preprocess
) -> Float32[np.ndarray, "height width 3"]:
    pixels = restore_pixels(np.asarray(image, np.float32)[None], preprocess)
    return to_rgb(pixels)[0].astype(np.float32)


def _enlarge_mask(
    model: MaskedAutoencoder, masked: Shaped[np.ndarray, " patches"]
) -> Shaped[np.ndarray, "height width 1"]:
    height, width = model.config.image.patch_size
    cells = masked.reshape(model.config.image.grid)
    return np.repeat(np.repeat(cells, height, axis=0), width, axis=1)[..., None]
