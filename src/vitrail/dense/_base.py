"""The contract of a dense readout."""

import abc
from collections.abc import Callable
from dataclasses import dataclass

import equinox as eqx
from jaxtyping import Array, Float, PRNGKeyArray

from .._check import check_positive
from .._tokens import Tokens
from ..nn import Init


class AbstractDenseReadout(eqx.Module):
    """The base class of dense readouts. A dense readout turns the tokens of some blocks into a map: the scores of
    classes for each pixel, or its depth.

    To write one, extend this class, decorate yours with `@final`, and pass it as `readout=`.
    [`check_readout`][vitrail.testing.check_readout] checks the whole contract.
    """

    layers: eqx.AbstractVar[tuple[int, ...]]
    """The blocks whose tokens are read, counted from zero, or from the end if negative."""
    norm: eqx.AbstractVar[bool]
    """Whether the final norm of the backbone is applied to these tokens."""
    out_dim: eqx.AbstractVar[int]
    """The number of channels of the map."""

    @abc.abstractmethod
    def __call__(
        self, tokens: Tokens, *, image_size: tuple[int, int], key: PRNGKeyArray | None = None
    ) -> Float[Array, "height width {self.out_dim}"]:
        """**Arguments:**

        - `tokens`: of one image, with a leading axis over `layers`. Every cell of the grid has its patch token.
        - `image_size`: height and width of the image in pixels.
        - `key`: for what is random in training; `None` means inference.

        **Returns:**

        The map, in the dtype of the tokens. It has the size of the image, or another size that the readout documents.

        **Raises:** `ValueError` if the tokens lack a class token that the readout reads.
        """


@dataclass(frozen=True, kw_only=True)
class DenseContext:
    """Describes the model that a dense readout is built for. A factory gets the fields that its signature names."""

    dim: int
    """The width of a token within the encoder."""
    depth: int
    """The number of blocks."""
    class_token: bool
    """Whether there is a class token."""
    num_classes: int | None
    """The number of classes of a pixel; `None` for one channel of numbers, as a depth."""
    init: Init
    """How fresh weights are drawn."""

    def __post_init__(self) -> None:
        check_positive(dim=self.dim, depth=self.depth)
        if self.num_classes is not None:
            check_positive(num_classes=self.num_classes)


DenseReadoutFactory = Callable[..., AbstractDenseReadout]
"""A class or a function that makes a dense readout. Its signature names what it needs: fields of
`DenseContext`, and `key`."""


def check_layers(layers: tuple[int, ...], depth: int) -> None:
    """Raises a `ValueError` if there are no layers, or one of them is not a block."""
    if not layers or not all(-depth <= layer < depth for layer in layers):
        raise ValueError(
            f"layers must be numbers of blocks from {-depth} to {depth - 1}, at least one, got {layers}: count from 0, "
            "or from the end with -1"
        )


def check_class_token(name: str, class_token: bool) -> None:
    """Raises a `ValueError` for an option that reads a class token where there is none."""
    if not class_token:
        raise ValueError(
            f"{name} reads the class token, got a model without one: leave the option out, or build the image model "
            "with class_token=True"
        )
