"""The contract of a pool."""

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import equinox as eqx
from jaxtyping import Array, Float, PRNGKeyArray

from .._check import check_positive
from .._tokens import Tokens
from ..nn import Init

if TYPE_CHECKING:
    from typing import ClassVar as AbstractClassVar  # what Equinox's own means to a type checker
else:
    from equinox import AbstractClassVar


class AbstractPool(eqx.Module):
    """Turns the tokens into what the head reads: one vector, or all tokens for dense tasks.

    Extend it, make it `@final`, and pass it as `pool=`. `vitrail.testing.check_pool` checks that it keeps the contract.
    """

    out_dim: eqx.AbstractVar[int]
    """The width of the output. The head is built for it."""
    needs_class_token: AbstractClassVar[bool]
    """Whether the pool reads the class token. If so, the model has one."""
    order_invariant: AbstractClassVar[bool]
    """Whether the output stays the same if the patches change places."""

    @abc.abstractmethod
    def __call__(self, tokens: Tokens, *, key: PRNGKeyArray | None = None) -> Float[Array, "*tokens {self.out_dim}"]:
        """**Arguments:**

        - `tokens`: after the encoder. Only patches whose `tokens.mask` is true count; what the others hold, NaN
            included, changes nothing. The class token and the registers always count.
        - `key`: for what is random in training; `None` means inference.

        **Returns:**

        One vector `(out_dim,)`, or `(tokens, out_dim)` for dense tasks, in the dtype of the tokens.

        **Raises:** `ValueError` if the tokens lack a class token or registers that the pool reads, or if the mask is
        false everywhere.
        """


class AbstractWeighingPool(AbstractPool):
    """A pool that weighs the patches against each other, and shows how."""

    @abc.abstractmethod
    def weights(self, tokens: Tokens) -> Float[Array, "maps patches"]:
        """**Arguments:**

        - `tokens`: after the encoder.

        **Returns:**

        How much each patch counts, at least in float32: one row, or one for each head and query. No weight is negative.
        A row sums to one, or to less if other tokens than patches count too.
        """


class AbstractGridPool(AbstractPool):
    """A pool with parameters for each cell of the grid."""

    @abc.abstractmethod
    def resized(self, grid: tuple[int, int]) -> "AbstractGridPool":
        """**Arguments:**

        - `grid`: rows and columns of patches of the new image size.

        **Returns:**

        The pool for that grid.
        """


@dataclass(frozen=True, kw_only=True)
class PoolContext:
    """What a pool is built for. Its class gets the fields that its signature names."""

    dim: int
    """The width of a token."""
    grid: tuple[int, int]
    """Rows and columns of patches."""
    init: Init
    """The scheme that fresh weights are drawn by."""

    def __post_init__(self) -> None:
        check_positive(dim=self.dim, grid=self.grid)


PoolFactory = Callable[..., AbstractPool]
"""A class or a function that makes a pool. It names what it needs: fields of `PoolContext`, and `key`."""
