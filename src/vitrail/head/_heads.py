"""The heads that come with vitrail."""

from typing import final

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from .._check import check_positive
from .._init import TRUNC_NORMAL, Init
from .._layers import ACTIVATIONS, Activation, ActivationName, Linear
from ._base import AbstractHead, check_num_classes


@final
class LinearHead(AbstractHead):
    """One linear layer: the head of ViT in fine-tuning, and of nearly every other."""

    linear: Linear
    dim: int = eqx.field(static=True)
    out_dim: int = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        *,
        num_classes: int | None,
        init: Init = TRUNC_NORMAL,
        zero: bool = False,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `dim`: the width of what comes in.
        - `num_classes`: how many logits come out.
        - `init`: draws the weight; the bias starts at zero.
        - `zero`: whether the weight starts at zero instead, as in big_vision: all logits are zero at first, so the loss
            starts at the logarithm of the number of classes.
        - `key`: for the weight.

        **Raises:** `ValueError` where `num_classes` is missing or not positive.
        """
        self.dim = dim
        self.out_dim = check_num_classes(num_classes)
        weight_init = jax.nn.initializers.zeros if zero else init.head
        self.linear = Linear(dim, self.out_dim, weight_init=weight_init, key=key)

    def __call__(
        self, x: Float[Array, "*tokens {self.dim}"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "*tokens {self.out_dim}"]:
        """**Arguments:**

        - `x`: the pooled vector, or all tokens.
        - `key`: part of the contract; nothing is random here.

        **Returns:**

        The logits.
        """
        return self.linear(x)


@final
class MLPHead(AbstractHead):
    """A hidden layer, an activation, a linear layer: the head of ViT in pre-training, whose activation is tanh.

    ??? cite

        Dosovitskiy et al., *An Image is Worth 16x16 Words*, ICLR 2021, arXiv:2010.11929, section 3.1.
    """

    hidden: Linear
    linear: Linear
    activation: Activation = eqx.field(static=True)
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

        - `dim`: the width of what comes in.
        - `num_classes`: how many logits come out.
        - `init`: draws the weights; the biases start at zero.
        - `hidden_dim`: the width of the hidden layer, `dim` by default.
        - `activation`: of the hidden layer.
        - `zero`: whether the weight of the last layer starts at zero instead.
        - `key`: for the weights.

        **Raises:** `ValueError` where `num_classes` is missing, or a width is not positive.
        """
        hidden_dim = dim if hidden_dim is None else hidden_dim
        check_positive(hidden_dim=hidden_dim)
        hidden_key, key = jax.random.split(key)
        self.dim = dim
        self.out_dim = check_num_classes(num_classes)
        self.hidden = Linear(dim, hidden_dim, weight_init=init.head, key=hidden_key)
        weight_init = jax.nn.initializers.zeros if zero else init.head
        self.linear = Linear(hidden_dim, self.out_dim, weight_init=weight_init, key=key)
        self.activation = ACTIVATIONS[activation]

    def __call__(
        self, x: Float[Array, "*tokens {self.dim}"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "*tokens {self.out_dim}"]:
        """**Arguments:**

        - `x`: the pooled vector, or all tokens.
        - `key`: part of the contract; nothing is random here.

        **Returns:**

        The logits.
        """
        return self.linear(self.activation(self.hidden(x)))


@final
class NoHead(AbstractHead):
    """No head: the model returns what the pool gives."""

    dim: int = eqx.field(static=True)
    out_dim: int = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        *,
        num_classes: int | None = None,
        init: Init | None = None,
        key: PRNGKeyArray | None = None,
    ):
        """**Arguments:**

        - `dim`: the width of what comes in.
        - `num_classes`: must be `None`, as there are no classes.
        - `init`, `key`: part of the contract; do not matter here.

        **Raises:** `ValueError` where `num_classes` is given.
        """
        if num_classes is not None:
            raise ValueError(
                f"num_classes must be None for the head 'none', but {num_classes} came: this head has no classes; "
                "make num_classes None, or take head='linear'"
            )
        self.dim = dim
        self.out_dim = dim

    def __call__(
        self, x: Float[Array, "*tokens {self.dim}"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "*tokens {self.out_dim}"]:
        """**Arguments:**

        - `x`: the pooled vector, or all tokens.
        - `key`: part of the contract; nothing is random here.

        **Returns:**

        The same.
        """
        return x
