"""What the commands share that read texts: classes in words, and models of images and texts."""

from collections import Counter
from pathlib import Path
from typing import Any, cast

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from .._check import join_names
from .._extras import require
from ..images import Dataset, Preprocess
from ..systems import ImageText
from ..train import apply_in_batches
from ._options import LoadOptions


def parse_classes(text: str) -> list[str]:
    """The classes of a list with commas.

    **Raises:** `ValueError` if one is empty or there twice.
    """
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise ValueError(f"classes must be names between commas, none empty, got {text!r}")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"classes must be different, got {join_names(twice)} more than once")
    return names


def load_image_text(file: Path, options: LoadOptions) -> ImageText:
    """Loads a model of images and texts, with its tokenizer.

    **Raises:** `ValueError` if the file holds another model, or there is no tokenizer; what `load` raises.
    """
    require("tokenizers", extra="text")
    model = options.load_model(file)
    if not isinstance(model, ImageText):
        raise ValueError(
            f"{file} must have both towers of CLIP or SigLIP to read texts, got a {type(model).__name__}: pass a "
            "checkpoint with both"
        )
    if model.config.tokenizer is None:
        raise ValueError(
            f"{file} must have a tokenizer beside it to read texts, got none: put the checkpoint's tokenizer.json (or "
            "CLIP's merges; a spiece.model is not read) there"
        )
    return model


def measure_matches(model: ImageText, data: Dataset) -> tuple[Bool[np.ndarray, " images"], int]:
    """Measures how well a model tells the texts of held-out images apart.

    **Returns:**

    Whether the best text of each image is its own, and the number of different texts.
    """
    examples = data.test
    texts, own = np.unique(cast(Any, examples.texts), return_inverse=True)
    tokens = model.tokenize(texts.tolist(), quiet=True)
    text_embeddings = apply_in_batches(_embed_texts, model, tokens, None, 250)
    embeddings = apply_in_batches(_embed_images, model, examples.images, data.preprocess, 250)
    best = np.argmax(embeddings @ text_embeddings.T, axis=1)
    # A picture that has several texts is there as often.
    pictures = [name.tobytes() for name in examples.identity]
    pairs = set(zip(pictures, own.tolist(), strict=True))
    return np.array([pair in pairs for pair in zip(pictures, best.tolist(), strict=True)]), len(texts)


@eqx.filter_jit
def _embed_images(
    model: ImageText, images: UInt8[Array, "batch height width channels"], preprocess: Preprocess
) -> Float[Array, "batch embed"]:
    return jax.vmap(model.embed_image)(preprocess.normalise(images))


@eqx.filter_jit
def _embed_texts(model: ImageText, tokens: Int[Array, "batch context"], fixed: None) -> Float[Array, "batch embed"]:
    return jax.vmap(model.embed_text)(tokens)
