"""The pool `mean`."""

import dataclasses
from typing import ClassVar, final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._tokens import Tokens
from ._base import AbstractPool
from ._read import read_patches, take_mean


@final
class MeanPool(AbstractPool):
    r"""The mean of the patch tokens, $z = \frac{1}{N} \sum_i x_i$.

    Use it first. It needs no class token, treats all patches alike, and has no parameters.

    ??? cite

        Beyer et al., *Better plain ViT baselines for ImageNet-1k*, 2022, arXiv:2205.01580; Zhai et al., *Scaling Vision
        Transformers*, CVPR 2022, arXiv:2106.04560.
    """

    out_dim: int = eqx.field(static=True)
    needs_class_token: ClassVar[bool] = False
    order_invariant: ClassVar[bool] = True
    include_prefix: bool = eqx.field(static=True)

    def __init__(self, dim: int, *, include_prefix: bool = False):
        """**Arguments:**

        - `dim`: the width of a token.
        - `include_prefix`: whether the prefix tokens count too, as in big_vision's `gap` of a model with a class token.
        """
        self.out_dim = dim
        self.include_prefix = include_prefix

    def __call__(self, tokens: Tokens, *, key: PRNGKeyArray | None = None) -> Float[Array, " {self.out_dim}"]:
        if not self.include_prefix:
            return take_mean(tokens)
        patches, mask = read_patches(tokens)
        count = patches.shape[0] if mask is None else jnp.sum(mask).astype(patches.dtype)
        total = jnp.sum(dataclasses.replace(tokens, patches=patches).sequence, axis=0)
        return total / (tokens.num_prefix + count)
