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
    """The base class of patch embeddings. A patch embedding turns an image into a grid of patch tokens.

    To write one, extend this class, decorate yours with `@final`, and pass it as `patch=`.
    [`check_patch_embed`][vitrail.testing.check_patch_embed] checks the whole contract.
    """

    reads_neighbours: ClassVar[bool] = False
    """Whether a token depends on pixels outside its patch. If it does, the model takes no `PatchedImage`."""

    @abc.abstractmethod
    def __call__(self, image: Float[Array, "height width channels"]) -> Float[Array, "rows cols dim"]:
        """Computes the patch tokens.

        **Arguments:**

        - `image`: one image, channels last. Its height and width are multiples of the patch size.

        **Returns:**

        One token for each patch.

        **Raises:** `ValueError` if the image does not divide into whole patches.
        """

    @abc.abstractmethod
    def resized(self, patch_size: tuple[int, int]) -> "AbstractPatchEmbed":
        """Resizes the patch embedding to other patches.

        **Arguments:**

        - `patch_size`: height and width of the new patches in pixels.

        **Returns:**

        The patch embedding for patches of that size.

        **Raises:** `ValueError` if the patch embedding cannot be resized.
        """

    @abc.abstractmethod
    def with_channels(self, mix: Float[Array, "new_channels channels"]) -> "AbstractPatchEmbed":
        """Changes the channels of the images, for `vitrail.replace`.

        **Arguments:**

        - `mix`: the weight of each new channel (rows) in each old channel (columns).

        **Returns:**

        The patch embedding for images of the new channels. Its tokens of `image` are those of this patch embedding for
        `image @ mix`.

        **Raises:** `ValueError` if there is no such patch embedding, because the first layer is not linear.
        """


@dataclass(frozen=True, kw_only=True)
class PatchContext:
    """Describes the model that a patch embedding is built for. A factory gets the fields that its signature names."""

    dim: int
    """The width of a token."""
    patch_size: tuple[int, int]
    """Height and width of a patch in pixels."""
    channels: int
    """The number of channels of an image."""
    init: Init
    """How fresh weights are drawn."""

    def __post_init__(self) -> None:
        check_positive(dim=self.dim, patch_size=self.patch_size, channels=self.channels)


PatchFactory = Callable[..., AbstractPatchEmbed]
"""A class or a function that makes a patch embedding. Its signature names what it needs: fields of
`PatchContext`, and `key`."""
