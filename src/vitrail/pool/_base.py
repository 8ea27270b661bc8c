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
    """The base class of pools. A pool turns the tokens into what the head reads: one vector, or all tokens for dense
    tasks.

    To write a pool, extend this class, decorate yours with `@final`, and pass it as `pool=`.
    [`check_pool`][vitrail.testing.check_pool] checks the whole contract.
    """

    out_dim: eqx.AbstractVar[int]
    """The width of the output. The head is built for it."""
    needs_class_token: AbstractClassVar[bool]
    """Whether the pool reads the class token. If it does, the model gets a class token."""
    order_invariant: AbstractClassVar[bool]
    """Whether the output is the same for any order of the patches."""

    @abc.abstractmethod
    def __call__(self, tokens: Tokens, *, key: PRNGKeyArray | None = None) -> Float[Array, "*tokens {self.out_dim}"]:
        """Pools the tokens of one image.

        **Arguments:**

        - `tokens`: the tokens after the encoder. Only patches whose `tokens.mask` is true count. The values of the
            others, NaN included, must have no effect. The class token and the registers always count.
        - `key`: for what is random in training; `None` means inference.

        **Returns:**

        One vector `(out_dim,)`, or `(tokens, out_dim)` for dense tasks, in the dtype of the tokens.

        **Raises:** `ValueError` if the tokens lack a class token or registers that the pool reads, or if the mask is
        false everywhere.
        """


class AbstractWeighingPool(AbstractPool):
    """The base class of pools that compute a weight for each patch and can return these weights."""

    @abc.abstractmethod
    def weights(self, tokens: Tokens) -> Float[Array, "maps patches"]:
        """Computes the weights of the patches.

        **Arguments:**

        - `tokens`: the tokens of one image, after the encoder.

        **Returns:**

        The weights, at least in float32: one row, or one row for each head and query. No weight is negative. A row sums
        to one, or to less if other tokens than patches have weight too.
        """


class AbstractGridPool(AbstractPool):
    """The base class of pools with parameters for each cell of the grid, which `ViT.resized` resizes."""

    @abc.abstractmethod
    def resized(self, grid: tuple[int, int]) -> "AbstractGridPool":
        """**Arguments:**

        - `grid`: rows and columns of patches of the new image size.

        **Returns:**

        The pool for that grid.
        """


@dataclass(frozen=True, kw_only=True)
class PoolContext:
    """Describes the model that a pool is built for. A factory gets the fields that its signature names."""

    dim: int
    """The width of a token."""
    grid: tuple[int, int]
    """Rows and columns of patches."""
    init: Init
    """How fresh weights are drawn."""

    def __post_init__(self) -> None:
        check_positive(dim=self.dim, grid=self.grid)


PoolFactory = Callable[..., AbstractPool]
"""A class or a function that makes a pool. Its signature names what it needs: fields of
`PoolContext`, and `key`."""
