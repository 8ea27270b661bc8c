"""Draws what the trained backbone sees in a photograph: `python tests/oracles/draw_trained_backbone.py OUT.png`."""

import sys
import tempfile
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from skimage import data
from trained_backbone import write_checkpoint

import vitrail

SIZE = 518


def colours_of(tokens: np.ndarray) -> np.ndarray:
    """The first three principal components of the patch tokens as red, green and blue."""
    centred = tokens - tokens.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    components = centred @ directions[:3].T
    low, high = np.quantile(components, (0.01, 0.99), axis=0)
    return np.clip((components - low) / (high - low), 0, 1)


def draw(out: Path) -> None:
    """The image, the components, and where the class token looks in the last block, head by head."""
    with tempfile.TemporaryDirectory() as folder:
        model = vitrail.load(write_checkpoint(Path(folder)), image_size=SIZE)
    card = vitrail.model_card(model)
    image = card.preprocess(data.chelsea())
    tokens = eqx.filter_jit(model.backbone)(image)
    rows, cols = tokens.grid
    found = eqx.filter_jit(model.backbone.activations)(image, at=("attention_weights",), layers=[-1])
    attention = np.asarray(found["attention_weights"][0, :, 0, 1:]).reshape(-1, rows, cols)

    preprocess = card.config.preprocess
    assert preprocess is not None
    shown = np.clip(np.asarray(image) * preprocess.std + jnp.asarray(preprocess.mean), 0, 1)
    panels = [
        (f"chelsea, {SIZE} x {SIZE}", shown, None),
        (
            f"three components of {rows} x {cols} patch tokens",
            colours_of(np.asarray(tokens.patches)).reshape(rows, cols, 3),
            None,
        ),
        ("attention of the class token, mean of the heads", attention.mean(axis=0), "inferno"),
        *((f"head {head + 1}", attention[head], "inferno") for head in range(len(attention))),
    ]
    figure = Figure(figsize=(9.6, 5.2), facecolor="#fbfaf7", layout="constrained")
    grid = figure.add_gridspec(2, 6, height_ratios=(2.05, 1))
    for i, (title, pixels, colours) in enumerate(panels):
        axes = figure.add_subplot(grid[0, 2 * i : 2 * i + 2] if i < 3 else grid[1, i - 3])
        axes.imshow(pixels, cmap=colours)
        axes.set_title(title, fontsize=8.5)
        axes.set_axis_off()
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
