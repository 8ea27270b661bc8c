"""Attention maps."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from .._patched import PatchedImage
from ..model import ViT


def compute_attention_heads(
    model: ViT, image: Shaped[Array | np.ndarray, "..."] | PatchedImage, *, layer: int = -1
) -> Float[Array, "heads rows cols"]:
    """Computes where the model looks: the attention weights of each patch in one block, head by head.

    If the pool reads the class token, these are the weights with which the class token attends to the patches.
    Otherwise they are the mean over all patch tokens of their weights. Other blocks and the residual connections are
    not included.

    ??? cite

        Caron et al., *Emerging Properties in Self-Supervised Vision Transformers*, ICCV 2021, arXiv:2104.14294,
        figures 1 and 3.

    **Arguments:**

    - `model`: a ViT.
    - `image`: one image, `Float[Array, "height width channels"]`, prepared for the model, or a `PatchedImage`. A
        `PatchedImage` cannot be traced by `jax.jit` here, because the shape of the result depends on its grid.
    - `layer`: the block, counted from zero, or from the end if negative.

    **Returns:**

    A weight for each head and patch. Those of a head sum to one minus the weights of the prefix tokens.

    **Raises:** `IndexError` if there is no such block; what calling the model raises.
    """
    weights = _weigh_patches(model, image, layer)
    if not isinstance(image, PatchedImage):
        return weights.reshape(-1, *model.backbone.grid)
    rows, cols = np.asarray(image.grid).tolist()
    return weights[:, : rows * cols].reshape(-1, rows, cols)


@eqx.filter_jit
def _weigh_patches(
    model: ViT, image: Shaped[Array | np.ndarray, "..."] | PatchedImage, layer: int
) -> Float[Array, "heads patches"]:
    prefix = model.backbone.num_prefix
    weights = model.backbone.activations(image, at=("attention_weights",), layers=[layer])["attention_weights"][0]
    if model.readout.pool.needs_class_token:
        return weights[:, 0, prefix:]
    counts = image.mask if isinstance(image, PatchedImage) else None
    return jnp.mean(weights[:, prefix:, prefix:], axis=1, where=None if counts is None else counts[:, None])


def compute_attention_map(
    model: ViT, image: Shaped[Array | np.ndarray, "..."] | PatchedImage
) -> Float[Array, "rows cols"]:
    """Computes where the model looks in its last block: the mean over the heads of `compute_attention_heads`.

    **Arguments:**

    - `model`: a ViT.
    - `image`: as in `compute_attention_heads`.

    **Returns:**

    A weight for each patch. They sum to one minus the weights of the prefix tokens.

    **Raises:** what calling the model raises.
    """
    return jnp.mean(compute_attention_heads(model, image), axis=0)
