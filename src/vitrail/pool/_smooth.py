"""Pools between the mean and the maximum, with one learned number: log-sum-exp and the generalised mean."""

import math
from typing import ClassVar, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from .._check import check_above_zero, check_positive
from .._layers import at_least_float32
from .._tokens import Tokens
from ._base import AbstractPool
from ._mask import kept_patches


@final
class LogSumExpPool(AbstractPool):
    r"""A smooth maximum of each channel over the patches, $z = t \log \frac{1}{N} \sum_i \exp(x_i / t)$.

    As the temperature $t$ falls to zero it becomes the maximum, as it grows the mean. Pick it where you do not know
    which of the two is right: it learns the temperature. It has one parameter, $\log t$, or none where the temperature
    is fixed; it needs no class token and does not depend on the order of the patches.

    ??? cite

        Pinheiro and Collobert, *From Image-level to Pixel-level Labeling with Convolutional Networks*, CVPR 2015,
        arXiv:1411.6228, whose $r$ is $1 / t$.
    """

    log_temperature: Float[Array, ""] | None
    temperature: float = eqx.field(static=True)
    out_dim: int = eqx.field(static=True)
    needs_class_token: ClassVar[bool] = False
    order_invariant: ClassVar[bool] = True

    def __init__(self, dim: int, *, temperature: float = 1.0, learned: bool = True, key: PRNGKeyArray | None = None):
        """**Arguments:**

        - `dim`: the width of a token.
        - `temperature`: $t$, where it starts.
        - `learned`: whether the temperature is a parameter, or stays as it is.
        - `key`: part of the contract; nothing is random here.

        **Raises:** `ValueError` where the temperature is not above zero.
        """
        check_positive(dim=dim)
        check_above_zero(temperature=temperature)
        self.log_temperature = jnp.asarray(math.log(temperature), jnp.float32) if learned else None
        self.temperature = temperature
        self.out_dim = dim

    def __call__(self, tokens: Tokens, *, key: PRNGKeyArray | None = None) -> Float[Array, " {self.out_dim}"]:
        """**Arguments:**

        - `tokens`: after the encoder.
        - `key`: part of the contract; nothing is random here.

        **Returns:**

        One vector.
        """
        patches, mask = kept_patches(tokens)
        dtype = at_least_float32(patches.dtype)
        learned = self.log_temperature
        temperature = self.temperature if learned is None else jnp.exp(learned.astype(dtype))
        return (temperature * _log_mean_exp(patches.astype(dtype) / temperature, mask)).astype(patches.dtype)


@final
class GeMPool(AbstractPool):
    r"""The generalised mean of each channel over the patches, $z = (\frac{1}{N} \sum_i \max(x_i, \epsilon)^p)^{1/p}$.

    At $p = 1$ it is the mean, as $p$ grows it becomes the maximum. Pick it for retrieval, and where features are mostly
    positive: what lies below $\epsilon$ counts as $\epsilon$ and gets no gradient, and after a LayerNorm that is half
    of them. It has one parameter, $\log p$; it needs no class token and does not depend on the order of the patches.

    The powers are taken as exponentials of logarithms, so none overflows.

    ??? cite

        Radenovic, Tolias and Chum, *Fine-tuning CNN Image Retrieval with No Human Annotation*, TPAMI 2018,
        arXiv:1711.02512, equation 3; $p = 3$ and $\epsilon = 10^{-6}$ are its.
    """

    log_power: Float[Array, ""]
    eps: float = eqx.field(static=True)
    out_dim: int = eqx.field(static=True)
    needs_class_token: ClassVar[bool] = False
    order_invariant: ClassVar[bool] = True

    def __init__(self, dim: int, *, power: float = 3.0, eps: float = 1e-6, key: PRNGKeyArray | None = None):
        """**Arguments:**

        - `dim`: the width of a token.
        - `power`: $p$, where it starts.
        - `eps`: what smaller values count as.
        - `key`: part of the contract; nothing is random here.

        **Raises:** `ValueError` where `power` or `eps` is not above zero.
        """
        check_positive(dim=dim)
        check_above_zero(power=power, eps=eps)
        self.log_power = jnp.asarray(math.log(power), jnp.float32)
        self.eps = eps
        self.out_dim = dim

    def __call__(self, tokens: Tokens, *, key: PRNGKeyArray | None = None) -> Float[Array, " {self.out_dim}"]:
        """**Arguments:**

        - `tokens`: after the encoder.
        - `key`: part of the contract; nothing is random here.

        **Returns:**

        One vector.
        """
        patches, mask = kept_patches(tokens)
        dtype = at_least_float32(patches.dtype)
        power = jnp.exp(self.log_power.astype(dtype))
        logs = jnp.log(jnp.maximum(patches.astype(dtype), self.eps))
        return jnp.exp(_log_mean_exp(power * logs, mask) / power).astype(patches.dtype)


def _log_mean_exp(x: Float[Array, "patches dim"], mask: Bool[Array, " patches"] | None) -> Float[Array, " dim"]:
    """The logarithm of the mean of the exponentials of the patches that count."""
    if mask is None:
        return jax.nn.logsumexp(x, axis=0) - math.log(x.shape[0])
    x = jnp.where(mask[:, None], x, -jnp.inf)
    return jax.nn.logsumexp(x, axis=0) - jnp.log(jnp.sum(mask).astype(x.dtype))
