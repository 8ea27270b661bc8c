"""Attention maps."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from ..model import ViT


def compute_attention_map(model: ViT, image: Shaped[Array | np.ndarray, "..."]) -> Float[Array, "rows cols"]:
    """Shows how much the tokens that the pool reads take from each patch in the last block.

    It is the mean of the attention weights over the heads: of the class token if the pool reads it, otherwise over all
    patch tokens. It does not include earlier blocks or the residual connections.

    **Arguments:**

    - `model`: a ViT.
    - `image`: one image, `Float[Array, "height width channels"]`.

    **Returns:**

    A weight for each patch. They sum to one minus the weights of the prefix tokens.

    **Raises:** what calling the model raises.
    """
    backbone = model.backbone
    weights = backbone.activations(image, at=("attention_weights",), layers=[-1])["attention_weights"]
    last = jnp.mean(weights[0], axis=0)
    queries = last[:1] if model.readout.pool.needs_class_token else last[backbone.num_prefix :]
    return jnp.mean(queries[:, backbone.num_prefix :], axis=0).reshape(backbone.grid)
