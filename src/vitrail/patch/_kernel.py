"""The kernel of a convolution."""

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._check import check_positive
from ..nn import Init


def draw_kernel(
    dim: int, channels: int, size: tuple[int, int], init: Init, key: PRNGKeyArray
) -> Float[Array, "dim channels height width"]:
    """Draws a kernel as a patch embedding, whose fan-in is all the values that it reads."""
    check_positive(dim=dim, channels=channels, patch_size=size)
    height, width = size
    flat = init.patch(key, (dim, channels * height * width), jnp.dtype(jnp.float32))
    return flat.reshape(dim, channels, height, width)


def mix_channels(
    kernel: Float[Array, "dim channels height width"], mix: Float[Array, "new_channels channels"]
) -> Float[Array, "dim new_channels height width"]:
    """The kernel that does to an image what the given one does to `image @ mix`."""
    return jnp.einsum("dchw,nc->dnhw", kernel, mix, precision="highest")
