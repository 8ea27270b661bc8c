"""The contract of a position embedding."""

import abc
from collections.abc import Callable
from dataclasses import dataclass

import equinox as eqx
from jaxtyping import Array, Float

from .._check import check_positive
from .._tokens import Tokens
from ..nn import InAttention, Init


class AbstractPosition(eqx.Module):
    """Tells the tokens where they stand in the image: it adds to them, or acts within attention, or both.

    Extend it, make it `@final`, and pass it as `position=`.
    """

    @abc.abstractmethod
    def __call__(self, tokens: Tokens) -> Tokens:
        """**Arguments:**

        - `tokens`: before the encoder.

        **Returns:**

        The tokens plus their positions. The same tokens if the position acts within attention alone.

        **Raises:** `ValueError` if the position embedding was made for another grid or other prefix tokens.
        """

    @abc.abstractmethod
    def in_attention(self, tokens: Tokens) -> InAttention | None:
        """**Arguments:**

        - `tokens`: what the encoder reads. Only the grid, the places and the number of prefix tokens matter.

        **Returns:**

        A `Rotation` of queries and keys, or a `RelativeBias` of their scores, one for all blocks or one for each;
        `None` for neither.
        """

    @abc.abstractmethod
    def resized(self, grid: tuple[int, int]) -> "AbstractPosition":
        """**Arguments:**

        - `grid`: rows and columns of patches of the new image size.

        **Returns:**

        The position embedding for that grid; itself if it fits every grid.
        """

    @abc.abstractmethod
    def with_class_token(self, row: Float[Array, " dim"] | None) -> "AbstractPosition":
        """**Arguments:**

        - `row`: the position of a class token that is added to the model; `None` if the class token is removed.

        **Returns:**

        The position embedding for tokens with, or without, a class token; itself if it has no position for one.
        """

    @abc.abstractmethod
    def with_registers(self, rows: Float[Array, "added dim"] | None, *, kept: int) -> "AbstractPosition":
        """**Arguments:**

        - `rows`: the positions of registers that are added to the model after those that stay; `None` if none is.
        - `kept`: how many of the registers stay, the first ones.

        **Returns:**

        The position embedding for tokens with those registers; itself if it has no positions for them.
        """


@dataclass(frozen=True, kw_only=True)
class PositionContext:
    """What a position embedding is built for. Its class gets the fields that its signature names."""

    dim: int
    """The width of a token."""
    grid: tuple[int, int]
    """Rows and columns of patches."""
    class_token: bool
    """Whether there is a class token."""
    num_registers: int
    """The number of registers."""
    head_dim: int
    """The width of an attention head."""
    num_heads: int
    """The number of attention heads."""
    depth: int
    """The number of blocks."""
    init: Init
    """The scheme that fresh weights are drawn by."""

    def __post_init__(self) -> None:
        check_positive(dim=self.dim, grid=self.grid, head_dim=self.head_dim)
        check_positive(num_heads=self.num_heads, depth=self.depth)


PositionFactory = Callable[..., AbstractPosition]
"""A class or a function that makes a position embedding. It names what it needs: fields of `PositionContext`, and
`key`."""
