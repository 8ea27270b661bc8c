"""How well a model of images and texts tells texts apart."""

from typing import Any, cast

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from .._check import check_positive
from ..images import Dataset, Preprocess
from ..systems import ImageText
from ._evaluate import apply_in_batches


def match_texts(model: ImageText, data: Dataset, *, batch_size: int = 250) -> tuple[Bool[np.ndarray, " images"], int]:
    """Lets each held-out image choose among the texts of all of them: retrieval at one, from images to texts.

    **Arguments:**

    - `model`: of images and texts.
    - `data`: the data set, whose `test` is used.
    - `batch_size`: how many images or texts are embedded at a time.

    **Returns:**

    Whether the best text of each image is its own, or one of its own if a picture has several, and the number of
    different texts.

    **Raises:** `ValueError` if the images have no texts; what `ImageText.tokenize` raises.
    """
    check_positive(batch_size=batch_size)
    examples = data.test
    if examples.texts is None:
        raise ValueError(f"data must have texts, got {data.name} without: load images with texts")
    texts, own = np.unique(cast(Any, examples.texts), return_inverse=True)
    tokens = model.tokenize(texts.tolist(), quiet=True)
    text_embeddings = apply_in_batches(_embed_texts, model, tokens, None, batch_size)
    embeddings = apply_in_batches(_embed_images, model, examples.images, data.preprocess, batch_size)
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
