"""The contract of a pooling."""

import abc
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import equinox as eqx
from jaxtyping import Array, Float, PRNGKeyArray

from .._tokens import Tokens

if TYPE_CHECKING:
    from typing import ClassVar as AbstractClassVar  # what Equinox's own means to a type checker
else:
    from equinox import AbstractClassVar


class AbstractPool(eqx.Module):
    """Turns the tokens into what the head reads: one vector, or all tokens for dense tasks.

    Extend it, make it `@final`, and pass it as `pool=`. `vitrail.testing.check_pool` tells whether it keeps the
    contract.
    """

    out_dim: eqx.AbstractVar[int]
    """The width of what comes out: the head is built for it."""
    needs_class_token: AbstractClassVar[bool]
    """Whether it reads the class token. The assembly adds one to the model for a pool that does."""
    order_invariant: AbstractClassVar[bool]
    """Whether the patches may come in any order: whether it leaves open where a patch lies."""

    @abc.abstractmethod
    def __call__(self, tokens: Tokens, *, key: PRNGKeyArray | None = None) -> Float[Array, "*tokens {self.out_dim}"]:
        """**Arguments:**

        - `tokens`: after the encoder. Only the patches count for which `tokens.mask` is true; what the others hold, NaN
            included, changes nothing. The class token and the registers always count.
        - `key`: for what is random in training; `None` means inference.

        **Returns:**

        One vector `(out_dim,)`, or `(tokens, out_dim)` for dense tasks. In the dtype of the tokens.
        """


class AbstractWeighingPool(AbstractPool):
    """A pool that weighs the patches against each other, and says how."""

    @abc.abstractmethod
    def weights(self, tokens: Tokens) -> Float[Array, "maps patches"]:
        """**Arguments:**

        - `tokens`: after the encoder.

        **Returns:**

        How much each patch counts, in float32 at least: one row for each head and each query. A row is not negative and
        sums to one, less what goes to tokens that are no patches.
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


@runtime_checkable
class PoolFactory(Protocol):
    """What `POOLS` holds: a class, or a function, that makes a pool for tokens of width `dim`.

    One that has a parameter `grid: tuple[int, int]` or `init: Init`, with a default, is also passed the rows and
    columns of patches, or the scheme that the model's weights are drawn by.
    """

    def __call__(self, dim: int, *, key: PRNGKeyArray) -> AbstractPool: ...
