"""Statistics pooling for vitrail."""

from typing import ClassVar, final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from vitrail import AbstractPool, Tokens, read_patches


@final
class MeanStdPool(AbstractPool):
    """The mean of the patches and their standard deviation, as one vector.

    Sounds are pooled in this way by Snyder et al., *X-Vectors: Robust DNN Embeddings
    for Speaker Recognition*, ICASSP 2018.
    """

    eps: float = eqx.field(static=True)
    out_dim: int = eqx.field(static=True)
    needs_class_token: ClassVar[bool] = False
    order_invariant: ClassVar[bool] = True

    def __init__(self, dim: int, *, eps: float = 1e-6):
        self.eps = eps
        self.out_dim = 2 * dim

    def __call__(
        self,
        tokens: Tokens,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, " {self.out_dim}"]:
        # Zeros where the mask is false, so that no NaN reaches a gradient.
        patches, mask = read_patches(tokens)
        where = None if mask is None else mask[:, None]
        mean = jnp.mean(patches, axis=0, where=where)
        variance = jnp.var(patches, axis=0, where=where)
        # The slope of a square root is infinite at zero. eps keeps it finite if all
        # patches are equal.
        return jnp.concatenate([mean, jnp.sqrt(variance + self.eps)])
