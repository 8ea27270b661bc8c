"""Multi-head attention."""

from typing import final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._check import check_heads, check_positive
from ._attend import Bias, Mask, attend_by_cudnn, attend_in_chunks, attend_on_cpu, attend_plainly
from ._draw import split_key
from ._execution import AttentionStrategy
from ._in_attention import InAttention
from ._init import Init, draw_separately
from ._intermediates import NO_TAP, Tap
from ._linear import Linear
from ._lora import AdaptedLinear
from ._norm import Norm, NormName, make_norm
from ._relative_bias import RelativeBias
from ._remat import ATTENDED, PRODUCT, checkpoint_name
from ._rotation import Rotation
from ._softmax import attention_weights

_Heads = tuple[
    Float[Array, "heads queries head_dim"],
    Float[Array, "heads tokens head_dim"],
    Float[Array, "heads tokens head_dim"],
]


@final
class Attention(eqx.Module):
    """Multi-head attention of tokens to each other, or to other tokens.

    One matrix computes queries, keys and values. Its rows are `[q; k; v]`, and the rows of each are sorted by heads,
    then channels, as in timm, DINOv2 and PyTorch's `in_proj_weight`.

    ??? cite

        Vaswani et al., *Attention Is All You Need*, 2017, arXiv:1706.03762, section 3.2.
    """

    qkv: Linear | AdaptedLinear
    q_norm: Norm | None
    k_norm: Norm | None
    norm: Norm | None
    project: Linear | AdaptedLinear
    num_heads: int = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        inner_dim: int | None = None,
        qkv_bias: bool = True,
        bias: bool = True,
        qk_norm: bool = False,
        inner_norm: bool = False,
        norm: NormName = "layer",
        norm_eps: float = 1e-6,
        init: Init,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `dim`: the width of a token.
        - `num_heads`: the number of heads. It divides `inner_dim`.
        - `inner_dim`: the width of all heads together; `None` for `dim`. SAM's mask decoder has half of `dim`.
        - `qkv_bias`: whether queries, keys and values have a bias.
        - `bias`: whether the projection after the heads has a bias.
        - `qk_norm`: whether queries and keys are normalised, each head by itself.
        - `inner_norm`: whether the output of the heads is normalised before the projection.
        - `norm`, `norm_eps`: the kind of these norms, `"layer"` or `"rms"`, and what they add to the variance.
        - `init`: draws the weights.
        - `key`: the random key of the weights.

        **Raises:** `ValueError` if the width does not divide into heads.
        """
        if inner_dim is None:
            inner_dim = dim
            check_heads("dim", dim, num_heads)
        check_heads("inner_dim", inner_dim, num_heads)
        qkv_key, project_key = split_key(key)
        self.qkv = Linear(
            dim,
            3 * inner_dim,
            weight_init=draw_separately(init.attention, 3),
            bias_init=jax.nn.initializers.zeros if qkv_bias else None,
            key=qkv_key,
        )
        self.q_norm = make_norm(norm, inner_dim // num_heads, eps=norm_eps) if qk_norm else None
        self.k_norm = make_norm(norm, inner_dim // num_heads, eps=norm_eps) if qk_norm else None
        self.norm = make_norm(norm, inner_dim, eps=norm_eps) if inner_norm else None
        bias_init = jax.nn.initializers.zeros if bias else None
        self.project = Linear(inner_dim, dim, weight_init=init.attention, bias_init=bias_init, key=project_key)
        self.num_heads = num_heads

    def __call__(
        self,
        x: Float[Array, "queries dim"],
        context: Float[Array, "tokens dim"] | None = None,
        *,
        values: Float[Array, "tokens dim"] | None = None,
        mask: Mask | None = None,
        position: InAttention | None = None,
        bias: Bias | None = None,
        strategy: AttentionStrategy = "auto",
        tap: Tap = NO_TAP,
    ) -> Float[Array, "queries dim"]:
        """Computes the attention.

        **Arguments:**

        - `x`: the tokens of the queries.
        - `context`: the tokens of the keys; `None` for `x`.
        - `values`: the tokens of the values; `None` for `context`. They differ from it in decoders that add positions
            to `x` and `context`.
        - `mask`: true for each key that counts, `(tokens,)`, or for each pair of a query and a key, `(queries,
            tokens)`, such as a causal mask; `None` if all count.
        - `position`: a rotation of queries and keys, or a bias of their scores.
        - `bias`: a function of the queries, `(heads, queries, head_dim)`, that returns what is added to the scaled
            scores, `(heads, queries, tokens)`; `None` to add nothing.
        - `strategy`: how attention is computed, as in `Execution`.
        - `tap`: records and edits intermediates, for the encoder; leave it out. If it records the attention weights,
            the strategy is `"plain"`.

        **Returns:**

        The output for each token of `x`.

        **Raises:** `ValueError` if both `position` and `context` are given, if `values` are given without `context`, or
        if `strategy` cannot compute this attention.
        """
        q, k, v = self._project_heads(x, context, values, position, tap)
        added = position() if isinstance(position, RelativeBias) else None
        if bias is not None and strategy not in ("auto", "plain"):
            raise ValueError(
                f"attention={strategy!r} does not take a bias, whose table is as large as the scores: use "
                "Execution(attention='plain')"
            )
        if tap.wants("attention_weights") or (strategy == "auto" and jax.default_backend() != "cpu"):
            strategy = "plain"
        if strategy == "plain":
            heads = attend_plainly(q, k, v, mask, added if bias is None else bias(q), tap)
        elif strategy == "auto":
            heads = attend_on_cpu(q, k, v, mask, added, bias)
        elif strategy == "cudnn":
            heads = attend_by_cudnn(q, k, v, mask, added)
        else:
            heads = attend_in_chunks(q, k, v, mask, added, strategy)
        heads = tap("attention_heads", heads)
        gathered = checkpoint_name(heads.transpose(1, 0, 2).reshape(x.shape[0], -1), ATTENDED)
        return self.project(gathered if self.norm is None else self.norm(gathered))

    def weights(
        self, x: Float[Array, "queries dim"], context: Float[Array, "tokens dim"], *, mask: Mask | None = None
    ) -> Float[Array, "heads queries tokens"]:
        """Computes the attention weights, without positions and biases.

        **Arguments:** those of `__call__`.

        **Returns:**

        The softmax of the scores of each query of `x` and each key of `context`, at least in float32. Rows sum to one.
        """
        q, k, _ = self._project_heads(x, context, None, None, NO_TAP)
        return attention_weights(q, k, mask)

    def _project_heads(
        self,
        x: Float[Array, "queries dim"],
        context: Float[Array, "tokens dim"] | None,
        values: Float[Array, "tokens dim"] | None,
        position: InAttention | None,
        tap: Tap,
    ) -> _Heads:
        # Heads first: on two CPU cores Ti/16 (224 pixels, batch 8) takes 0.85 times, and its gradient 0.89 times, as
        # long as with einsums of (tokens, heads, head_dim). jax.nn.dot_product_attention equals those at 196 patches,
        # and takes 1.36 times as long at 784.
        if context is None:
            if values is not None:
                raise ValueError("values need a context, whose tokens they stand for, got none: pass x as the context")
            qkv = checkpoint_name(self.qkv(x), PRODUCT)
            q, k, v = (self._split_heads(part) for part in jnp.split(qkv, 3, axis=-1))
        else:
            if position is not None:
                raise ValueError("position needs attention of tokens to each other, got context: leave one of them out")
            inner = self.qkv.out_dim // 3
            q = self._split_heads(self.qkv.take_rows(0, inner)(x))
            if values is None:
                kv = self.qkv.take_rows(inner, 3 * inner)(context)
                k, v = (self._split_heads(part) for part in jnp.split(kv, 2, axis=-1))
            else:
                k = self._split_heads(self.qkv.take_rows(inner, 2 * inner)(context))
                v = self._split_heads(self.qkv.take_rows(2 * inner, 3 * inner)(values))
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if isinstance(position, Rotation):
            q, k = position(q), position(k)
        return tap("queries", q), tap("keys", k), tap("values", v)

    def _split_heads(self, x: Float[Array, "tokens inner"]) -> Float[Array, "heads tokens head_dim"]:
        return x.reshape(x.shape[0], self.num_heads, -1).transpose(1, 0, 2)


def choose_heads(dim: int, num_heads: int | None) -> int:
    """Returns `num_heads`, or if it is `None` one head for each 64 channels; a single head if those do not divide."""
    if num_heads is None:
        return dim // 64 if dim % 64 == 0 else 1
    check_positive(num_heads=num_heads)
    return num_heads
