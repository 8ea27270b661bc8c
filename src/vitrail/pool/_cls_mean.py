"""The pool `cls_mean`."""

from typing import ClassVar, final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._tokens import Tokens
from ._base import AbstractPool
from ._read import read_class_token, take_mean


@final
class ClassMeanPool(AbstractPool):
    r"""Class token and mean of the patches as one vector, $z = [x_\mathrm{cls}; \frac{1}{N} \sum_i x_i]$.

    It is twice as wide as a token. Use it for a linear classifier on a frozen backbone with a class token, as in the
    evaluation of DINOv2. It needs the class token and has no parameters.

    ??? cite

        Oquab et al., *DINOv2: Learning Robust Visual Features without Supervision*, 2023, arXiv:2304.07193.
    """

    out_dim: int = eqx.field(static=True)
    needs_class_token: ClassVar[bool] = True
    order_invariant: ClassVar[bool] = True

    def __init__(self, dim: int):
        self.out_dim = 2 * dim

    def __call__(self, tokens: Tokens, *, key: PRNGKeyArray | None = None) -> Float[Array, " {self.out_dim}"]:
        return jnp.concatenate([read_class_token(tokens), take_mean(tokens)])
