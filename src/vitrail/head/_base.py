"""The contract of a head."""

import abc
from collections.abc import Callable
from dataclasses import dataclass

import equinox as eqx
from jaxtyping import Array, Float, PRNGKeyArray

from .._check import check_positive
from ..nn import Init


class AbstractHead(eqx.Module):
    """The base class of heads. A head turns what the pool returns into logits.

    To write one, extend this class, decorate yours with `@final`, and pass it as `head=`.
    [`check_head`][vitrail.testing.check_head] checks the whole contract.
    """

    dim: eqx.AbstractVar[int]
    """The width of the input: the pool's `out_dim`."""
    out_dim: eqx.AbstractVar[int]
    """The width of the output: the number of classes, if the head has classes."""

    @abc.abstractmethod
    def __call__(
        self, x: Float[Array, "*tokens {self.dim}"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "*tokens {self.out_dim}"]:
        """Computes the logits.

        **Arguments:**

        - `x`: the pooled vector, `(dim,)`; all tokens, `(tokens, dim)`, if the pool is `none`.
        - `key`: for what is random in training; `None` means inference.

        **Returns:**

        The logits, `(out_dim,)`; those of each token, `(tokens, out_dim)`, if the pool is `none`.
        """


@dataclass(frozen=True, kw_only=True)
class HeadContext:
    """Describes the model that a head is built for. A factory gets the fields that its signature names."""

    dim: int
    """The width of the input: the pool's `out_dim`."""
    num_classes: int | None
    """The number of classes; `None` for a head without classes."""
    token_dim: int
    """The width of a token."""
    init: Init
    """How fresh weights are drawn."""

    def __post_init__(self) -> None:
        check_positive(dim=self.dim, token_dim=self.token_dim)


HeadFactory = Callable[..., AbstractHead]
"""A class or a function that makes a head. Its signature names what it needs: fields of
`HeadContext`, and `key`."""
