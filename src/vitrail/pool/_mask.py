"""Which patches count."""

from typing import cast

import equinox as eqx
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from .._tokens import Tokens


def kept_patches(
    tokens: Tokens, mask: Bool[Array, " patches"] | None
) -> tuple[Float[Array, "patches dim"], Bool[Array, " patches"] | None]:
    """The patch tokens with zeros where they do not count, and the mask.

    The zeros keep what a masked patch holds, be it NaN, out of the result and out of the gradient.

    **Raises:** `ValueError` where the mask has not one value for each patch, or counts none; under `jax.jit` the latter
    is raised when the program runs.
    """
    if mask is None:
        return tokens.patches, None
    if mask.shape[0] != tokens.patches.shape[0]:
        raise ValueError(
            f"mask must have one value for each of the {tokens.patches.shape[0]} patches, but the shape {mask.shape} "
            "came: it says nothing of the prefix tokens"
        )
    message = "mask must be true for at least one patch, but it is false for all: nothing would be left to pool"
    some = jnp.any(mask)
    if not isinstance(some, Tracer) and not some:
        raise ValueError(message)
    mask = cast(Array, eqx.error_if(mask, ~some, message))
    return jnp.where(mask[:, None], tokens.patches, jnp.zeros_like(tokens.patches)), mask


def masked_mean(tokens: Tokens, mask: Bool[Array, " patches"] | None) -> Float[Array, " dim"]:
    """The mean of the patches that count."""
    patches, mask = kept_patches(tokens, mask)
    if mask is None:
        return jnp.mean(patches, axis=0)
    return jnp.sum(patches, axis=0) / jnp.sum(mask).astype(patches.dtype)


def masked_max(tokens: Tokens, mask: Bool[Array, " patches"] | None) -> Float[Array, " dim"]:
    """The largest value of each channel among the patches that count."""
    patches, mask = kept_patches(tokens, mask)
    if mask is not None:
        patches = jnp.where(mask[:, None], patches, -jnp.inf)
    return jnp.max(patches, axis=0)
