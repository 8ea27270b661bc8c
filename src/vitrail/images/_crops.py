"""Random crops of images: several views of each, as self-supervised training compares them."""

import math
from dataclasses import dataclass
from typing import Final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._check import check_positive, check_range

ATTEMPTS: Final = 10
"""How many boxes are drawn until one fits."""


@dataclass(frozen=True, kw_only=True)
class Crops:
    """Random crops of images, resized to one size: several crops of each image, as by torchvision's
    `RandomResizedCrop`.

    DINO compares two large crops with several small ones:

    ```python
    large = Crops(number=2, size=(224, 224), scale=(0.32, 1.0))
    small = Crops(number=8, size=(96, 96), scale=(0.05, 0.32))
    ```

    ??? cite

        Caron et al., *Unsupervised Learning of Visual Features by Contrasting Cluster Assignments*, 2020,
        arXiv:2006.09882, section 3.2.
    """

    number: int
    """How many crops of each image."""
    size: tuple[int, int]
    """Height and width of the crops in pixels."""
    scale: tuple[float, float] = (0.08, 1.0)
    """The smallest and the largest share of the image's area."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """The smallest and the largest ratio of width to height."""
    flip: bool = True
    """Whether a crop is mirrored left to right with probability one half."""

    def __post_init__(self) -> None:
        check_positive(number=self.number, size=self.size)
        check_range(1.0, scale=self.scale)
        check_range(ratio=self.ratio)

    def __call__(
        self, images: Float[Array, "batch height width channels"], *, key: PRNGKeyArray
    ) -> Float[Array, "crops batch new_height new_width channels"]:
        """Crops a batch of images at random, with one bicubic interpolation with antialiasing.

        **Arguments:**

        - `images`: the images.
        - `key`: for the crops.

        **Returns:**

        The crops, all of `size`.
        """
        keys = jax.random.split(key, (self.number, len(images)))

        def crop(image: Float[Array, "height width channels"], key: PRNGKeyArray) -> Float[Array, "rows cols channels"]:
            box_key, flip_key = jax.random.split(key)
            made = self.cut(image, self._draw_box(image.shape[0], image.shape[1], box_key))
            return jnp.where(self.flip & jax.random.bernoulli(flip_key), made[:, ::-1], made)

        return jax.vmap(jax.vmap(crop), in_axes=(None, 0))(images, keys)

    def cut(
        self, image: Float[Array, "height width channels"], box: Float[Array, " 4"]
    ) -> Float[Array, "new_height new_width channels"]:
        """Cuts a box out of an image and resizes it.

        **Arguments:**

        - `image`: one image.
        - `box`: top, left, height and width of the box in whole pixels.

        **Returns:**

        What is inside the box, at the size of the crops.
        """
        top, left, tall, wide = box
        rows = _interpolate(top, tall, image.shape[0], self.size[0])
        cols = _interpolate(left, wide, image.shape[1], self.size[1])
        return jnp.einsum("yh,hwc,xw->yxc", rows, image, cols, precision="highest")

    def _draw_box(self, height: int, width: int, key: PRNGKeyArray) -> Float[Array, " 4"]:
        """The first of ten boxes that fits into the image, or else the largest in the middle that has such a ratio."""
        area_key, ratio_key, place_key = jax.random.split(key, 3)
        low, high = self.scale
        areas = height * width * jax.random.uniform(area_key, (ATTEMPTS,), minval=low, maxval=high)
        low, high = (math.log(number) for number in self.ratio)
        ratios = jnp.exp(jax.random.uniform(ratio_key, (ATTEMPTS,), minval=low, maxval=high))
        wide, tall = jnp.round(jnp.sqrt(areas * ratios)), jnp.round(jnp.sqrt(areas / ratios))
        fits = (wide > 0) & (wide <= width) & (tall > 0) & (tall <= height)
        first = jnp.argmax(fits)
        down, across = jax.random.uniform(place_key, (2,))
        tall, wide = tall[first], wide[first]
        drawn = jnp.floor(down * (height - tall + 1)), jnp.floor(across * (width - wide + 1)), tall, wide
        whole = jnp.asarray(find_middle(height, width, self.ratio), jnp.float32)
        return jnp.where(jnp.any(fits), jnp.stack(drawn), whole)


def find_middle(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    """The largest box in the middle of an image whose ratio of width to height is in a range: top, left, height and
    width."""
    low, high = ratio
    tall, wide = min(height, round(width / low)), min(width, round(height * high))
    return (height - tall) // 2, (width - wide) // 2, tall, wide


def _interpolate(start: Float[Array, ""], length: Float[Array, ""], old: int, new: int) -> Float[Array, "new old"]:
    """How much each sample of a resized part of an axis takes from each sample of the axis.

    Source: Keys's cubic convolution (1981) with a = -0.5, stretched where it makes smaller, as in Pillow and PyTorch.
    """
    step = length / new
    stretch = jnp.maximum(step, 1.0)
    centres = start + (jnp.arange(new, dtype=jnp.float32) + 0.5) * step - 0.5
    samples = jnp.arange(old, dtype=jnp.float32)
    x = jnp.abs(samples[None] - centres[:, None]) / stretch
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weights = jnp.where(x <= 1, near, jnp.where(x < 2, far, 0.0))
    weights = jnp.where((samples >= start) & (samples < start + length), weights, jnp.zeros_like(weights))
    return weights / jnp.sum(weights, axis=1, keepdims=True)
