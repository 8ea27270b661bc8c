"""The contract of a patch embedding."""

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import equinox as eqx
from jaxtyping import Array, Float

from .._check import check_positive
from ..nn import Init


class AbstractPatchEmbed(eqx.Module):
    """Turns an image into a grid of patch tokens. Extend it, make it `@final`, and pass it as `patch=`."""

    reads_neighbours: ClassVar[bool] = False
    """Whether a token may depend on pixels around its patch. If so, the model takes no `PatchedImage`."""

    @abc.abstractmethod
    def __call__(self, image: Float[Array, "height width channels"]) -> Float[Array, "rows cols dim"]:
        """**Arguments:**

        - `image`: one image, channels last. Its height and width are multiples of the patch size.

        **Returns:**

        One token for each patch.

        **Raises:** `ValueError` if the image does not divide into whole patches.
        """

    @abc.abstractmethod
    def resized(self, patch_size: tuple[int, int]) -> "AbstractPatchEmbed":
        """**Arguments:**

        - `patch_size`: height and width of the new patches in pixels.

        **Returns:**

        The patch embedding for patches of that size.

        **Raises:** `ValueError` if the patch embedding cannot be resized.
        """

    @abc.abstractmethod
    def with_channels(self, mix: Float[Array, "new_channels channels"]) -> "AbstractPatchEmbed":
        """**Arguments:**

        - `mix`: how much of each new channel is in each channel that the patch embedding reads.

        **Returns:**

        The patch embedding for images of the new channels, which does to `image` what this one does to `image @ mix`.

        **Raises:** `ValueError` if there is none, because its first layer is not linear.
        """


@dataclass(frozen=True, kw_only=True)
class PatchContext:
    """What a patch embedding is built for. Its class gets the fields that its signature names."""

    dim: int
    """The width of a token."""
    patch_size: tuple[int, int]
    """Height and width of a patch in pixels."""
    channels: int
    """The number of channels of an image."""
    init: Init
    """The scheme that fresh weights are drawn by."""

    def __post_init__(self) -> None:
        check_positive(dim=self.dim, patch_size=self.patch_size, channels=self.channels)


PatchFactory = Callable[..., AbstractPatchEmbed]
"""A class or a function that makes a patch embedding. It names what it needs: fields of `PatchContext`, and `key`."""
