"""The head `distilled`."""

from typing import final

import equinox as eqx
from jaxtyping import Array, Float, PRNGKeyArray

from ..nn import TRUNC_NORMAL, Init, Linear, split_key
from ._base import AbstractHead
from ._classes import check_num_classes


@final
class DistilledHead(AbstractHead):
    """DeiT's two classifiers, of the class token and of the distillation token. Their logits are averaged.

    Use it with `pool=POOLS.configure("cls", num_tokens=2)`, which returns the two tokens as one vector, and
    `num_registers=1`.

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

        - `dim`: the width of the input: two tokens.
        - `num_classes`: the number of logits.
        - `token_dim`: the width of a token; `None` for half of `dim`.
        - `init`: draws the weights. The biases start at zero.
        - `key`: the random key of the weights.

        **Raises:** `ValueError` if `num_classes` is missing or not positive, or `dim` is not the width of two tokens.
        """
        if dim % 2 or token_dim not in (None, dim // 2):
            raise ValueError(
                f"dim must be the width of two tokens for the head 'distilled', got {dim} for tokens of {token_dim}: "
                "use pool=POOLS.configure('cls', num_tokens=2) and num_registers=1, or head='linear'"
            )
        self.dim = dim
        self.out_dim = check_num_classes(num_classes)
        class_key, distillation_key = split_key(key)
        self.class_token = Linear(dim // 2, self.out_dim, weight_init=init.head, key=class_key)
        self.distillation_token = Linear(dim // 2, self.out_dim, weight_init=init.head, key=distillation_key)

    def __call__(
        self, x: Float[Array, "*tokens {self.dim}"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "*tokens {self.out_dim}"]:
        class_token, distillation_token = x[..., : self.dim // 2], x[..., self.dim // 2 :]
        return (self.class_token(class_token) + self.distillation_token(distillation_token)) / 2
