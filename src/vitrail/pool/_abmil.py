"""The pool `abmil`."""

from typing import ClassVar, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._check import check_positive
from .._tokens import Tokens
from ..nn import BIG_VISION, Init, Linear, at_least_float32, masked_softmax, split_key
from ._base import AbstractWeighingPool
from ._read import read_patches, weigh_patches


@final
class ABMILPool(AbstractWeighingPool):
    r"""A mean of the patches, weighted by gated attention, as in multiple-instance learning.

    $z = \sum_i a_i x_i$ with $a = \mathrm{softmax}_i\, w^\top (\tanh(V x_i) \odot \sigma(U x_i))$.

    Use it if few patches matter and you want to see which: large images of tissue, small data. It has $L (2 d + 1)$
    parameters for the width $d$ and the hidden width $L$, and needs no class token.

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
        - `key`: the random key of the weights.

        **Raises:** `ValueError` if `hidden_dim` is not positive.
        """
        check_positive(hidden_dim=hidden_dim)
        keys = split_key(key, 3)
        self.signal = Linear(dim, hidden_dim, weight_init=init.mlp, bias_init=None, key=keys[0])
        self.gate = Linear(dim, hidden_dim, weight_init=init.mlp, bias_init=None, key=keys[1])
        self.score = Linear(hidden_dim, 1, weight_init=init.mlp, bias_init=None, key=keys[2])
        self.out_dim = dim

    def __call__(self, tokens: Tokens, *, key: PRNGKeyArray | None = None) -> Float[Array, " {self.out_dim}"]:
        return weigh_patches(tokens, self.weights(tokens))

    def weights(self, tokens: Tokens) -> Float[Array, "1 patches"]:
        patches, mask = read_patches(tokens)
        scores = self.score(jnp.tanh(self.signal(patches)) * jax.nn.sigmoid(self.gate(patches)))
        return masked_softmax(scores.T.astype(at_least_float32(scores.dtype)), mask)
