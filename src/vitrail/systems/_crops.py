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
    """Applies a `DINO` to crops of one size of a batch of images. For crops of several sizes call it once for each
    size.

    The positions are resampled to the size of the crops, and have a gradient.

    **Arguments:**

    - `network`: the student or the teacher.
    - `crops`: the crops. The second axis is the image.
    - `hidden`: true for each patch whose token is replaced by the mask token; `None` to hide no patch.
    - `key`: for what is random in training; each crop gets its own key. `None` means inference.

    **Returns:**

    A `DINOOutput` whose arrays begin with the axes `(crops, batch)`.

    **Raises:** what `DINO.resized` and `DINO.__call__` raise.
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
    """Picks the same number of hidden patches in each image, so that `DINO.score_patches` scores only these.

    **Arguments:**

    - `hidden`: true for each hidden patch.
    - `count`: how many to pick: the largest number of hidden patches that an image can have.

    **Returns:**

    The indices of the first `count` hidden patches, and whether each is one. An image with fewer hidden patches is
    filled with index 0 and false.

    **Raises:** `ValueError` if the count is not positive.
    """
    check_positive(count=count)
    (places,) = jnp.nonzero(hidden, size=count, fill_value=0)
    return places, jnp.arange(count) < jnp.sum(hidden)
