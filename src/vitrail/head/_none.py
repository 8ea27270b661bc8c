"""The head `none`."""

from typing import final

import equinox as eqx
from jaxtyping import Array, Float, PRNGKeyArray

from ._base import AbstractHead


@final
class NoHead(AbstractHead):
    """No head: the model returns what the pool returns."""

    dim: int = eqx.field(static=True)
    out_dim: int = eqx.field(static=True)

    def __init__(self, dim: int, *, num_classes: int | None = None):
        """**Arguments:**

        - `dim`: the width of the input.
        - `num_classes`: must be `None`.

        **Raises:** `ValueError` if `num_classes` is a number.
        """
        if num_classes is not None:
            raise ValueError(
                f"num_classes must be None for the head 'none', got {num_classes}: this head has no classes, so pass "
                "num_classes=None, or use head='linear'"
            )
        self.dim = dim
        self.out_dim = dim

    def __call__(
        self, x: Float[Array, "*tokens {self.dim}"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "*tokens {self.out_dim}"]:
        return x
