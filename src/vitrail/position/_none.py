"""The position embedding `none`."""

from typing import final

from jaxtyping import Array, Float

from .._tokens import Tokens
from ..nn import Rotation
from ._base import AbstractPosition


@final
class NoPosition(AbstractPosition):
    """No position: the model does not know the order of the patches."""

    def __call__(self, tokens: Tokens) -> Tokens:
        return tokens

    def in_attention(self, tokens: Tokens) -> Rotation | None:
        return None

    def resized(self, grid: tuple[int, int]) -> "NoPosition":
        return self

    def with_class_token(self, row: Float[Array, " dim"] | None) -> "NoPosition":
        return self

    def with_registers(self, rows: Float[Array, "added dim"] | None, *, kept: int) -> "NoPosition":
        return self
