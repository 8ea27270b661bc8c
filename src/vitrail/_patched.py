"""Images of native aspect: `PatchedImage`, and `pack`, which brings images of different shapes into one batch."""

from collections.abc import Sequence
from typing import final

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from ._check import check_divisible, check_image, check_positive


@final
class PatchedImage(eqx.Module):
    """The patches of an image of any shape. A model takes it in place of an image.

    Its grid is an array, so that one compiled program takes images of any shape. [`pack`][vitrail.pack] makes a batch,
    whose arrays have a leading axis, for `jax.vmap(model)(batch)`.

    ??? cite

        Dehghani et al., *Patch n' Pack: NaViT*, NeurIPS 2023, arXiv:2307.06304; Tschannen et al., *SigLIP 2*, 2025,
        arXiv:2502.14786, section 2.4.2 (NaFlex).
    """

    patches: Float[Array, "*batch patches values"]
    grid: Int[Array, "*batch 2"]

    def __init__(self, patches: Float[Array, "*batch patches values"], grid: Int[Array, "*batch 2"]):
        """**Arguments:**

        - `patches`: the patches row by row, each with `height * width * channels` values in this order, then padding.
        - `grid`: rows and columns of patches.
        """
        self.patches = patches
        self.grid = grid

    @property
    def mask(self) -> Bool[Array, "*batch patches"]:
        """True for each patch of the image, false for padding."""
        shape = self.patches.shape[:-1]
        counts = jnp.broadcast_to(jnp.prod(self.grid, axis=-1, keepdims=True), shape)
        return jnp.broadcast_to(jnp.arange(shape[-1]), shape) < counts


def pack(
    images: Sequence[Shaped[Array | np.ndarray, "..."]], patch_size: int | tuple[int, int], max_patches: int
) -> PatchedImage:
    """Cuts images of different sizes and shapes into patches, and pads them to the same number.

    !!! example

        ```python
        card = vitrail.model_card("siglip2-naflex/")
        batch = vitrail.pack([card.preprocess(photo) for photo in photos], patch_size=16, max_patches=256)
        embeddings = vitrail.compile(model)(batch)
        ```

    **Arguments:**

    - `images`: the images, each `Float[Array, "height width channels"]`. All have the same channels. Height and width
        are multiples of the patch size.
    - `patch_size`: height and width of a patch in pixels; one number for a square.
    - `max_patches`: the number of patches that each image is padded to.

    **Returns:**

    A `PatchedImage` whose arrays have a leading axis over the images.

    **Raises:** `ValueError` or `TypeError` if there are no images, or if an image is not floating point, does not
    divide into patches, or has more than `max_patches`.
    """
    size = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
    check_positive(patch_size=size, max_patches=max_patches)
    if not images:
        raise ValueError("images must have at least one image, got none")
    cut = [_cut(np.asarray(image), size, np.asarray(images[0]).shape[-1]) for image in images]
    for number, (grid, patches) in enumerate(cut):
        if len(patches) > max_patches:
            raise ValueError(
                f"images must have at most max_patches={max_patches} patches each, got {grid[0]} x {grid[1]} = "
                f"{len(patches)} in image {number}: resize it first, as Preprocess(fit='native', ...) does, or raise "
                "max_patches"
            )
    padded = [np.pad(patches, ((0, max_patches - len(patches)), (0, 0))) for _, patches in cut]
    return PatchedImage(jnp.asarray(np.stack(padded)), jnp.asarray([grid for grid, _ in cut]))


def _cut(
    image: Shaped[np.ndarray, "..."], patch_size: tuple[int, int], channels: int
) -> tuple[tuple[int, int], Float[np.ndarray, "patches values"]]:
    """Rows and columns of patches, and the patches."""
    check_image(image, None, channels)
    check_divisible("image", image.shape[:2], patch_size)
    height, width = patch_size
    rows, cols = image.shape[0] // height, image.shape[1] // width
    patches = image.reshape(rows, height, cols, width, channels).transpose(0, 2, 1, 3, 4)
    return (rows, cols), patches.reshape(rows * cols, height * width * channels)
