"""The functions that an exported model has: of one example each, with the shapes of what they take."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from .._check import describe_value
from ..exported import ArraySpec
from ..model import ViT
from ..systems import DINO, Dense, ImageText, MaskedAutoencoder, SegmentAnything


@dataclass(frozen=True)
class Function:
    """A function of one example."""

    call: Callable[..., Any]
    """Takes one example of each input, and returns the output or a tuple of them."""
    inputs: tuple[ArraySpec, ...]
    """What it takes, without the axis of the batch. A name in place of a number stands for any."""
    outputs: tuple[str, ...]
    """The names of what it returns."""
    example: tuple[Shaped[np.ndarray, "..."], ...]
    """One example of each input, to compare the outputs for."""


def list_functions(model: object, image: Float[np.ndarray, "height width channels"]) -> dict[str, Function]:
    """The functions that a model is exported as. The first takes images.

    **Arguments:**

    - `model`: a `ViT` or a system.
    - `image`: an image for it, to make examples of.

    **Returns:**

    The functions by name.

    **Raises:** `TypeError` if the model is of no such kind.
    """
    images = ArraySpec("images", image.shape, "float32")
    match model:
        case ViT():
            name = "features" if model.config.num_classes is None else "logits"
            return {"model": Function(model, (images,), (name,), (image,))}
        case Dense():
            return {"model": Function(model, (images,), ("map",), (image,))}
        case DINO():

            def embed(image: Float[Array, "height width channels"]) -> tuple[Array, Array]:
                found = model(image)
                return found.embedding, found.patches.astype(jnp.float32)

            return {"model": Function(embed, (images,), ("embedding", "patches"), (image,))}
        case ImageText():
            return _list_towers(model, images, image)
        case MaskedAutoencoder():
            return list_functions(model.image, image)
        case SegmentAnything():
            return _list_segmentation(model, images, image)
        case _:
            raise TypeError(
                f"model must be a ViT or a system of vitrail.systems, got {describe_value(model)}: load one with "
                "vitrail.load"
            )


def _list_towers(
    model: ImageText, images: ArraySpec, image: Float[np.ndarray, "height width channels"]
) -> dict[str, Function]:
    text = model.config.text
    tokens = ArraySpec("tokens", (text.context,), "int32")
    example = np.arange(text.context, dtype=np.int32) % text.vocabulary
    if text.end_of_text is not None:
        example[-1] = text.end_of_text
    return {
        "image": Function(model.embed_image, (images,), ("embedding",), (image,)),
        "text": Function(model.embed_text, (tokens,), ("embedding",), (example,)),
    }


def _list_segmentation(
    model: SegmentAnything, images: ArraySpec, image: Float[np.ndarray, "height width channels"]
) -> dict[str, Function]:
    grid, dim, mask_size = model.config.image.grid, model.config.dim, model.config.mask_size

    def embed(image: Float[Array, "height width channels"]) -> Float[Array, "rows cols dim"]:
        return model.image.backbone(image).patch_grid.astype(jnp.float32)

    inputs = (
        ArraySpec("embedding", (*grid, dim), "float32"),
        ArraySpec("points", ("points", 2), "float32"),
        ArraySpec("labels", ("points",), "int32"),
        ArraySpec("mask", mask_size, "float32"),
        ArraySpec("has_mask", (), "bool"),
    )
    embedding = cast(Array, jax.jit(embed)(image))
    example = (
        np.asarray(embedding, np.float32),
        np.asarray([[image.shape[1] / 3, image.shape[0] / 2], [0, 0]], np.float32),
        np.asarray([1, -1], np.int32),
        np.cos(np.arange(np.prod(mask_size), dtype=np.float32)).reshape(mask_size),
        np.asarray(False),
    )
    return {
        "image": Function(embed, (images,), ("embedding",), (image,)),
        "mask": Function(model, inputs, ("masks", "quality"), example),
    }
