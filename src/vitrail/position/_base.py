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
    """The base class of position embeddings. A position embedding adds to the tokens, or acts within attention, or
    both.

    To write one, extend this class, decorate yours with `@final`, and pass it as `position=`.
    [`check_position`][vitrail.testing.check_position] checks the whole contract.
    """

    @abc.abstractmethod
    def __call__(self, tokens: Tokens) -> Tokens:
        """Adds the positions to the tokens.

        **Arguments:**

        - `tokens`: the tokens of one image, before the encoder.

        **Returns:**

        The tokens plus their positions; the same tokens if the position acts only within attention.

        **Raises:** `ValueError` if the position embedding was made for another grid or other prefix tokens.
        """

    @abc.abstractmethod
    def in_attention(self, tokens: Tokens) -> InAttention | None:
        """Returns the part of the position that acts within attention.

        **Arguments:**

        - `tokens`: the tokens that the encoder reads. Only their grid, their places and the number of prefix tokens
            have an effect.

        **Returns:**

        A [`Rotation`][vitrail.Rotation] of queries and keys, or a [`RelativeBias`][vitrail.RelativeBias] of their
        scores, for all blocks or for each block; `None` for neither.
        """

    @abc.abstractmethod
    def resized(self, grid: tuple[int, int]) -> "AbstractPosition":
        """Resizes the position embedding to another grid.

        **Arguments:**

        - `grid`: rows and columns of patches of the new image size.

        **Returns:**

        The position embedding for that grid; itself if it fits every grid.
        """

    @abc.abstractmethod
    def with_class_token(self, row: Float[Array, " dim"] | None) -> "AbstractPosition":
        """Adds or removes the position of the class token, for `vitrail.replace`.

        **Arguments:**

        - `row`: the position of the class token that is added to the model; `None` if the class token is removed.

        **Returns:**

        The position embedding for tokens with, or without, a class token; itself if it has no position for one.
        """

    @abc.abstractmethod
    def with_registers(self, rows: Float[Array, "added dim"] | None, *, kept: int) -> "AbstractPosition":
        """Adds or removes the positions of registers, for `vitrail.replace`.

        **Arguments:**

        - `rows`: the positions of the registers that are added to the model after those that stay; `None` if none are
            added.
        - `kept`: how many of the first registers stay.

        **Returns:**

        The position embedding for tokens with those registers; itself if it has no positions for them.
        """


@dataclass(frozen=True, kw_only=True)
class PositionContext:
    """Describes the model that a position embedding is built for. A factory gets the fields that its signature
    names."""

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
    """How fresh weights are drawn."""

    def __post_init__(self) -> None:
        check_positive(dim=self.dim, grid=self.grid, head_dim=self.head_dim)
        check_positive(num_heads=self.num_heads, depth=self.depth)


PositionFactory = Callable[..., AbstractPosition]
"""A class or a function that makes a position embedding. It names what it needs: fields of `PositionContext`, and
`key`."""
