"""The contract of a pooling."""

import abc
from typing import Protocol, runtime_checkable

import equinox as eqx
from jaxtyping import Array, Float, PRNGKeyArray

from .._tokens import Tokens


class AbstractPool(eqx.Module):
    """Turns the tokens into what the head reads: one vector, or all tokens for dense tasks.

    Extend it, make it `@final`, and pass it as `pool=`.
    """

    out_dim: eqx.AbstractVar[int]
    """The width of what comes out: the head is built for it."""
    needs_class_token: eqx.AbstractVar[bool]
    """Whether it reads the class token. The assembly adds one to the model for a pool that does."""

    @abc.abstractmethod
    def __call__(self, tokens: Tokens, *, key: PRNGKeyArray | None = None) -> Float[Array, "*tokens {self.out_dim}"]:
        """**Arguments:**

        - `tokens`: prefix and patches apart, after the encoder.
        - `key`: for what is random in training; `None` means inference.

        **Returns:**

        One vector `(out_dim,)`, or `(tokens, out_dim)` for dense tasks. In the dtype of the tokens.
        """


@runtime_checkable
class PoolFactory(Protocol):
    """What `POOLS` holds: a class, or a function, that makes a pool for tokens of width `dim`."""

    def __call__(self, dim: int, *, key: PRNGKeyArray) -> AbstractPool: ...
