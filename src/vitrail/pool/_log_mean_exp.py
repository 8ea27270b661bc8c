"""The logarithm of a mean of exponentials."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def log_mean_exp(x: Float[Array, "patches dim"], mask: Bool[Array, " patches"] | None) -> Float[Array, " dim"]:
    r"""Returns $\log \frac{1}{N} \sum_i \exp x_i$ over the patches that count."""
    if mask is None:
        return jax.nn.logsumexp(x, axis=0) - math.log(x.shape[0])
    x = jnp.where(mask[:, None], x, -jnp.inf)
    return jax.nn.logsumexp(x, axis=0) - jnp.log(jnp.sum(mask).astype(x.dtype))
