"""What pools read from the tokens."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._check import check_all
from .._tokens import Tokens


def read_class_token(tokens: Tokens) -> Float[Array, " dim"]:
    """Returns the class token, or raises a `ValueError` if there is none."""
    if tokens.class_token is None:
        raise ValueError(
            "this pool reads the class token, got tokens without one: build the model with class_token=True, or "
            "declare needs_class_token in the pool"
        )
    return tokens.class_token


def read_patches(tokens: Tokens) -> tuple[Float[Array, "patches dim"], Bool[Array, " patches"] | None]:
    """Reads the patches for a pool: with zeros where the mask is false, and the mask.

    The zeros keep what a masked patch holds, NaN included, out of the result and out of the gradient.

    **Arguments:**

    - `tokens`: after the encoder.

    **Returns:**

    The patch tokens, and the mask; `None` if all count.

    **Raises:** `ValueError` if the mask is false everywhere; under `jax.jit` it is raised when the program runs.
    """
    if tokens.mask is None:
        return tokens.patches, None
    message = "mask must be true for at least one patch, got false for all: there is nothing to pool"
    mask = check_all(jnp.any(tokens.mask), tokens.mask, message)
    return jnp.where(mask[:, None], tokens.patches, jnp.zeros_like(tokens.patches)), mask


def take_mean(tokens: Tokens) -> Float[Array, " dim"]:
    """Returns the mean of the patches that count."""
    patches, mask = read_patches(tokens)
    if mask is None:
        return jnp.mean(patches, axis=0)
    return jnp.sum(patches, axis=0) / jnp.sum(mask).astype(patches.dtype)


def take_max(tokens: Tokens) -> Float[Array, " dim"]:
    """Returns the largest value of each channel among the patches that count."""
    patches, mask = read_patches(tokens)
    if mask is not None:
        patches = jnp.where(mask[:, None], patches, -jnp.inf)
    # The gradient of jnp.max looks for the maximum among values that XLA may compute a second time and round otherwise.
    # If it finds none, it is NaN.
    return jnp.take_along_axis(patches, jnp.argmax(patches, axis=0)[None], axis=0)[0]


def weigh_patches(tokens: Tokens, weights: Float[Array, "1 patches"]) -> Float[Array, " dim"]:
    """Returns the sum of the patches, each times its weight."""
    patches, _ = read_patches(tokens)
    return weights[0].astype(patches.dtype) @ patches
