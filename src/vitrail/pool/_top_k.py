"""The pool `top_k`."""

from typing import ClassVar, Literal, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._check import check_positive
from .._tokens import Tokens
from ..nn import BIG_VISION, Init, Linear, at_least_float32, masked_softmax
from ._base import AbstractWeighingPool
from ._read import read_patches, weigh_patches


@final
class TopKPool(AbstractWeighingPool):
    r"""The mean of the $k$ patches with the largest norm, or with the largest learned score.

    With the criterion `"norm"` it is $z = \frac{1}{k} \sum_{i \in T} x_i$, $T$ the $k$ largest $\lVert x_i \rVert$, and
    has no parameters. With `"score"` it is $z = \sum_{i \in T} a_i x_i$, $T$ the $k$ largest $s_i = w^\top x_i$ and
    $a = \mathrm{softmax}_{i \in T}(s_i)$, through which $w$ learns; it has $d$ parameters for the width $d$.

    Use it if the object is small and the background large. In large models without registers the patches with the
    largest norm are often artefacts. It needs no class token.

    ??? cite

        Scores: Gao and Ji, *Graph U-Nets*, ICML 2019, arXiv:1905.05178, with a softmax for its gate. Norms: Darcet et
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
        criterion: Literal["norm", "score"] = "norm",
        init: Init = BIG_VISION,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `dim`: the width of a token.
        - `k`: how many patches count; all if there are fewer.
        - `criterion`: what the patches are ranked by: their `"norm"`, or a learned `"score"`.
        - `init`: draws the weight of the score like that of an MLP.
        - `key`: for that weight.

        **Raises:** `ValueError` if `k` is not positive.
        """
        check_positive(k=k)
        learned = criterion == "score"
        self.score = Linear(dim, 1, weight_init=init.mlp, bias_init=None, key=key) if learned else None
        self.k = k
        self.out_dim = dim

    def __call__(self, tokens: Tokens, *, key: PRNGKeyArray | None = None) -> Float[Array, " {self.out_dim}"]:
        return weigh_patches(tokens, self.weights(tokens))

    def weights(self, tokens: Tokens) -> Float[Array, "1 patches"]:
        patches, mask = read_patches(tokens)
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
