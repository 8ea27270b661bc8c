"""Attention maps."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from ..model import ViT


def compute_attention_heads(
    model: ViT, image: Shaped[Array | np.ndarray, "..."], *, layer: int = -1
) -> Float[Array, "heads rows cols"]:
    """Shows how much the tokens that the pool reads take from each patch in one block, head by head.

    It is the attention weights of the class token if the pool reads it, otherwise their mean over all patch tokens. It
    does not include other blocks or the residual connections.

    ??? cite

        Caron et al., *Emerging Properties in Self-Supervised Vision Transformers*, ICCV 2021, arXiv:2104.14294,
        figures 1 and 3.

    **Arguments:**

    - `model`: a ViT.
    - `image`: one image, `Float[Array, "height width channels"]`.
    - `layer`: the block, counted from zero, or from the end if negative.

    **Returns:**

    A weight for each head and patch. Those of a head sum to one minus the weights of the prefix tokens.

    **Raises:** `IndexError` if there is no such block; what calling the model raises.
    """
    backbone = model.backbone
    weights = backbone.activations(image, at=("attention_weights",), layers=[layer])["attention_weights"][0]
    queries = weights[:, :1] if model.readout.pool.needs_class_token else weights[:, backbone.num_prefix :]
    patches = jnp.mean(queries[..., backbone.num_prefix :], axis=1)
    return patches.reshape(-1, *backbone.grid)


def compute_attention_map(model: ViT, image: Shaped[Array | np.ndarray, "..."]) -> Float[Array, "rows cols"]:
    """Shows how much the tokens that the pool reads take from each patch in the last block.

    It is the mean over the heads of `compute_attention_heads`.

    **Arguments:**

    - `model`: a ViT.
    - `image`: one image, `Float[Array, "height width channels"]`.

    **Returns:**

    A weight for each patch. They sum to one minus the weights of the prefix tokens.

    **Raises:** what calling the model raises.
    """
    return jnp.mean(compute_attention_heads(model, image), axis=0)
