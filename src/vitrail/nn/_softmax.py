"""The softmax of attention."""

from typing import Final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ._dtype import at_least_float32

_NEVER: Final = -1e30
"""The score of a token that gets no weight."""


def attention_weights(
    q: Float[Array, "heads queries head_dim"],
    k: Float[Array, "heads tokens head_dim"],
    mask: Bool[Array, " tokens"] | Bool[Array, "queries tokens"] | None = None,
    bias: Float[Array, "heads queries tokens"] | None = None,
) -> Float[Array, "heads queries tokens"]:
    """How much each query takes from each token, at least in float32: the softmax of their scaled products.

    A token gets nothing where `mask` is false; `bias` is added to the scaled products.
    """
    scores = jnp.einsum("hqd,hkd->hqk", q / q.shape[-1] ** 0.5, k, preferred_element_type=at_least_float32(q.dtype))
    if bias is not None:
        scores = scores + bias.astype(scores.dtype)
    return masked_softmax(scores, mask)


def masked_softmax(
    scores: Float[Array, "*shape"], mask: Bool[Array, "..."] | None, *, axis: int = -1
) -> Float[Array, "*shape"]:
    """The softmax over the tokens for which `mask` is true, or over all if it is `None`; other tokens get zero. The
    tokens are along `axis`."""
    if mask is None:
        return jax.nn.softmax(scores, axis=axis)
    mask = jnp.broadcast_to(mask, scores.shape)
    # With -inf a row without any token would be NaN, and so would its gradient.
    weights = jax.nn.softmax(jnp.where(mask, scores, _NEVER), axis=axis)
    return jnp.where(mask, weights, jnp.zeros_like(weights))
