"""Pools that weigh patches by where they lie, or keep the best of them."""

from typing import Any, ClassVar, Literal, cast, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._check import check_positive
from .._init import BIG_VISION, Init
from .._layers import Linear, at_least_float32, masked_softmax
from .._tokens import Tokens
from ._base import AbstractGridPool, AbstractWeighingPool
from ._mask import kept_patches


@final
class WeightedPool(AbstractWeighingPool, AbstractGridPool):
    r"""A mean of the patches with one learned weight for each position.

    $z = \sum_i a_i x_i$ with $a = \mathrm{softmax}(w)$.

    Pick it where things always lie in the same place: centred digits, portraits, scans. It has one parameter for each
    patch, and is the mean at first; it needs no class token. It depends on the order of the patches: on where they lie.
    """

    scores: Float[Array, "rows cols"]
    out_dim: int = eqx.field(static=True)
    needs_class_token: ClassVar[bool] = False
    order_invariant: ClassVar[bool] = False

    def __init__(self, dim: int, *, grid: tuple[int, int] = (14, 14), key: PRNGKeyArray | None = None):
        """**Arguments:**

        - `dim`: the width of a token.
        - `grid`: rows and columns of patches; the model passes its own.
        - `key`: part of the contract; nothing is random here.
        """
        check_positive(dim=dim, grid=grid)
        self.scores = jnp.zeros(grid, jnp.float32)
        self.out_dim = dim

    def __call__(self, tokens: Tokens, *, key: PRNGKeyArray | None = None) -> Float[Array, " {self.out_dim}"]:
        """**Arguments:**

        - `tokens`: after the encoder.
        - `key`: part of the contract; nothing is random here.

        **Returns:**

        One vector.
        """
        patches, _ = kept_patches(tokens)
        return self.weights(tokens)[0].astype(patches.dtype) @ patches

    def weights(self, tokens: Tokens) -> Float[Array, "maps patches"]:
        """**Arguments:**

        - `tokens`: after the encoder.

        **Returns:**

        How much each patch counts, in one row that sums to one. On another grid than it was made for,
        the scores before the softmax are interpolated bilinearly.
        """
        _, mask = kept_patches(tokens)
        scores = self._scores(tokens.grid).reshape(-1, 1)
        return masked_softmax(tokens.at_places(scores).T, mask)

    def resized(self, grid: tuple[int, int]) -> "WeightedPool":
        """**Arguments:**

        - `grid`: the new rows and columns.

        **Returns:**

        The pool with its scores interpolated bilinearly.
        """
        return eqx.tree_at(_scores, self, self._scores(grid))

    def _scores(self, grid: tuple[int, int]) -> Float[Array, "rows cols"]:
        scores = self.scores.astype(at_least_float32(self.scores.dtype))
        return scores if scores.shape == grid else cast(Array, jax.image.resize(scores, grid, "linear"))


# Equinox passes a placeholder to this, so that no narrower type holds.
def _scores(pool: Any) -> Any:
    return pool.scores


@final
class TopKPool(AbstractWeighingPool):
    r"""The mean of the $k$ patches of the largest norm, or of the largest learned score.

    By norm it is $z = \frac{1}{k} \sum_{i \in T} x_i$ with $T$ the $k$ largest $\lVert x_i \rVert$, and has no
    parameters. By score it is $z = \sum_{i \in T} a_i x_i$ with $T$ the $k$ largest $s_i = w^\top x_i$ and $a =
    \mathrm{softmax}_{i \in T}(s_i)$, through which $w$ learns; it has $d$ parameters for the width $d$.

    Pick it where the object is small and the background large. Beware that the patches of the largest norm are often
    artefacts in large models without registers. It needs no class token, and does not depend on the order of the
    patches, unless two tie for the last place.

    ??? cite

        By score: Gao and Ji, *Graph U-Nets*, ICML 2019, arXiv:1905.05178, with a softmax for its gate; norms: Darcet et
        al., *Vision Transformers Need Registers*, ICLR 2024, arXiv:2309.16588.
    """

    score: Linear | None
    k: int = eqx.field(static=True)
    out_dim: int = eqx.field(static=True)
    needs_class_token: ClassVar[bool] = False
    order_invariant: ClassVar[bool] = True

    def __init__(
        self,
        dim: int,
        *,
        k: int = 8,
        by: Literal["norm", "score"] = "norm",
        init: Init = BIG_VISION,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `dim`: the width of a token.
        - `k`: how many patches count; all of them where there are fewer.
        - `by`: what makes a patch large.
        - `init`: draws the weight of the score like that of an MLP.
        - `key`: for that weight.

        **Raises:** `ValueError` where `k` is not positive.
        """
        check_positive(dim=dim, k=k)
        self.score = Linear(dim, 1, weight_init=init.mlp, bias_init=None, key=key) if by == "score" else None
        self.k = k
        self.out_dim = dim

    def __call__(self, tokens: Tokens, *, key: PRNGKeyArray | None = None) -> Float[Array, " {self.out_dim}"]:
        """**Arguments:**

        - `tokens`: after the encoder.
        - `key`: part of the contract; nothing is random here.

        **Returns:**

        One vector.
        """
        patches, _ = kept_patches(tokens)
        return self.weights(tokens)[0].astype(patches.dtype) @ patches

    def weights(self, tokens: Tokens) -> Float[Array, "maps patches"]:
        """**Arguments:**

        - `tokens`: after the encoder.

        **Returns:**

        How much each patch counts, in one row that sums to one: zero but for the `k` largest.
        """
        patches, mask = kept_patches(tokens)
        wide = patches.astype(at_least_float32(patches.dtype))
        if self.score is None:
            sizes = jnp.linalg.vector_norm(jax.lax.stop_gradient(wide), axis=-1)
            scores = jnp.zeros_like(sizes)
        else:
            sizes = scores = self.score(patches)[:, 0].astype(wide.dtype)
        if mask is not None:
            sizes = jnp.where(mask, sizes, -jnp.inf)
        _, largest = jax.lax.top_k(sizes, min(self.k, sizes.shape[0]))
        chosen = jnp.zeros(sizes.shape, bool).at[largest].set(True)
        return masked_softmax(scores[None], chosen if mask is None else chosen & mask)
