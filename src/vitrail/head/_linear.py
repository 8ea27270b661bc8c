"""The head `linear`."""

from typing import final

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from ..nn import ACTIVATIONS, TRUNC_NORMAL, ActivationName, Init, Linear
from ._base import AbstractHead
from ._classes import check_num_classes


@final
class LinearHead(AbstractHead):
    """One linear layer: the head of ViT in fine-tuning, and of nearly every other model."""

    linear: Linear
    activation: ActivationName | None = eqx.field(static=True)
    dim: int = eqx.field(static=True)
    out_dim: int = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        *,
        num_classes: int | None,
        init: Init = TRUNC_NORMAL,
        zero: bool = False,
        bias: bool = True,
        activation: ActivationName | None = None,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `dim`: the width of the input.
        - `num_classes`: the number of logits.
        - `init`: draws the weight. The bias starts at zero.
        - `zero`: whether the weight starts at zero instead, as in big_vision. All logits are then zero at first, and
            the loss starts at the logarithm of the number of classes.
        - `bias`: whether there is a bias. CLIP's projection to the space of its text tower has none.
        - `activation`: of the output; `None` for none. The pooler of Hugging Face's ViT has `"tanh"`.
        - `key`: for the weight.

        **Raises:** `ValueError` if `num_classes` is missing or not positive.
        """
        self.dim = dim
        self.out_dim = check_num_classes(num_classes)
        weight_init = jax.nn.initializers.zeros if zero else init.head
        bias_init = jax.nn.initializers.zeros if bias else None
        self.linear = Linear(dim, self.out_dim, weight_init=weight_init, bias_init=bias_init, key=key)
        self.activation = activation

    def __call__(
        self, x: Float[Array, "*tokens {self.dim}"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "*tokens {self.out_dim}"]:
        logits = self.linear(x)
        return logits if self.activation is None else ACTIVATIONS[self.activation](logits)
