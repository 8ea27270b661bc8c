"""The pool `mean_max`."""

from typing import ClassVar, final

import equinox as eqx
from jaxtyping import Array, Float, PRNGKeyArray

from .._tokens import Tokens
from ._base import AbstractPool
from ._read import take_max, take_mean


@final
class MeanMaxPool(AbstractPool):
    r"""Half the sum of mean and maximum, $z = \frac{1}{2} (\frac{1}{N} \sum_i x_i + \max_i x_i)$: timm's `avgmax`.

    Use it if the whole image or one patch may decide. It needs no class token and has no parameters.

    ??? cite

        Lee, Gallagher and Tu, *Generalizing Pooling Functions in CNNs: Mixed, Gated, and Tree*, AISTATS 2016,
        arXiv:1509.08985, with their mixing proportion at one half.
    """

    out_dim: int = eqx.field(static=True)
    needs_class_token: ClassVar[bool] = False
    order_invariant: ClassVar[bool] = True

    def __init__(self, dim: int):
        self.out_dim = dim

    def __call__(self, tokens: Tokens, *, key: PRNGKeyArray | None = None) -> Float[Array, " {self.out_dim}"]:
        return 0.5 * (take_mean(tokens) + take_max(tokens))
