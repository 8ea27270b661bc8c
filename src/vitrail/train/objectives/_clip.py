"""Images and the texts that describe them."""

import dataclasses
import math
from typing import Any, ClassVar, Final, Literal, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ...images import Preprocess
from ...systems import ImageText
from ._base import AbstractObjective, Batch, Outcome, Scalar, compare_with, normalise_images

_LARGEST_LOG_SCALE: Final = math.log(100)


@final
class CLIPObjective(AbstractObjective):
    """Tells which text of a batch belongs to which image.

    With `loss="softmax"` each image chooses among the texts, and each text among the images: `contrast`. With
    `loss="sigmoid"` each pair is a question of its own: `contrast_pairs`. All images and texts of a batch are compared,
    also where the batch is divided over devices.

    ??? cite

        Radford et al., *Learning Transferable Visual Models From Natural Language Supervision*, ICML 2021,
        arXiv:2103.00020, figure 3 and section 2.5 (the scale is at most 100). Zhai et al., *Sigmoid Loss for Language
        Image Pre-Training*, ICCV 2023, arXiv:2303.15343, algorithm 1.
    """

    inputs: ClassVar[tuple[str, ...]] = ("image", "text")
    is_mean: ClassVar[bool] = False

    preprocess: Preprocess = eqx.field(static=True)
    loss: Literal["softmax", "sigmoid"] = eqx.field(static=True)

    def __init__(self, *, preprocess: Preprocess, loss: Literal["softmax", "sigmoid"] = "softmax"):
        """**Arguments:**

        - `preprocess`: how pixels are normalised.
        - `loss`: one question about all texts, or one about each.
        """
        self.preprocess = preprocess
        self.loss = loss

    def prepare(self, model: Any, *, key: PRNGKeyArray) -> Any:
        if not isinstance(model, ImageText):
            raise ValueError(
                f"model must have a text tower for the objective clip, got a {type(model).__name__}: build an "
                "ImageTextConfig, or load a file of CLIP or SigLIP"
            )
        return model

    def __call__(
        self, model: Any, batch: Batch, *, carried: Any, progress: Scalar, key: PRNGKeyArray
    ) -> tuple[Scalar, Outcome]:
        def embed_image(image: Float[Array, "height width channels"], key: PRNGKeyArray) -> Float[Array, " embed"]:
            return model.embed_image(image, key=key)

        def embed_text(tokens: Int[Array, " context"], key: PRNGKeyArray) -> Float[Array, " embed"]:
            return model.embed_text(tokens, key=key)

        images = normalise_images(self.preprocess, batch)
        image_keys, text_keys = jax.random.split(key, (2, len(images)))
        logits = model.similarity(
            jax.vmap(embed_image)(images, image_keys), jax.vmap(embed_text)(batch["text"], text_keys)
        )
        accuracy = compare_with(jnp.arange(len(logits)), logits)
        loss = contrast(logits) if self.loss == "softmax" else contrast_pairs(logits)
        return loss, Outcome({"accuracy": accuracy, "scale": jnp.exp(model.log_scale)})

    def finish(self, model: Any, carried: Any, *, progress: Scalar) -> tuple[Any, Any]:
        scale = jnp.clip(model.log_scale, 0.0, _LARGEST_LOG_SCALE)
        return dataclasses.replace(model, log_scale=scale), carried


def contrast(logits: Float[Array, "images texts"]) -> Scalar:
    """**Arguments:**

    - `logits`: of each image and each text; those that belong together are on the diagonal.

    **Returns:**

    The mean of the cross-entropy of each image over the texts, and of each text over the images.
    """
    right = jnp.sum(logits * jnp.eye(len(logits), dtype=logits.dtype), axis=1)
    over_texts, over_images = (jax.nn.logsumexp(logits, axis=axis) for axis in (1, 0))
    return jnp.mean((over_texts + over_images) / 2 - right)


def contrast_pairs(logits: Float[Array, "images texts"]) -> Scalar:
    """**Arguments:**

    - `logits`: as in `contrast`.

    **Returns:**

    The cross-entropy of the question whether a text belongs to an image: the sum over the texts, the mean over the
    images.
    """
    signs = 2 * jnp.eye(len(logits), dtype=logits.dtype) - 1
    return -jnp.sum(jax.nn.log_sigmoid(signs * logits)) / len(logits)
