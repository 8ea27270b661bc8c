"""Gated attention of multiple-instance learning."""

from typing import ClassVar, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._check import check_positive
from .._init import BIG_VISION, Init
from .._layers import Linear, at_least_float32, masked_softmax
from .._tokens import Tokens
from ._base import AbstractWeighingPool
from ._mask import kept_patches


@final
class ABMILPool(AbstractWeighingPool):
    r"""A mean of the patches, weighted by gated attention.

    $z = \sum_i a_i x_i$ with $a = \mathrm{softmax}_i\, w^\top (\tanh(V x_i) \odot \sigma(U x_i))$.

    Pick it where few patches matter and you want to see which: large images of tissue, small data. It has $L (2 d + 1)$
    parameters for the width $d$ and the hidden width $L$; it needs no class token, and does not depend on the order of
    the patches.

    ??? cite

        Ilse, Tomczak and Welling, *Attention-based Deep Multiple Instance Learning*, ICML 2018, arXiv:1802.04712,
        equation 9, without biases as written there.
    """

    signal: Linear
    gate: Linear
    score: Linear
    out_dim: int = eqx.field(static=True)
    needs_class_token: ClassVar[bool] = False
    order_invariant: ClassVar[bool] = True

    def __init__(self, dim: int, *, hidden_dim: int = 128, init: Init = BIG_VISION, key: PRNGKeyArray):
        """**Arguments:**

        - `dim`: the width of a token.
        - `hidden_dim`: $L$; 128 in the paper.
        - `init`: draws the weights like those of an MLP.
        - `key`: for the weights.

        **Raises:** `ValueError` where a width is not positive.
        """
        check_positive(dim=dim, hidden_dim=hidden_dim)
        keys = jax.random.split(key, 3)
        self.signal = Linear(dim, hidden_dim, weight_init=init.mlp, bias_init=None, key=keys[0])
        self.gate = Linear(dim, hidden_dim, weight_init=init.mlp, bias_init=None, key=keys[1])
        self.score = Linear(hidden_dim, 1, weight_init=init.mlp, bias_init=None, key=keys[2])
        self.out_dim = dim

    def __call__(self, tokens: Tokens, *, key: PRNGKeyArray | None = None) -> Float[Array, " {self.out_dim}"]:
        """**Arguments:**

        - `tokens`: after the encoder.
        - `key`: part of the contract; nothing is random here.

        **Returns:**

        One vector.
        """
        patches, _ = kept_patches(tokens)
        return self.weights(tokens)[0].astype(patches.dtype) @ patches

    def weights(self, tokens: Tokens) -> Float[Array, "maps patches"]:
        """**Arguments:**

        - `tokens`: after the encoder.

        **Returns:**

        How much each patch counts, in one row that sums to one.
        """
        patches, mask = kept_patches(tokens)
        scores = self.score(jnp.tanh(self.signal(patches)) * jax.nn.sigmoid(self.gate(patches)))
        return masked_softmax(scores.T.astype(at_least_float32(scores.dtype)), mask)
