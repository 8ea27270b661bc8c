"""The Vision Transformer: a backbone and a readout."""

import dataclasses
from typing import final

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from .._patched import PatchedImage
from ..encoder import Blocks
from ..nn import Dropout, Execution, split_key, to_jax
from ..pool import AbstractGridPool
from ._backbone import Backbone
from ._config import ViTConfig, to_pair
from ._readout import Readout


@final
class ViT(eqx.Module):
    """A Vision Transformer: a backbone and a readout.

    It takes one image; batch it with `jax.vmap(model)(images)`. It is a PyTree without state, so `eqx.filter_jit` and
    `eqx.filter_grad` work on it. `config` is its configuration. To replace a part use
    [`vitrail.replace`][vitrail.replace], which updates `config`; `eqx.tree_at` does not.
    """

    backbone: Backbone
    readout: Readout
    config: ViTConfig = eqx.field(static=True)

    def __init__(self, backbone: Backbone, readout: Readout, config: ViTConfig):
        """**Arguments:**

        - `backbone`: turns an image into tokens.
        - `readout`: turns tokens into logits.
        - `config`: the configuration of the model.
        """
        self.backbone = backbone
        self.readout = readout
        self.config = config

    @property
    def blocks(self) -> Blocks:
        """The blocks one by one: `model.blocks[3]`, `len(model.blocks)`, a `for` loop."""
        return self.backbone.blocks

    def __call__(
        self, image: Shaped[Array | np.ndarray, "..."] | PatchedImage, *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "*tokens {self.readout.head.out_dim}"]:
        """Computes the logits of an image.

        **Arguments:**

        - `image`: one image, `Float[Array, "height width channels"]`, of the size and channels of the configuration, in
            JAX or NumPy. It is converted to the compute dtype. Or a `PatchedImage` of any size and shape.
        - `key`: for what is random in training; `None` means inference.

        **Returns:**

        The logits in float32, `(classes,)`. With the pool `none` they are `(tokens, classes)`. With the head `none` the
        model returns what the pool returns.

        **Raises:** `ValueError` or `TypeError` if the image does not fit.
        """
        backbone_key, readout_key = split_key(key, 2)
        tokens = self.backbone(image, key=backbone_key)
        return self.readout(tokens, key=readout_key)

    def with_execution(self, execution: Execution) -> "ViT":
        """Changes how the model is computed.

        **Arguments:**

        - `execution`: how the model is computed.

        **Returns:**

        A model with the same arrays and the new execution.

        **Raises:** `ValueError` if the encoder does not support that way.
        """
        return dataclasses.replace(self, backbone=dataclasses.replace(to_jax(self.backbone), execution=execution))

    def with_dropout(self, dropout: Dropout) -> "ViT":
        """Changes what is dropped at random in training.

        **Arguments:**

        - `dropout`: what is dropped.

        **Returns:**

        A model with the same arrays and the new dropout.
        """
        return dataclasses.replace(self, backbone=dataclasses.replace(to_jax(self.backbone), dropout=dropout))

    def resized(self, image_size: int | tuple[int, int], *, patch_size: int | tuple[int, int] | None = None) -> "ViT":
        """Resamples the arrays that depend on the size of images or patches. All other arrays stay the same.

        **Arguments:**

        - `image_size`: height and width in pixels, multiples of the patch size; one number for a square.
        - `patch_size`: height and width of a patch in pixels; `None` to keep it. The patch embedding is resampled as in
            FlexiViT.

        **Returns:**

        A model whose configuration has the new sizes. Each part is resampled by its own rule.

        **Raises:** `ValueError` if the size does not divide into patches, or if the patch embedding cannot be resized.
        """
        patches = self.config.patch_size if patch_size is None else to_pair(patch_size)
        preprocess = self.config.preprocess
        if preprocess is not None and preprocess.patch_size is not None:
            preprocess = dataclasses.replace(preprocess, patch_size=patches)
        config = dataclasses.replace(
            self.config, image_size=to_pair(image_size), patch_size=patches, preprocess=preprocess
        )
        if preprocess is not None and (config.grid, patches) != (self.config.grid, self.config.patch_size):
            config = dataclasses.replace(config, preprocess=dataclasses.replace(preprocess, unread=(0, 0)))
        readout = to_jax(self.readout)
        pool = readout.pool
        if isinstance(pool, AbstractGridPool):
            pool = pool.resized(config.grid)
        backbone = self.backbone.resized(config.image_size, config.patch_size)
        return ViT(backbone, dataclasses.replace(readout, pool=pool), config)
