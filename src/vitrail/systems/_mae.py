"""MAE: an image model that reads some of the patches, and a decoder that predicts the pixels of the others."""

import dataclasses
from typing import TYPE_CHECKING, ClassVar, cast, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped

from .._check import check_image
from .._tokens import Tokens
from ..encoder import Encoder
from ..model import ViT
from ..nn import Execution, Linear, Norm, ParameterKinds, split_key, to_dtype
from ..position import AbstractPosition
from ._base import AbstractSystem

if TYPE_CHECKING:
    from ._mae_config import MAEConfig
else:
    MAEConfig = object  # a configuration builds with what is here

_EPS = 1e-6
"""What is added to the variance of a patch's pixels."""


@final
class MAEDecoder(eqx.Module):
    """MAE's decoder. It predicts the pixels of every patch from the tokens of some patches: an encoder that reads a
    mask token in place of each missing patch."""

    parameter_kinds: ClassVar[ParameterKinds] = {"mask_token": "token"}

    embed: Linear
    mask_token: Float[Array, " dim"]
    position: AbstractPosition
    encoder: Encoder
    norm: Norm
    predict: Linear

    def __init__(
        self,
        *,
        embed: Linear,
        mask_token: Float[Array, " dim"],
        position: AbstractPosition,
        encoder: Encoder,
        norm: Norm,
        predict: Linear,
    ):
        """**Arguments:**

        - `embed`: a linear layer from the width of the backbone to that of the decoder.
        - `mask_token`: the token of each missing patch.
        - `position`: the position embedding of all patches.
        - `encoder`: the blocks.
        - `norm`: the final norm.
        - `predict`: a linear layer from a token to the pixels of its patch.
        """
        self.embed = embed
        self.mask_token = mask_token
        self.position = position
        self.encoder = encoder
        self.norm = norm
        self.predict = predict

    def __call__(self, tokens: Tokens, *, execution: Execution = Execution()) -> Float[Array, "patches pixels"]:
        """Predicts the pixels of all patches.

        **Arguments:**

        - `tokens`: the tokens of some patches, as a backbone returns them, with their `places`.
        - `execution`: how the decoder is computed.

        **Returns:**

        The pixels of every patch of the grid in float32. Patches are row-major, and so are the pixels of a patch, with
        their channels last: `pixels` is `height * width * channels`.
        """
        embed, mask_token, position = to_dtype((self.embed, self.mask_token, self.position), tokens.patches.dtype)
        known = tokens.map(embed)
        patches = jnp.tile(mask_token, (tokens.grid[0] * tokens.grid[1], 1)).at[known.places].set(known.patches)
        full = position(Tokens(patches, tokens.grid, class_token=known.class_token, registers=known.registers))
        decoded = self.encoder(full.sequence, position=position.in_attention(full), execution=execution)
        return self.predict(self.norm(full.with_sequence(decoded).patches).astype(jnp.float32))


@final
class Reconstruction(eqx.Module):
    """What `MaskedAutoencoder.reconstruct` returns."""

    pixels: Float[Array, "height width channels"]
    """The prediction for every patch, hidden or not, in the units of the image."""
    masked: Bool[Array, " patches"]
    """True for each hidden patch, row-major."""
    loss: Float[Array, ""]
    """The mean squared error over the hidden patches; of normalised pixels if the model predicts those."""


