"""Masked autoencoding."""

import dataclasses
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ..._check import check_positive
from ...encoder import EncoderSize
from ...images import Preprocess
from ...model import ViT, replace
from ...systems import MAEConfig, MaskedAutoencoder
from ._base import AbstractObjective, Batch, Outcome, Scalar, normalise_images


@final
class MAEObjective(AbstractObjective):
    """The mean squared error of the pixels of patches that the model does not see, each patch normalised.

    ??? cite

        He et al., *Masked Autoencoders Are Scalable Vision Learners*, CVPR 2022, arXiv:2111.06377, section 3.
    """

    preprocess: Preprocess = eqx.field(static=True)
    ratio: float = eqx.field(static=True)
    decoder_dim: int = eqx.field(static=True)
    decoder_depth: int = eqx.field(static=True)
    decoder_heads: int = eqx.field(static=True)

    def __init__(
        self,
        *,
        preprocess: Preprocess,
        ratio: float = 0.75,
        decoder_dim: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
    ):
        """**Arguments:**

        - `preprocess`: how pixels are normalised.
        - `ratio`: how many of the patches are hidden.
        - `decoder_dim`, `decoder_depth`, `decoder_heads`: the size of the decoder that a `ViT` gets; its MLPs are four
            times as wide.
        """
        check_positive(decoder_dim=decoder_dim, decoder_depth=decoder_depth, decoder_heads=decoder_heads)
        self.preprocess = preprocess
        self.ratio = ratio
        self.decoder_dim = decoder_dim
        self.decoder_depth = decoder_depth
        self.decoder_heads = decoder_heads

    def prepare(self, model: Any, *, key: PRNGKeyArray) -> Any:
        if isinstance(model, MaskedAutoencoder):
            return model
        if not isinstance(model, ViT):
            raise ValueError(
                f"model must be a ViT or a MaskedAutoencoder for the objective mae, got a {type(model).__name__}"
            )
        model = replace(model, preprocess=self.preprocess)
        size = EncoderSize(self.decoder_dim, self.decoder_depth, self.decoder_heads, 4 * self.decoder_dim)
        config = MAEConfig(image=model.config, decoder=size)
        return dataclasses.replace(config.build(key=key), image=model)

    def __call__(
        self, model: Any, batch: Batch, *, carried: Any, progress: Scalar, key: PRNGKeyArray
    ) -> tuple[Scalar, Outcome]:
        def lose(image: Float[Array, "height width channels"], key: PRNGKeyArray) -> Scalar:
            return model.reconstruct(image, self.ratio, key=key).loss

        images = normalise_images(self.preprocess, batch)
        return jnp.mean(jax.vmap(lose)(images, jax.random.split(key, len(images)))), Outcome({})
