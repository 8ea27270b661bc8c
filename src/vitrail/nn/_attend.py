"""The ways to compute attention, given the queries, keys and values of all heads."""

from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ._intermediates import NO_TAP, Tap
from ._softmax import attention_weights

Mask = Bool[Array, " tokens"] | Bool[Array, "queries tokens"]
"""True for each token that counts, for all queries alike or for each query."""
Bias = Callable[[Float[Array, "heads queries head_dim"]], Float[Array, "heads queries tokens"]]
"""Returns what is added to the scaled scores, given the queries."""


def attend_plainly(
    q: Float[Array, "heads queries head_dim"],
    k: Float[Array, "heads tokens head_dim"],
    v: Float[Array, "heads tokens head_dim"],
    mask: Mask | None,
    bias: Float[Array, "heads queries tokens"] | None = None,
    tap: Tap = NO_TAP,
) -> Float[Array, "heads queries head_dim"]:
    """Attention by its equation."""
    return tap("attention_weights", attention_weights(q, k, mask, bias)).astype(v.dtype) @ v


def attend_in_halves(
    q: Float[Array, "heads queries head_dim"],
    k: Float[Array, "heads tokens head_dim"],
    v: Float[Array, "heads tokens head_dim"],
    mask: Mask | None,
    bias: Float[Array, "heads queries tokens"] | None,
) -> Float[Array, "heads queries head_dim"]:
    """Attention of the first half of the queries, then of the second."""
    middle = (q.shape[1] + 1) // 2
    halves = slice(middle), slice(middle, None)

    def attend(half: slice) -> Float[Array, "heads half head_dim"]:
        rows = mask if mask is None or mask.ndim == 1 else mask[half]
        return attend_plainly(q[:, half], k, v, rows, None if bias is None else bias[:, half])

    return jnp.concatenate([attend(half) for half in halves], axis=1)


def attend_by_head(
    q: Float[Array, "heads queries head_dim"],
    k: Float[Array, "heads tokens head_dim"],
    v: Float[Array, "heads tokens head_dim"],
    mask: Mask | None,
    bias: Bias,
) -> Float[Array, "heads queries head_dim"]:
    """Attention of one head after the other, so that the table of the bias is that of one head."""

    def attend(
        head: tuple[Float[Array, "queries head_dim"], Float[Array, "tokens head_dim"], Float[Array, "tokens head_dim"]],
    ) -> Float[Array, "queries head_dim"]:
        q, k, v = (part[None] for part in head)
        return attend_plainly(q, k, v, mask, bias(q))[0]

    return cast(Array, jax.lax.map(attend, (q, k, v)))


def attend_in_chunks(
    q: Float[Array, "heads queries head_dim"],
    k: Float[Array, "heads tokens head_dim"],
    v: Float[Array, "heads tokens head_dim"],
    mask: Mask | None,
    bias: Float[Array, "heads queries tokens"] | None,
    chunk: int,
) -> Float[Array, "heads queries head_dim"]:
    """Attention of `chunk` queries at a time; the backward pass computes their weights again.

    Source: Rabe and Staats, *Self-attention Does Not Need O(n²) Memory*, 2021, arXiv:2112.05682, chunks of queries.
    """
    by_query = None if mask is None or mask.ndim == 1 else mask

    def attend(
        of_a_query: tuple[
            Float[Array, "heads head_dim"], Bool[Array, " tokens"] | None, Float[Array, "heads tokens"] | None
        ],
    ) -> Float[Array, "heads head_dim"]:
        query, row, added = of_a_query
        rows = mask if row is None else row
        return attend_plainly(query[:, None], k, v, rows, None if added is None else added[:, None])[:, 0]

    of_all = (q.swapaxes(0, 1), by_query, None if bias is None else bias.swapaxes(0, 1))
    heads = cast(Array, jax.lax.map(jax.checkpoint(attend), of_all, batch_size=chunk))
    return heads.swapaxes(0, 1)


def attend_by_cudnn(
    q: Float[Array, "heads queries head_dim"],
    k: Float[Array, "heads tokens head_dim"],
    v: Float[Array, "heads tokens head_dim"],
    mask: Mask | None,
    bias: Float[Array, "heads queries tokens"] | None,
) -> Float[Array, "heads queries head_dim"]:
    """Attention by the kernel of cuDNN.

    Source: Dao, *FlashAttention-2*, 2023, arXiv:2307.08691, as cuDNN has it.
    """
    if q.dtype != jnp.bfloat16 or q.shape[-1] % 8 or q.shape[-1] > 128:
        raise ValueError(
            "attention='cudnn' needs bfloat16 and heads whose width is a multiple of 8 up to 128, got "
            f"{q.dtype} and a width of {q.shape[-1]}: use Execution(attention='auto')"
        )
    if jax.default_backend() != "gpu":
        raise ValueError(
            f"attention='cudnn' needs an NVIDIA GPU, got the backend {jax.default_backend()!r}: use "
            "model.with_execution(Execution(attention='auto')), or install JAX for GPUs"
        )
    queries, keys, values = (a.swapaxes(0, 1) for a in (q, k, v))
    counts = None if mask is None else jnp.broadcast_to(mask, (1, q.shape[1], k.shape[1]))
    added = None if bias is None else bias.astype(q.dtype)[None]
    return jax.nn.dot_product_attention(queries, keys, values, added, counts, implementation="cudnn").swapaxes(0, 1)
