"""The pool `weighted`."""

from typing import Any, ClassVar, cast, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._tokens import Tokens
from ..nn import at_least_float32, masked_softmax, resample_at
from ._base import AbstractGridPool, AbstractWeighingPool
from ._read import read_patches, weigh_patches


@final
class WeightedPool(AbstractWeighingPool, AbstractGridPool):
    r"""A mean of the patches with one learned weight for each cell of the grid.

    $z = \sum_i a_i x_i$ with $a = \mathrm{softmax}(w)$.

    Use it if things always stand in the same place: centred digits, portraits, scans. It has one parameter for each
    cell, and is the mean at first. It needs no class token, and depends on the order of the patches.
    """

    scores: Float[Array, "rows cols"]
    out_dim: int = eqx.field(static=True)
    needs_class_token: ClassVar[bool] = False
    order_invariant: ClassVar[bool] = False

    def __init__(self, dim: int, *, grid: tuple[int, int]):
        """**Arguments:**

        - `dim`: the width of a token.
        - `grid`: rows and columns of patches.
        """
        self.scores = jnp.zeros(grid, jnp.float32)
        self.out_dim = dim

    def __call__(self, tokens: Tokens, *, key: PRNGKeyArray | None = None) -> Float[Array, " {self.out_dim}"]:
        return weigh_patches(tokens, self.weights(tokens))

    def weights(self, tokens: Tokens) -> Float[Array, "1 patches"]:
        """**Arguments:**

        - `tokens`: after the encoder.

        **Returns:**

        The weights of the patches, in one row that sums to one. On another grid than that of the pool, the scores
        before the softmax are interpolated bilinearly.
        """
        _, mask = read_patches(tokens)
        if tokens.own_grid is None:
            scores = tokens.at_places(self._resize(tokens.grid).reshape(-1, 1))
        else:
            table = self.scores.astype(at_least_float32(self.scores.dtype))[..., None]
            rows, cols = tokens.own_grid.astype(table.dtype)
            scores = resample_at(table, tokens.coordinates, (rows, cols), "bilinear_antialias")
        return masked_softmax(scores.T, mask)

    def resized(self, grid: tuple[int, int]) -> "WeightedPool":
        """**Arguments:**

        - `grid`: the new rows and columns.

        **Returns:**

        The pool with its scores interpolated bilinearly.
        """
        return eqx.tree_at(_get_scores, self, self._resize(grid))

    def _resize(self, grid: tuple[int, int]) -> Float[Array, "rows cols"]:
        scores = self.scores.astype(at_least_float32(self.scores.dtype))
        return scores if scores.shape == grid else cast(Array, jax.image.resize(scores, grid, "linear"))


# Equinox passes a placeholder to this, so no narrower type holds.
def _get_scores(pool: Any) -> Any:
    return pool.scores
