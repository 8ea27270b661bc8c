"""The contract of a head."""

import abc
from collections.abc import Callable
from dataclasses import dataclass

import equinox as eqx
from jaxtyping import Array, Float, PRNGKeyArray

from .._check import check_positive
from ..nn import Init


class AbstractHead(eqx.Module):
    """Turns what the pool returns into logits. Extend it, make it `@final`, and pass it as `head=`."""

    dim: eqx.AbstractVar[int]
    """The width of the input: the pool's `out_dim`."""
    out_dim: eqx.AbstractVar[int]
    """The width of the output: the number of classes, if the head classifies."""

    @abc.abstractmethod
    def __call__(
        self, x: Float[Array, "*tokens {self.dim}"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "*tokens {self.out_dim}"]:
        """**Arguments:**

        - `x`: the pooled vector; all tokens if the pool is `none`.
        - `key`: for what is random in training; `None` means inference.

        **Returns:**

        The logits, or the logits of each token.
        """


@dataclass(frozen=True, kw_only=True)
class HeadContext:
    """What a head is built for. Its class gets the fields that its signature names."""

    dim: int
    """The width of the input: the pool's `out_dim`."""
    num_classes: int | None
    """The number of classes; `None` for a head without classes."""
    token_dim: int
    """The width of a token."""
    init: Init
    """The scheme that fresh weights are drawn by."""

    def __post_init__(self) -> None:
        check_positive(dim=self.dim, token_dim=self.token_dim)


HeadFactory = Callable[..., AbstractHead]
"""A class or a function that makes a head. It names what it needs: fields of `HeadContext`, and `key`."""
