"""The contract of a head."""

import abc
from typing import Protocol, runtime_checkable

import equinox as eqx
from jaxtyping import Array, Float, PRNGKeyArray

from .._init import Init


class AbstractHead(eqx.Module):
    """Turns what the pool gives into logits. Extend it, make it `@final`, and pass it as `head=`."""

    dim: eqx.AbstractVar[int]
    """The width of what comes in: the pool's `out_dim`."""
    out_dim: eqx.AbstractVar[int]
    """The width of what comes out: the number of classes, where the head classifies."""

    @abc.abstractmethod
    def __call__(
        self, x: Float[Array, "*tokens {self.dim}"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "*tokens {self.out_dim}"]:
        """**Arguments:**

        - `x`: the pooled vector, or all tokens where the pool is `none`.
        - `key`: for what is random in training; `None` means inference.

        **Returns:**

        The logits, for each token where there are tokens.
        """


@runtime_checkable
class HeadFactory(Protocol):
    """What `HEADS` holds: a class, or a function, that makes a head."""

    def __call__(self, dim: int, *, num_classes: int | None, init: Init, key: PRNGKeyArray) -> AbstractHead: ...


def check_num_classes(num_classes: int | None) -> int:
    """The number of classes, or a `ValueError` where a head that classifies got none."""
    if num_classes is None or isinstance(num_classes, bool) or num_classes < 1:
        raise ValueError(
            f"num_classes must be a positive whole number for a head that classifies, but {num_classes} came: "
            "pass num_classes, or take head='none' for the pooled vector itself"
        )
    return num_classes
