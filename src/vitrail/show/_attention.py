"""Attention maps."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from .._patched import PatchedImage
from ..model import ViT


def compute_attention_map(
    model: ViT, image: Shaped[Array | np.ndarray, "..."] | PatchedImage
) -> Float[Array, "rows cols"]:
    """Shows how much the tokens that the pool reads take from each patch in the last block.

    It is the mean of the attention weights over the heads: of the class token if the pool reads it, otherwise over all
    patch tokens. It does not include earlier blocks or the residual connections.

    **Arguments:**

    - `model`: a ViT.
    - `image`: one image, `Float[Array, "height width channels"]`. Or a `PatchedImage`, outside `jax.jit`, because the
        shape of the map depends on its grid.

    **Returns:**

    A weight for each patch. They sum to one minus the weights of the prefix tokens.

    **Raises:** what calling the model raises.
    """
    weights = _weigh_patches(model, image)
    if not isinstance(image, PatchedImage):
        return weights.reshape(model.backbone.grid)
    rows, cols = np.asarray(image.grid).tolist()
    return weights[: rows * cols].reshape(rows, cols)


@eqx.filter_jit
def _weigh_patches(model: ViT, image: Shaped[Array | np.ndarray, "..."] | PatchedImage) -> Float[Array, " patches"]:
    prefix = model.backbone.num_prefix
    weights = model.backbone.activations(image, at=("attention_weights",), layers=[-1])["attention_weights"]
    last = jnp.mean(weights[0], axis=0)
    if model.readout.pool.needs_class_token:
        return last[0, prefix:]
    counts = image.mask if isinstance(image, PatchedImage) else None
    return jnp.mean(last[prefix:, prefix:], axis=0, where=None if counts is None else counts[:, None])
