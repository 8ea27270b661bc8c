"""The pool `lse`."""

import math
from typing import ClassVar, final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._check import check_above_zero
from .._tokens import Tokens
from ..nn import at_least_float32
from ._base import AbstractPool
from ._log_mean_exp import log_mean_exp
from ._read import read_patches


@final
class LogSumExpPool(AbstractPool):
    r"""A smooth maximum of each channel over the patches, $z = t \log \frac{1}{N} \sum_i \exp(x_i / t)$.

    As the temperature $t$ falls to zero it becomes the maximum; as $t$ grows it becomes the mean. Use it if you do not
    know whether the mean or the maximum is right. It learns the temperature: it has one parameter, $\log t$, or none if
    the temperature is fixed. It needs no class token.

    ??? cite

        Pinheiro and Collobert, *From Image-level to Pixel-level Labeling with Convolutional Networks*, CVPR 2015,
        arXiv:1411.6228, whose $r$ is $1 / t$.
    """

    log_temperature: Float[Array, ""] | None
    temperature: float = eqx.field(static=True)
    out_dim: int = eqx.field(static=True)
    needs_class_token: ClassVar[bool] = False
    order_invariant: ClassVar[bool] = True

    def __init__(self, dim: int, *, temperature: float = 1.0, learned: bool = True):
        """**Arguments:**

        - `dim`: the width of a token.
        - `temperature`: $t$ at the start.
        - `learned`: whether the temperature is a parameter, or fixed.

        **Raises:** `ValueError` if the temperature is not above zero.
        """
        check_above_zero(temperature=temperature)
        self.log_temperature = jnp.asarray(math.log(temperature), jnp.float32) if learned else None
        self.temperature = temperature
        self.out_dim = dim

    def __call__(self, tokens: Tokens, *, key: PRNGKeyArray | None = None) -> Float[Array, " {self.out_dim}"]:
        patches, mask = read_patches(tokens)
        dtype = at_least_float32(patches.dtype)
        learned = self.log_temperature
        temperature = self.temperature if learned is None else jnp.exp(learned.astype(dtype))
        return (temperature * log_mean_exp(patches.astype(dtype) / temperature, mask)).astype(patches.dtype)
