"""Images and the texts that describe them."""

import dataclasses
import math
from typing import Any, ClassVar, Final, Literal, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..._check import check_positive
from ...encoder import EncoderSize
from ...images import Preprocess
from ...model import ViT, replace
from ...systems import ImageText, ImageTextConfig, TextConfig, read_tokenizer
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
    tokenizer: str | None = eqx.field(static=True)
    embed_dim: int = eqx.field(static=True)
    context: int = eqx.field(static=True)
    text_dim: int | None = eqx.field(static=True)
    text_depth: int | None = eqx.field(static=True)
    text_heads: int | None = eqx.field(static=True)

    def __init__(
        self,
        *,
        preprocess: Preprocess,
        loss: Literal["softmax", "sigmoid"] = "softmax",
        tokenizer: str | None = None,
        embed_dim: int = 512,
        context: int = 77,
        text_dim: int | None = None,
        text_depth: int | None = None,
        text_heads: int | None = None,
    ):
        """**Arguments:**

        - `preprocess`: how pixels are normalised.
        - `loss`: one question about all texts, or one about each.
        - `tokenizer`: the path of a `tokenizer.json`, for a model that has none; `None` for a token for each byte.
        - `embed_dim`: the width of the embeddings of a `ViT` and of the text tower that it gets.
        - `context`: the largest number of tokens of a text of that tower.
        - `text_dim`, `text_depth`, `text_heads`: its size; `None` for that of the `ViT`. Its MLPs are four times as
            wide.
        """
        check_positive(embed_dim=embed_dim, context=context)
        self.preprocess = preprocess
        self.loss = loss
        self.tokenizer = tokenizer
        self.embed_dim = embed_dim
        self.context = context
        self.text_dim = text_dim
        self.text_depth = text_depth
        self.text_heads = text_heads

    def prepare(self, model: Any, *, key: PRNGKeyArray) -> Any:
        if isinstance(model, ImageText):
            if self.tokenizer is None:
                return model
            if model.config.tokenizer is not None:
                raise ValueError("tokenizer must be None for a model that has one: leave it out")
            known = read_tokenizer(self.tokenizer, context=model.config.text.context)
            return dataclasses.replace(model, config=dataclasses.replace(model.config, tokenizer=known))
        if not isinstance(model, ViT):
            raise ValueError(
                f"model must be a ViT or an ImageText for the objective clip, got a {type(model).__name__}"
            )
        head_key, text_key = jax.random.split(key)
        size, dim = model.config.size, self.text_dim or model.config.size.dim
        tokenizer = read_tokenizer(self.tokenizer, context=self.context)
        options: dict[str, Any] = {"classes": None, "preprocess": self.preprocess, "key": head_key}
        image = replace(model, head="linear", num_classes=self.embed_dim, **options)
        text = TextConfig(
            vocabulary=tokenizer.build().vocabulary_size,
            context=self.context,
            size=EncoderSize(dim, self.text_depth or size.depth, self.text_heads or size.num_heads, 4 * dim),
            embed_dim=self.embed_dim,
            end_of_text=tokenizer.pad_id,
        )
        has_bias = self.loss == "sigmoid"
        config = ImageTextConfig(image=image.config, text=text, has_bias=has_bias, tokenizer=tokenizer)
        return dataclasses.replace(config.build(key=text_key), image=image)

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
    """Computes the loss of CLIP.

    **Arguments:**

    - `logits`: the scaled similarity of each image and each text. Pairs that belong together are on the diagonal.

    **Returns:**

    The mean of two cross-entropies: that of each image over the texts, and that of each text over the images.
    """
    right = jnp.sum(logits * jnp.eye(len(logits), dtype=logits.dtype), axis=1)
    over_texts, over_images = (jax.nn.logsumexp(logits, axis=axis) for axis in (1, 0))
    return jnp.mean((over_texts + over_images) / 2 - right)


def contrast_pairs(logits: Float[Array, "images texts"]) -> Scalar:
    """Computes the loss of SigLIP: for each pair, whether the text belongs to the image.

    **Arguments:**

    - `logits`: as in `contrast`.

    **Returns:**

    The binary cross-entropy of the pairs, summed over the texts and averaged over the images.
    """
    signs = 2 * jnp.eye(len(logits), dtype=logits.dtype) - 1
    return -jnp.sum(jax.nn.log_sigmoid(signs * logits)) / len(logits)
