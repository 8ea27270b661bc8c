"""The configuration of a masked autoencoder."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from .._spec import PartSpec
from ..encoder import Encoder, EncoderSize
from ..model import JSONConfig, ViTConfig
from ..nn import INITS, Dropout, Execution, Linear, make_norm, split_key
from ..position import POSITIONS, PositionContext, PositionFactory
from ._mae import MAEDecoder, MaskedAutoencoder


@dataclass(frozen=True, kw_only=True)
class MAEConfig(JSONConfig):
    """Describes a `MaskedAutoencoder` by names and plain values."""

    image: ViTConfig
    """The image model. The blocks of the decoder have the same options as its blocks."""
    decoder: EncoderSize = EncoderSize(dim=512, depth=8, num_heads=16, mlp_dim=2048)
    """The size of the decoder."""
    position: str | PartSpec | PositionFactory = PartSpec("sincos2d", (("rule", "mae"),))
    """The position embedding of the decoder."""
    normalise_targets: bool = True
    """Whether the model predicts normalised pixels: those of a patch minus their mean, divided by their standard
    deviation."""

    def build(
        self, *, execution: Execution = Execution(), dropout: Dropout = Dropout(), key: PRNGKeyArray
    ) -> MaskedAutoencoder:
        """Builds the model.

        **Arguments:**

        - `execution`: how the model is computed.
        - `dropout`: what is dropped in training.
        - `key`: the random key of the weights.

        **Returns:**

        A `MaskedAutoencoder` with fresh weights.

        **Raises:** what `ViTConfig.build` raises.
        """
        image_key, embed_key, token_key, position_key, encoder_key, predict_key = split_key(key, 6)
        image = self.image.build(execution=execution, dropout=dropout, key=image_key)
        init, dim, backbone = INITS[self.image.init], self.decoder.dim, image.backbone
        context = PositionContext(
            dim=dim,
            grid=self.image.grid,
            class_token=backbone.class_token is not None,
            num_registers=backbone.num_registers,
            head_dim=dim // self.decoder.num_heads,
            num_heads=self.decoder.num_heads,
            depth=self.decoder.depth,
            init=init,
        )
        height, width = self.image.patch_size
        decoder = MAEDecoder(
            embed=Linear(backbone.dim, dim, weight_init=init.mlp, key=embed_key),
            mask_token=init.class_token(token_key, (1, dim), jnp.dtype(jnp.float32))[0],
            position=POSITIONS.build(self.position, context, key=position_key),
            encoder=Encoder(self.decoder, options=self.image.encoder, init=init, key=encoder_key),
            norm=make_norm(self.image.encoder.norm, dim, eps=self.image.encoder.norm_eps),
            predict=Linear(dim, height * width * self.image.channels, weight_init=init.mlp, key=predict_key),
        )
        return MaskedAutoencoder(image, decoder, self)
