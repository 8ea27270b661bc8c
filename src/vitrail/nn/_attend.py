"""The ways to compute attention, given the queries, keys and values of all heads."""

from collections.abc import Callable
from typing import Final, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ._dtype import at_least_float32
from ._intermediates import NO_TAP, Tap
from ._remat import prevent_fusion
from ._softmax import attention_weights, masked_softmax

Mask = Bool[Array, " tokens"] | Bool[Array, "queries tokens"]
"""True for each token that counts, for all queries alike or for each query."""
Bias = Callable[[Float[Array, "heads queries head_dim"]], Float[Array, "heads queries tokens"]]
"""Returns what is added to the scaled scores, given the queries."""
_MANY: Final = 2500
"""For more queries than these, "auto" on a CPU computes two halves of them one after the other: in 0.80 to 0.89 times
as long at 3,136 tokens, a training step in 0.95 times, and 0.82 and 0.86 times at 4,096 and 6,400 (Ti/16, batch 1,
two cores, JAX 0.12.0.1). For 2,304 tokens and fewer XLA's CPU backend no longer fuses the halves, and they take longer;
so they do on a GPU, 1.19 times as long at 3,136 tokens (H200)."""


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


@jax.custom_jvp
def _attend_transposed(
    q: Float[Array, "heads queries head_dim"],
    k: Float[Array, "heads tokens head_dim"],
    v: Float[Array, "heads tokens head_dim"],
    mask: Mask | None,
) -> Float[Array, "heads queries head_dim"]:
    """Attention by its equation, whose derivative has the weights as `(heads, tokens, queries)`.

    The gradients of keys and values sum over the queries. XLA's CPU backend is fast at products that sum over the last
    axis of the first operand, and slow at others: with its gradient, attention takes 0.68 times as long as with the
    derivative that JAX finds at 16 heads of 32 channels, and 0.78 times at 3 and 6 of 64 (8 images, 196 tokens, two CPU
    cores, JAX 0.12.0.1).
    """
    return attend_plainly(q, k, v, mask)


@_attend_transposed.defjvp
def _attend_transposed_jvp(
    primals: tuple[
        Float[Array, "heads queries head_dim"],
        Float[Array, "heads tokens head_dim"],
        Float[Array, "heads tokens head_dim"],
        Mask | None,
    ],
    tangents: tuple[
        Float[Array, "heads queries head_dim"],
        Float[Array, "heads tokens head_dim"],
        Float[Array, "heads tokens head_dim"],
        object,
    ],
) -> tuple[Float[Array, "heads queries head_dim"], Float[Array, "heads queries head_dim"]]:
    q, k, v, mask = primals
    dq, dk, dv, _ = tangents
    root, wide = q.shape[-1] ** 0.5, at_least_float32(q.dtype)
    columns = mask if mask is None else mask[:, None] if mask.ndim == 1 else mask.T
    scores = jnp.einsum("hkd,hqd->hkq", k, q / root, preferred_element_type=wide)
    weights = masked_softmax(scores, columns, axis=1)
    dscores = jnp.einsum("hkd,hdq->hkq", k, (dq / root).swapaxes(1, 2), preferred_element_type=wide)
    dscores += jnp.einsum("hkd,hqd->hkq", dk, q / root, preferred_element_type=wide)
    dweights = weights * (dscores - jnp.sum(weights * dscores, axis=1, keepdims=True))
    # As (heads, head_dim, queries), and written so: then the gradient of `dv` sums over the last axis of both.
    from_values = prevent_fusion(jnp.einsum("hkd,hkq->hdq", dv, weights.astype(v.dtype))).swapaxes(1, 2)
    from_weights = jnp.einsum("hkq,hkd->hqd", dweights.astype(v.dtype), v)
    return attend_plainly(q, k, v, mask), from_values + from_weights


def attend_on_cpu(
    q: Float[Array, "heads queries head_dim"],
    k: Float[Array, "heads tokens head_dim"],
    v: Float[Array, "heads tokens head_dim"],
    mask: Mask | None,
    added: Float[Array, "heads queries tokens"] | None,
    bias: Bias | None,
) -> Float[Array, "heads queries head_dim"]:
    """Attention as it is fastest on a CPU, and in the least memory where `bias` is a table for many tokens."""
    if q.shape[1] > _MANY:
        return attend_in_halves(q, k, v, mask, added) if bias is None else attend_by_head(q, k, v, mask, bias)
    if added is None and bias is None:
        return _attend_transposed(q, k, v, mask)
    return attend_plainly(q, k, v, mask, added if bias is None else bias(q))


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
