"""Dropout and stochastic depth."""

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._check import check_rate


@dataclass(frozen=True)
class Dropout:
    """What the encoder drops at random in training. It acts only when a model is called with a `key`.

    It is not saved with a model. Change it on any model with `model.with_dropout(vitrail.Dropout(...))`.
    """

    rate: float = 0.0
    """The probability of dropping an element: after the position embedding, in the MLP, and at the end of each
    branch."""
    drop_path: float = 0.0
    """The probability of dropping a residual branch of the last block (stochastic depth). It grows linearly from zero
    in the first block."""

    def __post_init__(self) -> None:
        check_rate(rate=self.rate, drop_path=self.drop_path)


def drop_elements(x: Float[Array, "*shape"], rate: float, *, key: PRNGKeyArray | None) -> Float[Array, "*shape"]:
    """Zeroes elements with probability `rate` and scales up the others; nothing without a key.

    Source: Srivastava et al. 2014.
    """
    return eqx.nn.Dropout(rate)(x, key=key, inference=key is None)


def drop_branch(
    branch: Float[Array, "*shape"], rate: Float[Array, ""], *, key: PRNGKeyArray | None
) -> Float[Array, "*shape"]:
    """Drops one example's whole residual branch with probability `rate` and scales it up otherwise; nothing without
    a key.

    Source: Huang et al., *Deep Networks with Stochastic Depth*, 2016, arXiv:1603.09382.
    """
    if key is None:
        return branch
    kept = jax.random.bernoulli(key, 1 - rate)
    return jnp.where(kept, branch / (1 - rate).astype(branch.dtype), jnp.zeros_like(branch))
