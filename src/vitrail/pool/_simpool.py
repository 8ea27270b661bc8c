"""The pool `simpool`."""

from typing import ClassVar, final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._check import check_above_zero
from .._tokens import Tokens
from ..nn import BIG_VISION, Init, LayerNorm, Linear, at_least_float32, attention_weights, split_key
from ._base import AbstractWeighingPool
from ._read import read_patches, take_mean


@final
class SimPool(AbstractWeighingPool):
    r"""Attention of the mean to the patches, and a generalised mean of the values that it picks.

    With $\bar x$ the mean of the patches, $K = \mathrm{LN}(X)$, $V = K - \min K + \epsilon$ and
    $a = \mathrm{softmax}(K W_k^\top W_q \bar x / \sqrt d)$, it is $z = (\sum_i a_i V_i^\gamma)^{1/\gamma}$.

    Use it for attention maps that follow objects, in training from scratch. It has $2 d^2 + 2 d$ parameters for the
    width $d$, and needs no class token.

    ??? cite

        Psomas et al., *Keep It SimPool: Who Said Supervised Transformers Suffer from Attention Deficit?*, ICCV 2023,
        arXiv:2309.06891. $\gamma = 1.25$ for transformers and $\epsilon = 10^{-6}$ are theirs. The minimum is over all
        channels of the image, as in the paper; the authors' code takes it over the batch, timm's for each channel.
    """

    norm: LayerNorm
    q: Linear
    k: Linear
    gamma: float = eqx.field(static=True)
    out_dim: int = eqx.field(static=True)
    needs_class_token: ClassVar[bool] = False
    order_invariant: ClassVar[bool] = True

    def __init__(
        self, dim: int, *, gamma: float = 1.25, norm_eps: float = 1e-6, init: Init = BIG_VISION, key: PRNGKeyArray
    ):
        r"""**Arguments:**

        - `dim`: the width of a token.
        - `gamma`: the power $\gamma$; at 1 it is a weighted mean.
        - `norm_eps`: what the norm adds to the variance.
        - `init`: draws the weights.
        - `key`: the random key of the weights.

        **Raises:** `ValueError` if `gamma` is not above zero.
        """
        check_above_zero(gamma=gamma)
        q_key, k_key = split_key(key)
        self.norm = LayerNorm(dim, eps=norm_eps)
        self.q = Linear(dim, dim, weight_init=init.attention, bias_init=None, key=q_key)
        self.k = Linear(dim, dim, weight_init=init.attention, bias_init=None, key=k_key)
        self.gamma = gamma
        self.out_dim = dim

    def __call__(self, tokens: Tokens, *, key: PRNGKeyArray | None = None) -> Float[Array, " {self.out_dim}"]:
        patches, mask = read_patches(tokens)
        values = self.norm(patches).astype(at_least_float32(patches.dtype))
        counted = (values if mask is None else jnp.where(mask[:, None], values, jnp.inf)).reshape(-1)
        lowest = counted[jnp.argmin(counted)]  # by its index, for the reason given in take_max
        shifted = jnp.maximum(values - lowest, 0.0) + 1e-6  # masked patches may be below the lowest
        pooled = self.weights(tokens)[0] @ shifted**self.gamma
        return (pooled ** (1 / self.gamma)).astype(patches.dtype)

    def weights(self, tokens: Tokens) -> Float[Array, "1 patches"]:
        patches, mask = read_patches(tokens)
        query = self.q(take_mean(tokens))
        return attention_weights(query[None, None], self.k(self.norm(patches))[None], mask)[0]
