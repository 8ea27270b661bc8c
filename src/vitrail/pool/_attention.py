"""The pool `attention`."""

import dataclasses
from typing import ClassVar, final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from .._check import check_positive
from .._tokens import Tokens
from ..nn import (
    BIG_VISION,
    MLP,
    ActivationName,
    Attention,
    Init,
    LayerNorm,
    ParameterKinds,
    choose_heads,
    draw_separately,
    split_key,
)
from ._base import AbstractWeighingPool
from ._read import read_patches


@final
class AttentionPool(AbstractWeighingPool):
    r"""Multi-head attention pooling (MAP): learned queries attend to the patches, and an MLP follows.

    $y = \mathrm{MultiHead}(q, X, X)$, $z = y + \mathrm{MLP}(\mathrm{LN}(y))$ for each query $q$. The results of several
    queries are returned as one vector.

    Use it for a model that is trained from scratch with it, or on a frozen backbone with enough data. It has
    $12 d^2 + (11 + Q) d$ parameters for the width $d$, $Q$ queries and the default MLP. It needs no class token.

    ??? cite

        Lee et al., *Set Transformer*, ICML 2019, arXiv:1810.00825, section 3.2; for ViT: Zhai et al., *Scaling Vision
        Transformers*, CVPR 2022, arXiv:2106.04560. It equals big_vision's `MAPHead` (with `activation="gelu_tanh"`),
        which SigLIP has, and timm's `AttentionPoolLatent`.
    """

    queries: Float[Array, "queries dim"]
    attention: Attention
    norm: LayerNorm
    mlp: MLP
    out_dim: int = eqx.field(static=True)
    include_prefix: bool = eqx.field(static=True)
    needs_class_token: ClassVar[bool] = False
    order_invariant: ClassVar[bool] = True
    parameter_kinds: ClassVar[ParameterKinds] = {"queries": "token"}

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int | None = None,
        num_queries: int = 1,
        mlp_dim: int | None = None,
        activation: ActivationName = "gelu",
        norm_eps: float = 1e-6,
        include_prefix: bool = False,
        init: Init = BIG_VISION,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `dim`: the width of a token.
        - `num_heads`: the number of attention heads; `None` for `dim / 64`, or 1 if 64 does not divide `dim`.
        - `num_queries`: the number of queries.
        - `mlp_dim`: the width of the MLP's hidden layer; `None` for `4 * dim`.
        - `activation`: of the MLP; big_vision and SigLIP have `"gelu_tanh"`.
        - `norm_eps`: what the norm before the MLP adds to the variance.
        - `include_prefix`: whether the queries attend to the prefix tokens too, as in Perception Encoder.
        - `init`: draws the weights, and each query like a matrix of the attention.
        - `key`: the random key of the weights.

        **Raises:** `ValueError` if `dim` does not divide into heads, or a number is not positive.
        """
        mlp_dim = 4 * dim if mlp_dim is None else mlp_dim
        check_positive(num_queries=num_queries, mlp_dim=mlp_dim)
        queries_key, attention_key, mlp_key = split_key(key, 3)
        self.queries = draw_separately(init.attention, num_queries)(
            queries_key, (num_queries, dim), jnp.dtype(jnp.float32)
        )
        self.attention = Attention(dim, choose_heads(dim, num_heads), init=init, key=attention_key)
        self.norm = LayerNorm(dim, eps=norm_eps)
        self.mlp = MLP(dim, mlp_dim, activation=activation, init=init, key=mlp_key)
        self.out_dim = num_queries * dim
        self.include_prefix = include_prefix

    def __call__(self, tokens: Tokens, *, key: PRNGKeyArray | None = None) -> Float[Array, " {self.out_dim}"]:
        context, mask = self._read(tokens)
        y = self.attention(self.queries, context, mask=mask)
        return (y + self.mlp(self.norm(y))).reshape(-1)

    def weights(self, tokens: Tokens) -> Float[Array, "maps patches"]:
        """**Arguments:**

        - `tokens`: after the encoder.

        **Returns:**

        The weights of the patches: one row for each head and query, heads first. A row sums to one, or to less with
        `include_prefix=True`.
        """
        context, mask = self._read(tokens)
        weights = self.attention.weights(self.queries, context, mask=mask).reshape(-1, context.shape[0])
        return weights[:, context.shape[0] - tokens.patches.shape[0] :]

    def _read(self, tokens: Tokens) -> tuple[Float[Array, "tokens dim"], Bool[Array, " tokens"] | None]:
        """What the queries look at, and its mask."""
        patches, mask = read_patches(tokens)
        if not self.include_prefix:
            return patches, mask
        checked = dataclasses.replace(tokens, patches=patches, mask=mask)
        return checked.sequence, checked.sequence_mask
