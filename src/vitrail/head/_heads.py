"""The heads that come with vitrail."""

from typing import final

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from .._check import check_positive
from .._init import TRUNC_NORMAL, Init
from .._layers import ACTIVATIONS, ActivationName, Linear
from ._base import AbstractHead, check_num_classes


@final
class LinearHead(AbstractHead):
    """One linear layer: the head of ViT in fine-tuning, and of nearly every other."""

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

        - `dim`: the width of what comes in.
        - `num_classes`: how many logits come out.
        - `init`: draws the weight; the bias starts at zero.
        - `zero`: whether the weight starts at zero instead, as in big_vision: all logits are zero at first, so the loss
            starts at the logarithm of the number of classes.
        - `bias`: whether there is one. CLIP's projection into the space that it shares with text has none.
        - `activation`: of what comes out; `None` for none. The pooler of Hugging Face's ViT has `"tanh"`.
        - `key`: for the weight.

        **Raises:** `ValueError` where `num_classes` is missing or not positive.
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
        """**Arguments:**

        - `x`: the pooled vector, or all tokens.
        - `key`: part of the contract; nothing is random here.

        **Returns:**

        The logits.
        """
        logits = self.linear(x)
        return logits if self.activation is None else ACTIVATIONS[self.activation](logits)


@final
class MLPHead(AbstractHead):
    """A hidden layer, an activation, a linear layer: the head of ViT in pre-training, whose activation is tanh.

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
        self.activation = activation

    def __call__(
        self, x: Float[Array, "*tokens {self.dim}"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "*tokens {self.out_dim}"]:
        """**Arguments:**

        - `x`: the pooled vector, or all tokens.
        - `key`: part of the contract; nothing is random here.

        **Returns:**

        The logits.
        """
        return self.linear(ACTIVATIONS[self.activation](self.hidden(x)))


@final
class DistilledHead(AbstractHead):
    """DeiT's two classifiers, one for the class token and one for the distillation token, their logits averaged.

    It goes with `POOLS.configure("cls", num_tokens=2)` and `num_registers=1`: that pool returns the two tokens one
    after the other.

    ??? cite

        Touvron et al., *Training data-efficient image transformers & distillation through attention*, ICML 2021,
        arXiv:2012.12877, section 4.
    """

    class_token: Linear
    distillation_token: Linear
    dim: int = eqx.field(static=True)
    out_dim: int = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        *,
        num_classes: int | None,
        token_dim: int | None = None,
        init: Init = TRUNC_NORMAL,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `dim`: the width of what comes in: two tokens.
        - `token_dim`: the width of a token, half of `dim`; the model passes its own.
        - `num_classes`: how many logits come out.
        - `init`: draws the weights; the biases start at zero.
        - `key`: for the weights.

        **Raises:** `ValueError` where `num_classes` is missing or not positive, or `dim` is not the width of two
        tokens.
        """
        if dim % 2 or token_dim not in (None, dim // 2):
            raise ValueError(
                f"dim must be the width of two tokens for the head 'distilled', got {dim} for tokens of {token_dim}: "
                "use pool=POOLS.configure('cls', num_tokens=2) and num_registers=1, or head='linear'"
            )
        self.dim = dim
        self.out_dim = check_num_classes(num_classes)
        class_key, distillation_key = jax.random.split(key)
        self.class_token = Linear(dim // 2, self.out_dim, weight_init=init.head, key=class_key)
        self.distillation_token = Linear(dim // 2, self.out_dim, weight_init=init.head, key=distillation_key)

    def __call__(
        self, x: Float[Array, "*tokens {self.dim}"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "*tokens {self.out_dim}"]:
        """**Arguments:**

        - `x`: the class token and the distillation token as one vector.
        - `key`: part of the contract; nothing is random here.

        **Returns:**

        The mean of the two classifiers' logits.
        """
        class_token, distillation_token = x[..., : self.dim // 2], x[..., self.dim // 2 :]
        return (self.class_token(class_token) + self.distillation_token(distillation_token)) / 2


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
