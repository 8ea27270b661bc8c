"""Principal components of patch tokens, as colours."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped

from ..model import ViT
from ..train import check_outputs

_QUANTILES = (0.01, 0.99)
"""What is drawn as none and as all of a colour: a few patches are far from all others."""


def compute_components(
    model: ViT, images: Shaped[Array | np.ndarray, "images height width channels"], *, foreground: bool = False
) -> Float[np.ndarray, "images rows cols 3"]:
    """Computes the first three principal components of the patch tokens of several images, as red, green and blue.

    The components are those of all images together, so similar tokens have similar colours in all images. Each
    component is scaled so that its 1st and 99th percentiles become 0 and 1. The sign of a component is arbitrary; here
    the largest weight of a channel is positive.

    ??? cite

        Oquab et al., *DINOv2: Learning Robust Visual Features without Supervision*, 2023, arXiv:2304.07193, section 7
        and figure 1.

    **Arguments:**

    - `model`: a ViT.
    - `images`: the images, `Float[Array, "images height width channels"]`, prepared for the model.
    - `foreground`: whether to leave out the background, as in DINOv2. The sign of the first component divides the
        patches in two; the side with most patches at the edges of the images is the background. The components are then
        those of the other patches.

    **Returns:**

    Colours in [0, 1]; zeros for the background.

    **Raises:** `FloatingPointError` if tokens are not finite; what calling the model raises.
    """
    tokens = np.stack([np.asarray(_compute_patches(model, image), np.float32) for image in images])
    check_outputs("patch tokens", tokens.reshape(len(tokens), -1))
    grid = model.backbone.grid
    rows = tokens.reshape(-1, tokens.shape[-1]).astype(np.float64)
    kept = np.ones(len(rows), bool)
    if foreground:
        first = _project(rows, 1)[:, 0]
        kept = first > 0
        edge = np.ones((len(tokens), *grid), bool)
        edge[:, 1:-1, 1:-1] = False
        if np.mean(kept[edge.ravel()]) > 0.5:
            kept = ~kept
    colours = np.zeros((len(rows), 3))
    colours[kept] = _scale(_project(rows[kept], 3))
    return colours.reshape(len(tokens), *grid, 3)


@eqx.filter_jit
def _compute_patches(
    model: ViT, image: Shaped[Array | np.ndarray, "height width channels"]
) -> Float[Array, "patches dim"]:
    return model.backbone(image).patches.astype(jnp.float32)


def _project(rows: Float[np.ndarray, "tokens dim"], number: int) -> Float[np.ndarray, "tokens number"]:
    """The first principal components of each row; zeros if there are fewer."""
    centred = rows - rows.mean(axis=0, keepdims=True) if len(rows) else rows
    _, directions = np.linalg.eigh(centred.T @ centred)
    first = directions[:, ::-1][:, :number]
    signs = np.sign(first[np.argmax(np.abs(first), axis=0), np.arange(first.shape[1])])
    return np.pad(centred @ (first * signs), ((0, 0), (0, number - first.shape[1])))


def _scale(components: Float[np.ndarray, "tokens 3"]) -> Float[np.ndarray, "tokens 3"]:
    """Components as colours. One that is the same for all tokens is half of its colour."""
    if not len(components):
        return components
    low, high = np.quantile(components, _QUANTILES, axis=0)
    spread: Bool[np.ndarray, " 3"] = high - low > 1e-12
    return np.where(spread, np.clip((components - low) / np.where(spread, high - low, 1), 0, 1), 0.5)