@final
class MaskedAutoencoder(AbstractSystem):
    """A masked autoencoder: the image model reads some of the patches, and a decoder predicts the pixels of all.

    It takes one image; batch it with `jax.vmap`, with a key for each image.

    ??? cite

        He et al., *Masked Autoencoders Are Scalable Vision Learners*, CVPR 2022, arXiv:2111.06377, section 3.
    """

    image: ViT
    decoder: MAEDecoder
    config: MAEConfig = eqx.field(static=True)

    def __init__(self, image: ViT, decoder: MAEDecoder, config: MAEConfig):
        """**Arguments:**

        - `image`: the image model. Only its backbone is used.
        - `decoder`: predicts pixels from the tokens of the backbone.
        - `config`: the configuration of the model.
        """
        self.image = image
        self.decoder = decoder
        self.config = config

    def __call__(
        self,
        image: Shaped[Array | np.ndarray, "height width channels"],
        kept: Int[Array, " kept"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "patches pixels"]:
        """Predicts the pixels of every patch from some of them.

        **Arguments:**

        - `image`: one image, of the size and channels of the image model.
        - `kept`: the indices of the patches that the image model reads, row-major, from zero.
        - `key`: for dropout and stochastic depth in the image model; `None` means inference.

        **Returns:**

        The pixels of each patch in float32, as `patchify` orders them. With `normalise_targets` they are normalised:
        the mean of each patch is 0 and its standard deviation 1.

        **Raises:** `ValueError` or `TypeError` if the image does not fit, or if an index is out of range.
        """
        backbone = self.image.backbone
        tokens = backbone.encode(backbone.embed(image).take(kept), key=key)
        return self.decoder(tokens, execution=backbone.execution)

    def reconstruct(
        self,
        image: Shaped[Array | np.ndarray, "height width channels"],
        ratio: float = 0.75,
        *,
        key: PRNGKeyArray | None = None,
        noise: Float[Array | np.ndarray, " patches"] | None = None,
    ) -> Reconstruction:
        """Hides patches at random and predicts them.

        **Arguments:**

        - `image`: one image, of the size and channels of the image model.
        - `ratio`: the fraction of the patches that are hidden.
        - `key`: for the choice of patches, and for dropout and stochastic depth in the image model.
        - `noise`: one number for each patch, to choose the patches yourself: those with the smallest numbers are kept.
            The key is then for dropout alone, and `None` means inference.

        **Returns:**

        The prediction, the hidden patches, and the loss. A model that predicts normalised pixels needs the mean and the
        standard deviation of each true patch to return pixels in the units of the image: it takes them from `image`.

        **Raises:** `ValueError` if the image or the noise does not fit, if `ratio` hides all patches or none, or if
        neither `key` nor `noise` is given.
        """
        choice_key, model_key = split_key(key, 2)
        kept = choose_patches(self._draw_noise(choice_key, noise), ratio)
        predicted = self(image, kept, key=model_key)
        targets = self.patchify(image)
        masked = jnp.ones(targets.shape[0], bool).at[kept].set(False)
        mean = targets.mean(axis=1, keepdims=True)
        deviation = jnp.sqrt(targets.var(axis=1, keepdims=True, ddof=1) + _EPS)
        if self.config.normalise_targets:
            targets = (targets - mean) / deviation
        loss = jnp.mean((predicted - targets) ** 2, axis=1)
        pixels = predicted * deviation + mean if self.config.normalise_targets else predicted
        return Reconstruction(self.unpatchify(pixels), masked, jnp.mean(loss, where=masked))

    def resized(
        self, image_size: int | tuple[int, int], *, patch_size: int | tuple[int, int] | None = None
    ) -> "MaskedAutoencoder":
        image = self.image.resized(image_size, patch_size=patch_size)
        if image.config.patch_size != self.config.image.patch_size:
            raise ValueError(
                f"patch_size must stay {self.config.image.patch_size} in MAE, whose decoder predicts the pixels of a "
                f"patch, got {patch_size}: leave it out, or resize model.image alone"
            )
        decoder = dataclasses.replace(self.decoder, position=self.decoder.position.resized(image.config.grid))
        return MaskedAutoencoder(image, decoder, dataclasses.replace(self.config, image=image.config))

    def _draw_noise(
        self, key: PRNGKeyArray | None, noise: Float[Array | np.ndarray, " noises"] | None
    ) -> Float[Array, " patches"]:
        number = self.config.image.grid[0] * self.config.image.grid[1]
        if noise is None and key is None:
            raise ValueError(
                "reconstruct needs key or noise to choose the patches, got neither: pass key=jax.random.key(0)"
            )
        if noise is None:
            return jax.random.uniform(cast(PRNGKeyArray, key), (number,))
        if noise.shape != (number,):
            raise ValueError(f"noise must have a number for each of the {number} patches, got {noise.shape[0]}")
        return jnp.asarray(noise)

    def patchify(self, image: Shaped[Array | np.ndarray, "height width channels"]) -> Float[Array, "patches pixels"]:
        """Cuts an image into patches.

        **Arguments:**

        - `image`: one image, of the size and channels of the image model.

        **Returns:**

        The pixels of each patch, row-major, channels last, in float32.

        **Raises:** `ValueError` or `TypeError` if the image does not fit.
        """
        check_image(image, self.config.image.image_size, self.config.image.channels)
        (rows, cols), (height, width) = self.config.image.grid, self.config.image.patch_size
        cells = jnp.asarray(image, jnp.float32).reshape(rows, height, cols, width, self.config.image.channels)
        return cells.transpose(0, 2, 1, 3, 4).reshape(rows * cols, -1)

    def unpatchify(self, patches: Float[Array, "patches pixels"]) -> Float[Array, "height width channels"]:
        """Puts patches together: the inverse of `patchify`.

        **Arguments:**

        - `patches`: the pixels of each patch, as `patchify` returns them.

        **Returns:**

        The image.
        """
        (rows, cols), (height, width) = self.config.image.grid, self.config.image.patch_size
        cells = patches.reshape(rows, cols, height, width, self.config.image.channels)
        return cells.transpose(0, 2, 1, 3, 4).reshape(rows * height, cols * width, -1)


def choose_patches(noise: Float[Array, " patches"], ratio: float) -> Int[Array, " kept"]:
    """Chooses the patches that an image model sees.

    **Arguments:**

    - `noise`: a number for each patch.
    - `ratio`: how many of the patches are hidden.

    **Returns:**

    The numbers of the patches with the smallest noise, smallest first.

    **Raises:** `ValueError` if that hides all patches or none.
    """
    number = noise.shape[0]
    kept = int(number * (1 - ratio)) if 0 < ratio < 1 else 0
    if not 0 < kept < number:
        raise ValueError(
            f"ratio must hide at least one of the {number} patches and keep at least one, got {ratio}: pass for "
            "instance 0.75"
        )
    return jnp.argsort(noise)[:kept]
