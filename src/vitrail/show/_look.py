"""Pictures of what a model sees: attention by head, and principal components of the patch tokens."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, Float32, UInt8

from ..encoder import Encoder
from ..images import Preprocess
from ..model import ViT
from ._attention import compute_attention_heads
from ._cells import Cell, draw_cells
from ._components import compute_components
from ._style import FULL_GLOW, add_glow, restore_pixels, to_rgb


def draw_attention(
    model: ViT,
    pictures: Sequence[object],
    path: Path | str,
    *,
    image_size: int | tuple[int, int] | None = None,
    preprocess: Preprocess | None = None,
) -> None:
    """Draws where the last block looks: each picture lit by the attention of its heads, and by their mean.

    It is the attention of the class token if the pool reads it, otherwise the mean over all patches. A patch without
    attention is dark, and one with four times an equal share or more is fully lit.

    **Arguments:**

    - `model`: a ViT.
    - `pictures`: Pillow pictures or arrays of uint8, of any size.
    - `path`: the file to write, `.png`, `.pdf` or `.svg`.
    - `image_size`: the height and width in pixels at which the model reads the pictures, as in `ViT.resized`: more
        pixels give finer maps. `None` for the size of the model.
    - `preprocess`: how the pictures are prepared; `None` for that of the model's configuration. A `Preprocess` that
        pads pictures, or gives each its own size, squashes them here.

    **Raises:** `ValueError` if there are no pictures, if nothing says how they are prepared, if a size does not fit, or
    if the model has attention within windows; `FloatingPointError` if the attention is not finite; `MissingExtraError`
    if matplotlib is not installed; `OSError` if the file cannot be written.
    """
    _draw(model, pictures, Path(path), image_size, preprocess, attention=True, components=False)


def draw_components(
    model: ViT,
    pictures: Sequence[object],
    path: Path | str,
    *,
    image_size: int | tuple[int, int] | None = None,
    preprocess: Preprocess | None = None,
    foreground: bool = False,
) -> None:
    """Draws the first three principal components of the patch tokens of several pictures as colours.

    Patches with similar tokens have similar colours, also in different pictures.

    **Arguments:**

    - `model`, `pictures`, `path`, `image_size`, `preprocess`: as in `draw_attention`.
    - `foreground`: whether the background is left out, as in `compute_components`.

    **Raises:** what `draw_attention` raises. Attention within windows is not an error.
    """
    _draw(
        model,
        pictures,
        Path(path),
        image_size,
        preprocess,
        attention=False,
        components=True,
        foreground=foreground,
    )


def draw_look(
    model: ViT,
    pictures: Sequence[object],
    path: Path | str,
    *,
    image_size: int | tuple[int, int] | None = None,
    preprocess: Preprocess | None = None,
    foreground: bool = False,
) -> None:
    """Draws for each picture the principal components of its patch tokens, and the attention of the last block.

    It is `draw_components` and `draw_attention` in one figure. For a model with attention within windows, such as
    SAM's, it draws only the components.

    **Arguments:** as in `draw_components`.

    **Raises:** what `draw_components` raises.
    """
    attention = isinstance(model.backbone.encoder, Encoder)
    _draw(
        model,
        pictures,
        Path(path),
        image_size,
        preprocess,
        attention=attention,
        components=True,
        foreground=foreground,
    )


def _draw(
    model: ViT,
    pictures: Sequence[object],
    path: Path,
    image_size: int | tuple[int, int] | None,
    preprocess: Preprocess | None,
    *,
    attention: bool,
    components: bool,
    foreground: bool = False,
) -> None:
    if not pictures:
        raise ValueError("pictures must have at least one picture, got none")
    preprocess = model.config.preprocess if preprocess is None else preprocess
    if preprocess is None:
        raise ValueError("preprocess must be given, because the configuration of the model does not have it: got None")
    if preprocess.fit in ("pad", "keep", "native"):  # panels of one size, and components of the picture alone
        preprocess = preprocess.squash()
    if image_size is not None:
        model = model.resized(image_size)
    size = model.config.image_size
    images = np.stack([preprocess(picture, size) for picture in pictures])
    pixels = restore_pixels(images, preprocess)
    rows = [[Cell(f"{size[0]} x {size[1]}", shown)] for shown in to_rgb(pixels)]
    if components:
        colours = compute_components(model, images, foreground=foreground)
        for row, shown in zip(rows, _enlarge(colours, size), strict=True):
            row.append(Cell("components", shown))
    if attention:
        for row, image, shown in zip(rows, images, pixels, strict=True):
            row.extend(_light_heads(model, image, shown))
    draw_cells(rows, path, _explain(model, attention=attention, components=components))


def _light_heads(
    model: ViT, image: Float32[np.ndarray, "height width channels"], pixels: UInt8[np.ndarray, "height width channels"]
) -> list[Cell]:
    """The picture lit by the mean of the heads, and by each."""
    heads = np.asarray(_compute_heads(model, image))
    if not np.isfinite(heads).all():
        raise FloatingPointError(
            "the attention must be finite, got NaN or infinity: look for NaN in the weights of the model"
        )
    maps = np.concatenate([heads.mean(axis=0, keepdims=True), heads])
    labels = ["attention, mean", *(f"head {number + 1}" for number in range(len(heads)))]
    shares = maps * maps[0].size
    smooth = np.asarray(cast(Array, jax.image.resize(shares, (len(shares), *pixels.shape[:2]), "linear")))
    lit = add_glow(np.broadcast_to(pixels, (len(smooth), *pixels.shape)), smooth)
    return [Cell(label, shown) for label, shown in zip(labels, lit, strict=True)]


@eqx.filter_jit
def _compute_heads(
    model: ViT, image: Float32[np.ndarray | Array, "height width channels"]
) -> Float[Array, "heads rows cols"]:
    return compute_attention_heads(model, image)


def _enlarge(
    colours: Float[np.ndarray, "images rows cols 3"], size: tuple[int, int]
) -> Float[np.ndarray, "images height width 3"]:
    """Each patch as a rectangle of its colour."""
    down, across = (-(-side // cells) for side, cells in zip(size, colours.shape[1:3], strict=True))
    return np.repeat(np.repeat(colours, down, axis=1), across, axis=2)[:, : size[0], : size[1]]


def _explain(model: ViT, *, attention: bool, components: bool) -> list[str]:
    queries = "the class token" if model.readout.pool.needs_class_token else "all patches"
    share = f"full at {FULL_GLOW:.0f} times an equal share"
    return [
        *(["Components: the first three of the patch tokens of all pictures, as colours."] if components else []),
        *([f"Light: the attention of {queries} in the last block, {share}."] if attention else []),
    ]
