"""The head `mlp`."""

from typing import final

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from .._check import check_positive
from ..nn import ACTIVATIONS, TRUNC_NORMAL, ActivationName, Init, Linear, split_key
from ._base import AbstractHead
from ._classes import check_num_classes


@final
class MLPHead(AbstractHead):
    """A hidden layer, an activation and a linear layer: the head of ViT in pre-training, with tanh.

    ??? cite

        Dosovitskiy et al., *An Image is Worth 16x16 Words*, ICLR 2021, arXiv:2010.11929, section 3.1.
    """

    hidden: Linear
    linear: Linear
    activation: ActivationName = eqx.field(static=True)
    dim: int = eqx.field(static=True)
    out_dim: int = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        *,
        num_classes: int | None,
        init: Init = TRUNC_NORMAL,
        hidden_dim: int | None = None,
        activation: ActivationName = "tanh",
        zero: bool = False,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `dim`: the width of the input.
        - `num_classes`: the number of logits.
        - `init`: draws the weights. The biases start at zero.
        - `hidden_dim`: the width of the hidden layer; `None` for `dim`.
        - `activation`: of the hidden layer.
        - `zero`: whether the weight of the last layer starts at zero instead.
        - `key`: the random key of the weights.

        **Raises:** `ValueError` if `num_classes` is missing, or a number is not positive.
        """
        hidden_dim = dim if hidden_dim is None else hidden_dim
        check_positive(hidden_dim=hidden_dim)
        hidden_key, key = split_key(key)
        self.dim = dim
        self.out_dim = check_num_classes(num_classes)
        self.hidden = Linear(dim, hidden_dim, weight_init=init.head, key=hidden_key)
        weight_init = jax.nn.initializers.zeros if zero else init.head
        self.linear = Linear(hidden_dim, self.out_dim, weight_init=weight_init, key=key)
        self.activation = activation

    def __call__(
        self, x: Float[Array, "*tokens {self.dim}"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "*tokens {self.out_dim}"]:
        return self.linear(ACTIVATIONS[self.activation](self.hidden(x)))
