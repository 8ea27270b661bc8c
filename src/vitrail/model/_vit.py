"""The Vision Transformer: a backbone and a readout."""

import dataclasses
from typing import final

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from .._layers import split_key
from ..encoder import Blocks
from ..pool import AbstractGridPool
from ._backbone import Backbone
from ._config import ViTConfig, pair
from ._readout import Readout


@final
class ViT(eqx.Module):
    """A Vision Transformer, made of the parts that `vitrail.vit` or `ViTConfig.build` picked.

    It takes one image; batch it with `jax.vmap(model)(images)`. It is a PyTree like every Equinox module:
    `eqx.filter_jit` and `eqx.filter_grad` work on it, and it has no state. `config` says what it was built from;
    `vitrail.replace` exchanges a part and keeps `config` in step, which `eqx.tree_at` does not.
    """

    backbone: Backbone
    readout: Readout
    config: ViTConfig = eqx.field(static=True)

    def __init__(self, backbone: Backbone, readout: Readout, config: ViTConfig):
        """**Arguments:**

        - `backbone`: turns an image into tokens.
        - `readout`: turns tokens into logits.
        - `config`: what both were built from.
        """
        self.backbone = backbone
        self.readout = readout
        self.config = config

    @property
    def blocks(self) -> Blocks:
        """The blocks one by one: `model.blocks[3]`, `len(model.blocks)`, a `for` loop."""
        return self.backbone.blocks

    def __call__(
        self, image: Shaped[Array | np.ndarray, "..."], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "*tokens {self.readout.head.out_dim}"]:
        """The whole forward pass.

        **Arguments:**

        - `image`: one image, `Float[Array, "height width channels"]`, of the size and channels of the configuration; a
            NumPy array will do. It is converted to `config.compute_dtype`.
        - `key`: for dropout, stochastic depth and whatever a part draws in training; `None` means inference.

        **Returns:**

        The logits, `(classes,)`, in float32; `(tokens, classes)` with the pool `none`; with the head `none`, what the
        pool returns.

        **Raises:** `ValueError` or `TypeError` if the image does not fit.
        """
        backbone_key, readout_key = split_key(key, 2)
        tokens = self.backbone(image, key=backbone_key)
        return self.readout(tokens, key=readout_key)

    def resized(self, image_size: int | tuple[int, int], *, patch_size: int | tuple[int, int] | None = None) -> "ViT":
        """The same model for images, or patches, of another size: what depends on it is resampled, all else is the same
        arrays.

        **Arguments:**

        - `image_size`: height and width in pixels, multiples of the patch size; one number for a square.
        - `patch_size`: height and width of a patch in pixels, as in FlexiViT; `None` for as before.

        **Returns:**

        A model whose configuration has the new sizes. Position embedding and pool are resampled by their own rules.

        **Raises:** `ValueError` if the size does not divide into patches, or the patch embedding has no rule for other
        patches.
        """
        patches = self.config.patch_size if patch_size is None else pair(patch_size)
        config = dataclasses.replace(self.config, image_size=pair(image_size), patch_size=patches)
        pool = self.readout.pool
        if isinstance(pool, AbstractGridPool):
            pool = pool.resized(config.grid)
        backbone = self.backbone.resized(config.image_size, config.patch_size)
        return ViT(backbone, dataclasses.replace(self.readout, pool=pool), config)
