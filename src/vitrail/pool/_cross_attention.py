"""Attention of a few queries to the tokens."""

from typing import final

import equinox as eqx
import jax
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from .._check import check_heads, check_positive
from .._init import Init, each
from .._layers import Linear, attention_weights


@final
class CrossAttention(eqx.Module):
    """Multi-head attention of queries to tokens, with queries, keys, values and projection of the tokens' width."""

    q: Linear
    kv: Linear
    project: Linear
    num_heads: int = eqx.field(static=True)

    def __init__(self, dim: int, num_heads: int, *, init: Init, key: PRNGKeyArray):
        """**Arguments:**

        - `dim`: the width of a token and of a query.
        - `num_heads`: how many heads it is divided into.
        - `init`: draws the weights.
        - `key`: for the weights.

        **Raises:** `ValueError` where `dim` does not divide into heads.
        """
        check_heads("dim", dim, num_heads)
        q_key, kv_key, project_key = jax.random.split(key, 3)
        self.q = Linear(dim, dim, weight_init=init.attention, key=q_key)
        self.kv = Linear(dim, 2 * dim, weight_init=each(init.attention, 2), key=kv_key)
        self.project = Linear(dim, dim, weight_init=init.attention, key=project_key)
        self.num_heads = num_heads

    def __call__(
        self,
        queries: Float[Array, "queries dim"],
        tokens: Float[Array, "tokens dim"],
        mask: Bool[Array, " tokens"] | None,
    ) -> Float[Array, "queries dim"]:
        """**Arguments:**

        - `queries`: what asks.
        - `tokens`: what is asked.
        - `mask`: which tokens count; `None` for all.

        **Returns:**

        What each query gathers.
        """
        k, v = self.kv(tokens).reshape(tokens.shape[0], 2, self.num_heads, -1).transpose(1, 2, 0, 3)
        gathered = attention_weights(self._queries(queries), k, mask).astype(v.dtype) @ v
        return self.project(gathered.transpose(1, 0, 2).reshape(queries.shape))

    def weights(
        self,
        queries: Float[Array, "queries dim"],
        tokens: Float[Array, "tokens dim"],
        mask: Bool[Array, " tokens"] | None,
    ) -> Float[Array, "heads queries tokens"]:
        """**Arguments:** those of a call.

        **Returns:**

        How much each query takes from each token, by head, in float32 at least. Rows sum to one.
        """
        k = self.kv(tokens).reshape(tokens.shape[0], 2, self.num_heads, -1)[:, 0].transpose(1, 0, 2)
        return attention_weights(self._queries(queries), k, mask)

    def _queries(self, queries: Float[Array, "queries dim"]) -> Float[Array, "heads queries head_dim"]:
        return self.q(queries).reshape(queries.shape[0], self.num_heads, -1).transpose(1, 0, 2)


def default_heads(dim: int, num_heads: int | None) -> int:
    """The number of heads that was asked for, or one for each 64 channels; one in all where those do not divide."""
    if num_heads is None:
        return dim // 64 if dim % 64 == 0 else 1
    check_positive(num_heads=num_heads)
    return num_heads
