"""Several crops of an image through one network, and hidden patches."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from .._check import check_positive
from ._dino import DINO, DINOOutput


def apply_to_crops(
    network: DINO,
    crops: Float[Array, "crops batch height width channels"],
    *,
    hidden: Bool[Array, "crops batch patches"] | None = None,
    key: PRNGKeyArray | None = None,
) -> DINOOutput:
    """Applies a network to crops of one size of a batch of images: multi-crop is one call for each size.

    The positions are resampled for the size of the crops, with a gradient.

    **Arguments:**

    - `network`: the student or the teacher.
    - `crops`: of each image.
    - `hidden`: true for each patch that the mask token takes the place of; `None` for none.
    - `key`: for what is random in training, another for each crop; `None` means inference.

    **Returns:**

    What the network says of each crop, with the axes `(crops, batch)` first.

    **Raises:** what `DINO.resized` and a call of it raise.
    """
    number, batch = crops.shape[:2]
    if network.config.image.image_size != crops.shape[2:4]:
        network = network.resized((crops.shape[2], crops.shape[3]))
    keys = None if key is None else jax.random.split(key, (number, batch))

    def apply(
        crop: Float[Array, "height width channels"], hidden: Bool[Array, " patches"] | None, key: PRNGKeyArray | None
    ) -> DINOOutput:
        return network(crop, hidden=hidden, key=key)

    return jax.vmap(jax.vmap(apply))(crops, hidden, keys)


def pick_hidden(hidden: Bool[Array, " patches"], count: int) -> tuple[Int[Array, " count"], Bool[Array, " count"]]:
    """Picks the first hidden patches of an image, so that only they are scored: the number is the same for all images.

    **Arguments:**

    - `hidden`: true for each hidden patch.
    - `count`: how many to pick: the largest number in an image.

    **Returns:**

    Their numbers, and true for each; false for those that only fill up.

    **Raises:** `ValueError` if the count is not positive.
    """
    check_positive(count=count)
    (places,) = jnp.nonzero(hidden, size=count, fill_value=0)
    return places, jnp.arange(count) < jnp.sum(hidden)
