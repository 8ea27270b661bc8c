"""Where a ViT looked."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from ..model import ViT


def attention_map(model: ViT, image: Shaped[Array, "..."]) -> Float[Array, "rows cols"]:
    """How much of each patch goes into what the pool reads, by the attention of the last block.

    The mean over the heads; of the class token's row where the pool reads the class token, else the mean over the rows
    of all patches. It says which patches the last block gathers from, and no more: what a patch brings along from
    earlier blocks, and what passes by in the residual branch, is not in it.

    **Arguments:**

    - `model`: a ViT.
    - `image`: one image, `Float[Array, "height width channels"]`.

    **Returns:**

    A weight for each patch. Their sum is one, less what the prefix tokens get.

    **Raises:** what calling the model raises.
    """
    backbone = model.backbone
    last = jnp.mean(backbone.attention(image)[-1], axis=0)
    queries = last[:1] if model.readout.pool.needs_class_token else last[backbone.num_prefix :]
    return jnp.mean(queries[:, backbone.num_prefix :], axis=0).reshape(backbone.grid)
