"""Image and text in one space: CLIP, SigLIP."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32, PRNGKeyArray, Shaped

from .._patched import PatchedImage
from ..model import JSONConfig, ViT, ViTConfig
from ..nn import Dropout, Execution, normalise, split_key
from ._base import AbstractSystem
from ._text import TextConfig, TextTower
from ._tokenizer import TokenizerConfig


@dataclass(frozen=True, kw_only=True)
class ImageTextConfig(JSONConfig):
    """Describes an `ImageText` by those of its two towers."""

    image: ViTConfig
    """The image model, which returns an embedding: of the projection in its head (CLIP), or of its pool (SigLIP)."""
    text: TextConfig
    """The text tower."""
    has_bias: bool = False
    """Whether a learned bias is added to the scaled similarities, as in SigLIP."""
    tokenizer: TokenizerConfig | None = None
    """The tokenizer of the texts; `None` if it is not known."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tokenizer is not None and self.tokenizer.context > self.text.context:
            raise ValueError(
                f"tokenizer must make at most {self.text.context} tokens, the context of the text tower, got "
                f"{self.tokenizer.context}"
            )
        if self.tokenizer is not None and self.tokenizer.pad_id >= self.text.vocabulary:
            raise ValueError(
                f"the pad_id of tokenizer must be an id in [0, {self.text.vocabulary}), the vocabulary of the text "
                f"tower, got {self.tokenizer.pad_id}"
            )

    def build(
        self, *, execution: Execution = Execution(), dropout: Dropout = Dropout(), key: PRNGKeyArray
    ) -> "ImageText":
        """Builds the model.

        **Arguments:**

        - `execution`: how the model is computed.
        - `dropout`: what is dropped in training.
        - `key`: the random key of the weights.

        **Returns:**

        An `ImageText` with fresh weights. Scale and bias start as in the papers: 1 / 0.07 without a bias (CLIP), 10
        and -10 with one (SigLIP).

        **Raises:** what `ViTConfig.build` raises; `ValueError` if the embeddings of the towers differ in width.
        """
        image_key, text_key = split_key(key)
        return ImageText(
            image=self.image.build(execution=execution, dropout=dropout, key=image_key),
            text=TextTower(self.text, key=text_key),
            log_scale=jnp.asarray(math.log(10 if self.has_bias else 1 / 0.07), jnp.float32),
            bias=jnp.asarray(-10, jnp.float32) if self.has_bias else None,
            config=self,
        )


