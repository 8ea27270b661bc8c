"""Random changes of training images that keep their class."""

from dataclasses import dataclass, fields
from typing import cast

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float, PRNGKeyArray

from .._check import check_not_negative


@dataclass(frozen=True)
class Augmentation:
    """Random rotation, shift, scaling and mirroring of training images.

    Each image gets its own amounts, drawn uniformly. The default changes nothing. Choose changes that keep the class of
    your images: a mirrored cat is a cat, but a mirrored 3 is not a digit.
    """

    rotate: float = 0.0
    """The largest rotation in either direction, in degrees."""
    shift: float = 0.0
    """The largest shift up or down, as a fraction of the height, and left or right, as a fraction of the width."""
    scale: float = 0.0
    """The range of the factors of height and width, drawn for each: 0.1 for a factor between `exp(-0.1)`, 0.90, and
    `exp(0.1)`, 1.11."""
    flip: bool = False
    """Mirror an image left to right with probability one half."""

    def __post_init__(self) -> None:
        check_not_negative(rotate=self.rotate, shift=self.shift, scale=self.scale)

    def __repr__(self) -> str:
        """Only what is not a default."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        changed = [
            f"{field.name}={values[field.name]!r}" for field in fields(self) if values[field.name] != field.default
        ]
        return f"Augmentation({', '.join(changed)})"

    def __call__(
        self, images: Float[Array, "batch height width channels"], *, key: PRNGKeyArray
    ) -> Float[Array, "batch height width channels"]:
        """Changes a batch of images, with one bilinear interpolation. Outside of an image its edge is repeated.

        **Arguments:**

        - `images`: the images.
        - `key`: for the amounts.

        **Returns:**

        The changed images.
        """
        if self == Augmentation():
            return images
        amounts = jax.random.uniform(key, (len(images), 6), minval=-1.0, maxval=1.0)
        return jax.vmap(self._warp)(images, amounts)

    def _warp(
        self, image: Float[Array, "height width channels"], amounts: Float[Array, " 6"]
    ) -> Float[Array, "height width channels"]:
        turn, down, right, taller, wider, mirror = amounts
        height, width, _ = image.shape
        angle = jnp.deg2rad(self.rotate * turn)
        # For each pixel of the result its source, counted from the centre.
        y, x = jnp.meshgrid(_count_from_centre(height), _count_from_centre(width), indexing="ij")
        if self.flip:
            x = x * jnp.where(mirror > 0, 1.0, -1.0)
        rows = (jnp.cos(angle) * y - jnp.sin(angle) * x) * jnp.exp(self.scale * taller)
        cols = (jnp.sin(angle) * y + jnp.cos(angle) * x) * jnp.exp(self.scale * wider)
        rows = rows + self.shift * height * down + (height - 1) / 2
        cols = cols + self.shift * width * right + (width - 1) / 2

        def sample(channel: Float[Array, "height width"]) -> Float[Array, "height width"]:
            return cast(Array, map_coordinates(channel, [rows, cols], order=1, mode="nearest"))

        return jax.vmap(sample, in_axes=-1, out_axes=-1)(image)


def _count_from_centre(length: int) -> Float[Array, " length"]:
    return jnp.arange(length, dtype=jnp.float32) - (length - 1) / 2
