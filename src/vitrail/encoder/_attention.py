"""Multi-head attention."""

from typing import Final, cast, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from .._check import check_heads
from .._init import Init, each
from .._layers import GATHERED, PRODUCT, LayerNorm, Linear, attention_weights, keep
from .._tokens import Rotation
from ._options import EncoderOptions
from ._window import RelativePosition

_MANY: Final = 2500
"""Of more tokens than these, on a CPU two halves of the queries look at all tokens one after the other: in 0.80 to 0.89
times as long at 3,136 tokens, a training step in 0.95 times, and in 0.82 and 0.86 times at 4,096 and 6,400 (Ti/16,
batch 1, two cores, JAX 0.12.0.1). Of 2,304 tokens and fewer XLA's CPU backend no longer fuses the halves, and they take
longer; so they do on a GPU, 1.19 times as long at 3,136 tokens (H200)."""


@final
class Attention(eqx.Module):
    """Multi-head attention of all tokens to all tokens.

    Queries, keys and values come from one matrix product, whose rows are `[q; k; v]`, each of them heads by channels:
    the layout of timm, DINOv2 and PyTorch's `in_proj_weight`.

    ??? cite

        Vaswani et al., *Attention Is All You Need*, 2017, arXiv:1706.03762, section 3.2.
    """

    qkv: Linear
    q_norm: LayerNorm | None
    k_norm: LayerNorm | None
    project: Linear
    num_heads: int = eqx.field(static=True)
    chunk: int | None = eqx.field(static=True)
    fused: bool = eqx.field(static=True)

    def __init__(self, dim: int, num_heads: int, *, options: EncoderOptions, init: Init, key: PRNGKeyArray):
        """**Arguments:**

        - `dim`: the width of a token.
        - `num_heads`: how many heads it is divided into.
        - `options`: of the encoder; `qkv_bias`, `qk_norm`, `norm_eps`, `attention_chunk` and `fused_attention` count
            here.
        - `init`: draws the weights.
        - `key`: for the weights.

        **Raises:** `ValueError` where `dim` does not divide into heads.
        """
        check_heads("dim", dim, num_heads)
        qkv_key, project_key = jax.random.split(key)
        self.qkv = Linear(
            dim,
            3 * dim,
            weight_init=each(init.attention, 3),
            bias_init=jax.nn.initializers.zeros if options.qkv_bias else None,
            key=qkv_key,
        )
        self.q_norm = LayerNorm(dim // num_heads, eps=options.norm_eps) if options.qk_norm else None
        self.k_norm = LayerNorm(dim // num_heads, eps=options.norm_eps) if options.qk_norm else None
        self.project = Linear(dim, dim, weight_init=init.attention, key=project_key)
        self.num_heads = num_heads
        self.chunk = options.attention_chunk
        self.fused = options.fused_attention

    def __call__(
        self,
        x: Float[Array, "tokens dim"],
        *,
        mask: Bool[Array, " tokens"] | None = None,
        rotation: Rotation | None = None,
        relative: RelativePosition | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Float[Array, "tokens dim"]:
        """**Arguments:**

        - `x`: the tokens.
        - `mask`: true for each token that counts; `None` if all count.
        - `rotation`: of queries and keys, where the position is rotary.
        - `relative`: the positions relative to the query, where there are such; `grid` is then how the tokens lie.
        - `grid`: rows and columns of the tokens.

        **Returns:**

        What each token gathers from all.

        **Raises:** `ValueError` where `relative` comes without `grid`, and with `fused_attention` where the dtype, the
        width of a head or the machine is none for cuDNN.
        """
        q, k, v = self._heads(x, rotation)
        if relative is not None and grid is None:
            raise ValueError("grid must be given with relative, but None came: pass the rows and columns of the tokens")
        bias = None if relative is None or grid is None else relative(q, grid)
        if self.fused:
            gathered = _gather_by_cudnn(q, k, v, mask)
        elif self.chunk is not None:
            gathered = _gather_in_chunks(q, k, v, mask, self.chunk)
        elif bias is None and x.shape[0] > _MANY and jax.default_backend() == "cpu":
            gathered = jnp.concatenate([_gather(half, k, v, mask) for half in jnp.array_split(q, 2, axis=1)], axis=1)
        else:
            gathered = _gather(q, k, v, mask, bias)
        return self.project(keep(gathered.transpose(1, 0, 2).reshape(x.shape), GATHERED))

    def weights(
        self,
        x: Float[Array, "tokens dim"],
        *,
        mask: Bool[Array, " tokens"] | None = None,
        rotation: Rotation | None = None,
    ) -> Float[Array, "heads tokens tokens"]:
        """**Arguments:**

        - `x`: the tokens.
        - `mask`: true for each token that counts; `None` if all count.
        - `rotation`: of queries and keys, where the position is rotary.

        **Returns:**

        How much each token (rows) takes from each (columns), by head, in float32. Rows sum to one.
        """
        q, k, _ = self._heads(x, rotation)
        return attention_weights(q, k, mask)

    def _heads(
        self, x: Float[Array, "tokens dim"], rotation: Rotation | None
    ) -> tuple[
        Float[Array, "heads tokens head_dim"],
        Float[Array, "heads tokens head_dim"],
        Float[Array, "heads tokens head_dim"],
    ]:
        # Heads first: on two CPU cores Ti/16 (224 pixels, batch 8) takes 0.85 times, and its gradient 0.89 times, as
        # long as with einsums of (tokens, heads, head_dim). jax.nn.dot_product_attention equals those at 196 patches,
        # and takes 1.36 times as long at 784.
        qkv = keep(self.qkv(x), PRODUCT)
        q, k, v = qkv.reshape(x.shape[0], 3, self.num_heads, -1).transpose(1, 2, 0, 3)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if rotation is not None:
            q, k = rotation(q), rotation(k)
        return q, k, v


def _gather(
    q: Float[Array, "heads queries head_dim"],
    k: Float[Array, "heads tokens head_dim"],
    v: Float[Array, "heads tokens head_dim"],
    mask: Bool[Array, " tokens"] | None,
    bias: Float[Array, "heads queries tokens"] | None = None,
) -> Float[Array, "heads queries head_dim"]:
    """What the queries gather from the tokens."""
    return attention_weights(q, k, mask, bias).astype(v.dtype) @ v


def _gather_in_chunks(
    q: Float[Array, "heads queries head_dim"],
    k: Float[Array, "heads tokens head_dim"],
    v: Float[Array, "heads tokens head_dim"],
    mask: Bool[Array, " tokens"] | None,
    chunk: int,
) -> Float[Array, "heads queries head_dim"]:
    """What the queries gather from the tokens, so many queries at a time; the backward pass computes their weights
    again.

    Source: Rabe and Staats, *Self-attention Does Not Need O(n²) Memory*, 2021, arXiv:2112.05682, chunks of queries.
    """

    def gather(query: Float[Array, "heads head_dim"]) -> Float[Array, "heads head_dim"]:
        return _gather(query[:, None], k, v, mask)[:, 0]

    gathered = cast(Array, jax.lax.map(jax.checkpoint(gather), q.swapaxes(0, 1), batch_size=chunk))
    return gathered.swapaxes(0, 1)


def _gather_by_cudnn(
    q: Float[Array, "heads queries head_dim"],
    k: Float[Array, "heads tokens head_dim"],
    v: Float[Array, "heads tokens head_dim"],
    mask: Bool[Array, " tokens"] | None,
) -> Float[Array, "heads queries head_dim"]:
    """What the queries gather from the tokens, by the kernel of cuDNN.

    Source: Dao, *FlashAttention-2*, 2023, arXiv:2307.08691, as cuDNN has it.
    """
    if q.dtype != jnp.bfloat16 or q.shape[-1] % 8 or q.shape[-1] > 128:
        raise ValueError(
            "fused_attention needs heads as wide as a multiple of 8 up to 128, in bfloat16, but a width of "
            f"{q.shape[-1]} in {q.dtype} came: give such a size and compute_dtype='bfloat16', or fused_attention=False"
        )
    if jax.default_backend() != "gpu":
        raise ValueError(
            f"fused_attention needs an NVIDIA GPU, but JAX runs on {jax.default_backend()}: give the model's encoder "
            "fused_attention=False (a model that is loaded too: see 'Less memory' on the page of the encoder), or "
            "install JAX for GPUs"
        )
    heads_last = (a.swapaxes(0, 1) for a in (q, k, v))
    keys = None if mask is None else mask[None, None]
    return jax.nn.dot_product_attention(*heads_last, mask=keys, implementation="cudnn").swapaxes(0, 1)