@final
class ImageText(AbstractSystem):
    """An image tower and a text tower with embeddings in one space, where an image is near to texts that describe it:
    CLIP and SigLIP.

    Each method takes one image or one text; batch it with `jax.vmap(model.embed_image)(images)`.

    ??? cite

        Radford et al., *Learning Transferable Visual Models From Natural Language Supervision*, ICML 2021,
        arXiv:2103.00020, figure 3. With a bias: Zhai et al., *Sigmoid Loss for Language Image Pre-Training*, ICCV 2023,
        arXiv:2303.15343, algorithm 1.
    """

    image: ViT
    text: TextTower
    log_scale: Float[Array, ""]
    bias: Float[Array, ""] | None
    config: ImageTextConfig = eqx.field(static=True)

    def __init__(
        self,
        image: ViT,
        text: TextTower,
        log_scale: Float[Array, ""],
        bias: Float[Array, ""] | None,
        config: ImageTextConfig,
    ):
        """**Arguments:**

        - `image`: the image model.
        - `text`: the text tower.
        - `log_scale`: the logarithm of the factor of the cosine.
        - `bias`: a number that is added to the scaled cosine; `None` for none.
        - `config`: the configuration of the model.

        **Raises:** `ValueError` if the embeddings of the towers differ in width.
        """
        widths = image.readout.head.out_dim, text.embed_dim
        if widths[0] != widths[1]:
            raise ValueError(
                f"image and text must have embeddings of one width, got {widths[0]} and {widths[1]}: change the head "
                "of the image model, or embed_dim of the text tower"
            )
        self.image = image
        self.text = text
        self.log_scale = log_scale
        self.bias = bias
        self.config = config

    def embed_image(
        self, image: Shaped[Array | np.ndarray, "..."] | PatchedImage, *, key: PRNGKeyArray | None = None
    ) -> Float[Array, " embed"]:
        """Computes the embedding of an image.

        **Arguments:**

        - `image`: one image, `Float[Array, "height width channels"]`, of the size and channels of the image model; or a
            `PatchedImage` of any shape.
        - `key`: for what is random in training; `None` means inference.

        **Returns:**

        The embedding of the image, of unit length, in float32.

        **Raises:** `ValueError` or `TypeError` if the image does not fit.
        """
        return normalise(self.image(image, key=key))

    def tokenize(self, texts: str | Sequence[str], *, quiet: bool = False) -> Int32[np.ndarray, "texts context"]:
        """Turns texts into token ids, with the tokenizer of the model.

        **Arguments:**

        - `texts`: one text or several.
        - `quiet`: whether to leave out the warning if a text is cut.

        **Returns:**

        The token ids of each text, padded or cut to the context, for `jax.vmap(model.embed_text)(tokens)`. A text that
        is cut gives a warning.

        **Raises:** `ValueError` if the model has no tokenizer, or if an id is not in the vocabulary of the text tower;
        what [`TokenizerConfig.build`][vitrail.TokenizerConfig.build] and its tokenizer raise.
        """
        config = self.config
        if config.tokenizer is None:
            raise ValueError(
                "the model must have a tokenizer to read texts, got none: put the tokenizer.json of the checkpoint (or "
                "CLIP's merges; a spiece.model is not read) beside its weights and load it again, or pass token ids to "
                "embed_text"
            )
        tokens = config.tokenizer.build()(texts, quiet=quiet)
        if (largest := int(np.max(tokens))) >= config.text.vocabulary:
            raise ValueError(
                f"tokenizer must be that of the model, whose text tower knows {config.text.vocabulary:,} tokens, got "
                f"the id {largest:,}: put the right tokenizer.json beside the weights and load it again"
            )
        return tokens

    def embed_text(
        self,
        tokens: Int[Array | np.ndarray, " context"],
        *,
        mask: Bool[Array | np.ndarray, " context"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, " embed"]:
        """Computes the embedding of a text.

        **Arguments:**

        - `tokens`: the ids of one text, as `tokenize` returns them. SigLIP needs them padded to the context, CLIP does
            not.
        - `mask`: true for each token that counts, false for padding; `None` if all count. The published models are
            trained and used without a mask.
        - `key`: for what is random in training; `None` means inference.

        **Returns:**

        The embedding of the text, of unit length, in float32.

        **Raises:** what `TextTower.__call__` raises.
        """
        backbone = self.image.backbone
        embedding = self.text(tokens, mask=mask, execution=backbone.execution, dropout=backbone.dropout, key=key)
        return normalise(embedding.astype(jnp.float32))

    def similarity(
        self, images: Float[Array, "*images embed"], texts: Float[Array, "*texts embed"]
    ) -> Float[Array, "..."]:
        """Computes how well images and texts fit: the logits that the model is trained with. They become probabilities
        with `jax.nn.softmax` over the texts in CLIP, and with `jax.nn.sigmoid` in SigLIP.

        **Arguments:**

        - `images`: the embedding of one image, or of several, of unit length.
        - `texts`: the embedding of one text, or of several, of unit length.

        **Returns:**

        Scale times cosine plus bias, with the shape `(*images, *texts)`: a number for each image and each text.
        """
        cosine = jnp.tensordot(images, texts, axes=(-1, -1), precision="highest")
        logits = jnp.exp(self.log_scale) * cosine
        return logits if self.bias is None else logits + self.bias

    def resized(
        self, image_size: int | tuple[int, int], *, patch_size: int | tuple[int, int] | None = None
    ) -> "ImageText":
        image = self.image.resized(image_size, patch_size=patch_size)
        return dataclasses.replace(self, image=image, config=dataclasses.replace(self.config, image=image.config))
