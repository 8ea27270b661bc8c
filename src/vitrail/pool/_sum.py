"""The pool `sum`."""

from typing import ClassVar, final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._tokens import Tokens
from ._base import AbstractPool
from ._read import read_patches


@final
class SumPool(AbstractPool):
    r"""The sum of the patch tokens, $z = \sum_i x_i$.

    Use it if the number of patches means something, as in counting. With a mask it grows with the number of patches
    that count, and the mean does not. On images of one size it is the mean times $N$. It needs no class token and has
    no parameters.

    ??? cite

        Zaheer et al., *Deep Sets*, NeurIPS 2017, arXiv:1703.06114; Xu et al., *How Powerful are Graph Neural
        Networks?*, ICLR 2019, arXiv:1810.00826.
    """

    out_dim: int = eqx.field(static=True)
    needs_class_token: ClassVar[bool] = False
    order_invariant: ClassVar[bool] = True

    def __init__(self, dim: int):
        self.out_dim = dim

    def __call__(self, tokens: Tokens, *, key: PRNGKeyArray | None = None) -> Float[Array, " {self.out_dim}"]:
        patches, _ = read_patches(tokens)
        return jnp.sum(patches, axis=0)
