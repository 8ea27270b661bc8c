"""The contract of a patch embedding."""

import abc
from typing import Protocol, runtime_checkable

import equinox as eqx
from jaxtyping import Array, Float, PRNGKeyArray

from .._init import Init


class AbstractPatchEmbed(eqx.Module):
    """Turns an image into a grid of patch tokens. Extend it, make it `@final`, and pass it as `patch=`."""

    @abc.abstractmethod
    def __call__(self, image: Float[Array, "height width channels"]) -> Float[Array, "rows cols dim"]:
        """**Arguments:**

        - `image`: one image, channels last; its height and width are multiples of the patch size.

        **Returns:**

        One token for each patch: `rows` is the height divided by that of a patch, `cols` the same of the widths.
        """

    @abc.abstractmethod
    def resized(self, patch_size: tuple[int, int]) -> "AbstractPatchEmbed":
        """**Arguments:**

        - `patch_size`: height and width of the new patches in pixels.

        **Returns:**

        The patch embedding for patches of that size.

        **Raises:** `ValueError` where there is no rule for it.
        """


@runtime_checkable
class PatchFactory(Protocol):
    """What `PATCHES` holds: a class, or a function, that makes a patch embedding."""

    def __call__(
        self, dim: int, *, patch_size: tuple[int, int], channels: int, init: Init, key: PRNGKeyArray
    ) -> AbstractPatchEmbed: ...
