"""The pool `gem`."""

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
class GeMPool(AbstractPool):
    r"""The generalised mean of each channel over the patches, $z = (\frac{1}{N} \sum_i \max(x_i, \epsilon)^p)^{1/p}$.

    At $p = 1$ it is the mean; as $p$ grows it becomes the maximum. Use it for retrieval, and for features that are
    mostly positive. A value below $\epsilon$ counts as $\epsilon$ and gets no gradient, and after a LayerNorm half of
    the values are below. It has one parameter, $\log p$, and needs no class token.

    The powers are computed as exponentials of logarithms, so none overflows.

    ??? cite

        Radenovic, Tolias and Chum, *Fine-tuning CNN Image Retrieval with No Human Annotation*, TPAMI 2018,
        arXiv:1711.02512, equation 3. $p = 3$ and $\epsilon = 10^{-6}$ are theirs.
    """

    log_power: Float[Array, ""]
    eps: float = eqx.field(static=True)
    out_dim: int = eqx.field(static=True)
    needs_class_token: ClassVar[bool] = False
    order_invariant: ClassVar[bool] = True

    def __init__(self, dim: int, *, power: float = 3.0, eps: float = 1e-6):
        r"""**Arguments:**

        - `dim`: the width of a token.
        - `power`: $p$ at the start.
        - `eps`: $\epsilon$.

        **Raises:** `ValueError` if `power` or `eps` is not above zero.
        """
        check_above_zero(power=power, eps=eps)
        self.log_power = jnp.asarray(math.log(power), jnp.float32)
        self.eps = eps
        self.out_dim = dim

    def __call__(self, tokens: Tokens, *, key: PRNGKeyArray | None = None) -> Float[Array, " {self.out_dim}"]:
        patches, mask = read_patches(tokens)
        dtype = at_least_float32(patches.dtype)
        power = jnp.exp(self.log_power.astype(dtype))
        logs = jnp.log(jnp.maximum(patches.astype(dtype), self.eps))
        return jnp.exp(log_mean_exp(power * logs, mask) / power).astype(patches.dtype)
