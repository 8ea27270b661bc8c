"""From pixels to patch tokens: of an image, and of the patches of one."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from .._check import check_all, check_image, describe_result, is_jax_array
from .._patched import PatchedImage
from ..patch import AbstractPatchEmbed


def embed_image(
    patch: AbstractPatchEmbed,
    image: Shaped[Array | np.ndarray, "..."],
    *,
    image_size: tuple[int, int],
    grid: tuple[int, int],
    channels: int,
    dim: int,
    dtype: jnp.dtype,
) -> Float[Array, "patches dim"]:
    """The tokens of an image, row by row.

    **Raises:** `ValueError` or `TypeError` if the image does not fit; `ValueError` if the patch embedding returns
    something else than tokens.
    """
    check_image(image, image_size, channels)
    tokens = patch(jnp.asarray(image, dtype))
    return _check_tokens(patch, tokens, (*grid, dim)).reshape(-1, dim)


def embed_patches(
    patch: AbstractPatchEmbed,
    image: PatchedImage,
    *,
    patch_size: tuple[int, int],
    channels: int,
    dim: int,
    dtype: jnp.dtype,
) -> Float[Array, "patches dim"]:
    """The tokens of the patches of an image, and of its padding, which is taken for zeros.

    **Raises:** `ValueError` if the image is a batch, has patches of another size or a grid of more cells than patches,
    or if the patch embedding reads neighbours; the grid is looked at when the program runs. And as `embed_image`.
    """
    if image.patches.ndim != 2:
        raise ValueError(
            f"image must be one PatchedImage, got a batch with patches of shape {image.patches.shape}: batch the model "
            "with jax.vmap(model)(images)"
        )
    height, width = patch_size
    number, values = image.patches.shape
    if values != height * width * channels:
        raise ValueError(
            f"image must have patches of {height} x {width} pixels and {channels} channels, which are "
            f"{height * width * channels} values, got {values}: pack the images with patch_size={patch_size}, that of "
            "the model"
        )
    if patch.reads_neighbours:
        raise ValueError(
            f"the patch embedding {type(patch).__name__} reads pixels around each patch, got a PatchedImage, which has "
            "patches alone: use an image, or a model with patch='conv'"
        )
    message = f"image must have a grid of 1 to {number} cells, as many as it has patches at most"
    cells = jnp.prod(image.grid)
    checked = check_all((cells >= 1) & (cells <= number), image.patches, message)
    own = jnp.where(image.mask[:, None], checked, jnp.zeros_like(checked)).astype(dtype)
    # One below the other they are an image, too, and no token of it depends on what stands beside its patch.
    tokens = patch(own.reshape(number * height, width, channels))
    return _check_tokens(patch, tokens, (number, 1, dim)).reshape(number, dim)


def _check_tokens(patch: AbstractPatchEmbed, tokens: Any, shape: tuple[int, ...]) -> Float[Array, "... dim"]:
    if not is_jax_array(tokens) or tokens.shape != shape:
        raise ValueError(
            f"the patch embedding {type(patch).__name__} must return (rows, cols, dim) = {shape}, got "
            f"{describe_result(tokens)}: fix that class"
        )
    return tokens
