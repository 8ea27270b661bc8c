"""The pool `max`."""

from typing import ClassVar, final

import equinox as eqx
from jaxtyping import Array, Float, PRNGKeyArray

from .._tokens import Tokens
from ._base import AbstractPool
from ._read import take_max


@final
class MaxPool(AbstractPool):
    r"""The largest value of each channel over the patches, $z = \max_i x_i$.

    Use it if one patch decides: a small object, a rare texture. Its gradient reaches one patch for each channel. It
    needs no class token and has no parameters.

    ??? cite

        Boureau, Ponce and LeCun, *A Theoretical Analysis of Feature Pooling in Visual Recognition*, ICML 2010.
    """

    out_dim: int = eqx.field(static=True)
    needs_class_token: ClassVar[bool] = False
    order_invariant: ClassVar[bool] = True

    def __init__(self, dim: int):
        self.out_dim = dim

    def __call__(self, tokens: Tokens, *, key: PRNGKeyArray | None = None) -> Float[Array, " {self.out_dim}"]:
        return take_max(tokens)
