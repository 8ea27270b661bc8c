"""The contract of a position embedding."""

import abc
from typing import Protocol, runtime_checkable

import equinox as eqx
from jaxtyping import Array, Float, PRNGKeyArray

from .._init import Init
from .._tokens import Rotation, Tokens


class AbstractPosition(eqx.Module):
    """Tells the tokens where they lie: by what it adds to them, by how it turns the queries and keys, or both.

    Extend it, make it `@final`, and pass it as `position=`.
    """

    @abc.abstractmethod
    def __call__(self, tokens: Tokens) -> Tokens:
        """**Arguments:**

        - `tokens`: before the encoder.

        **Returns:**

        The same with the position added; unchanged where it acts in the attention alone.
        """

    @abc.abstractmethod
    def rotation(self, tokens: Tokens) -> Rotation | None:
        """**Arguments:**

        - `tokens`: what the encoder is about to read. Only the grid, the places, and the number of tokens
            before the patches count.

        **Returns:**

        The rotation of the queries and keys of every block, or `None` where there is none.
        """

    @abc.abstractmethod
    def resized(self, grid: tuple[int, int]) -> "AbstractPosition":
        """**Arguments:**

        - `grid`: rows and columns of patches of the new image size.

        **Returns:**

        The position embedding for that grid.
        """

    @abc.abstractmethod
    def with_class_token(self, row: Float[Array, " dim"] | None) -> "AbstractPosition":
        """**Arguments:**

        - `row`: the position of a class token that is added to the model, for position embeddings that have one;
            `None` if the class token is taken away.

        **Returns:**

        The position embedding for tokens with, or without, a class token. The others keep theirs.
        """


@runtime_checkable
class PositionFactory(Protocol):
    """What `POSITIONS` holds: a class, or a function, that makes a position embedding.

    The assembly passes every argument; a position that does not depend on one leaves it unread.
    """

    def __call__(
        self,
        dim: int,
        *,
        grid: tuple[int, int],
        class_token: bool,
        num_registers: int,
        head_dim: int,
        init: Init,
        key: PRNGKeyArray,
    ) -> AbstractPosition: ...
