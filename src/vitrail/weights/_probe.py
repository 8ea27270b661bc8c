"""What a model of any kind makes of a drawn picture, to compare two models or two ways of computing one."""

from collections.abc import Mapping
from typing import Any, Final

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from ..model import ViT
from ..systems import DINO, Dense, ImageText, MaskedAutoencoder, SegmentAnything
from ._configuration import get_image_model
from .formats import NumpyArray

ROUNDING: Final = 1e-5
"""How far apart outputs may be in float32, relative to the largest number: sums in another order."""


def draw_picture(model: object, seed: int = 0) -> Float32[np.ndarray, "height width channels"]:
    """Draws the pixels of a picture for a model, as its preprocessing normalises them: smooth shapes and fine grain.

    The same seed gives the same picture on every computer.
    """
    config = get_image_model(model).config
    (height, width), channels, random = config.image_size, config.channels, np.random.RandomState(seed)
    rows, cols = np.mgrid[:height, :width] / np.array([height, width]).reshape(2, 1, 1)
    pixels = 0.04 * random.standard_normal((height, width, channels))
    for waves in range(1, 9):
        turns = waves * random.uniform(-1, 1, (2, channels))
        phase = random.uniform(0, 2 * np.pi, channels)
        pixels += np.cos(2 * np.pi * (rows[..., None] * turns[0] + cols[..., None] * turns[1]) + phase) / waves
    pixels = np.clip(0.5 + 0.2 * pixels, 0, 1)
    known = config.preprocess
    mean, std = (0.5, 0.5) if known is None else (np.asarray(known.mean), np.asarray(known.std))
    return ((pixels - mean) / std).astype(np.float32)


def run_probe(model: Any, picture: NumpyArray) -> dict[str, NumpyArray]:
    """What a model returns for a picture, by the names of the outputs, as float32.

    The text tower of a model with two reads drawn ids, and SAM's decoder a point in the middle.
    """
    found = _run(model, jnp.asarray(picture))
    return {name: np.asarray(array, np.float32) for name, array in found.items()}


@eqx.filter_jit
def _run(model: Any, image: Any) -> Mapping[str, Any]:
    match model:
        case ViT():
            tokens = model.backbone(image)
            return {"tokens": tokens.sequence, "output": model.readout(tokens)}
        case ImageText():
            embedding, text = model.embed_image(image), model.embed_text(draw_text(model))
            return {"image": embedding, "text": text, "similarity": model.similarity(embedding, text)}
        case MaskedAutoencoder():
            kept = jnp.arange(0, int(np.prod(model.config.image.grid)), 3)
            return {"pixels": model(image, kept)}
        case DINO():
            output = model(image)
            patches = {"patch scores": model.score_patches(output.patches)}
            return {"scores": output.scores, "embedding": output.embedding, **patches}
        case Dense():
            return {"map": model(image)}
        case SegmentAnything():
            tokens = model.image.backbone(image).patch_grid
            height, width = model.config.image.image_size
            masks, quality = model(tokens, jnp.asarray([[width / 2, height / 2], [0, 0]]), jnp.asarray([1, -1]))
            return {"tokens": tokens, "masks": masks, "quality": quality}
        case _:
            raise TypeError(f"model must be a ViT or a system of vitrail, got a {type(model).__name__}")


def draw_text(model: ImageText) -> NumpyArray:
    """Ids of a text that ends in its middle, where the tower knows what ends one."""
    text = model.config.text
    ids = np.random.RandomState(0).randint(1, max(text.vocabulary - 2, 2), text.context).astype(np.int32)
    if text.end_of_text is not None:
        ids[text.context // 2] = text.end_of_text
    return ids


def compare_outputs(ours: Mapping[str, NumpyArray], theirs: Mapping[str, NumpyArray]) -> dict[str, float]:
    """By output, the largest difference relative to the largest number; infinite if shapes differ or there is NaN."""
    found: dict[str, float] = {}
    for name in ours.keys() | theirs.keys():
        if name not in ours or name not in theirs or ours[name].shape != theirs[name].shape:
            found[name] = float("inf")
            continue
        scale = max(float(np.abs(theirs[name]).max()), 1e-30)
        largest = float(np.abs(ours[name] - theirs[name]).max()) / scale
        found[name] = float("inf") if np.isnan(largest) else largest
    return found
