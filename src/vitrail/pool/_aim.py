"""The pool `aim`."""

from typing import ClassVar, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._check import check_heads
from .._tokens import Tokens
from ..nn import BIG_VISION, Init, Linear, ParameterKinds, attention_weights, choose_heads, draw_separately, split_key
from ._base import AbstractWeighingPool
from ._read import read_patches


@final
class AIMPool(AbstractWeighingPool):
    r"""One learned query attends to the patches, and a linear layer follows: the attentive probe of AIM and AIMv2.

    $z = W_o\, [a_h^\top X W_{v,h}]_h + b_o$ with $a_h = \mathrm{softmax}(X W_{k,h}\, q_h / \sqrt{d_h})$ for each head
    $h$. Unlike in `attention`, the query has no projection, and there is no MLP.

    Use it as a cheap probe on a frozen backbone. It has $3 d^2 + 2 d$ parameters for the width $d$ without `qkv_bias`,
    and needs no class token.

    ??? cite

        El-Nouby et al., *Scalable Pre-training of Large Autoregressive Image Models*, ICML 2024, arXiv:2401.08541,
        section 3; Fini et al., *Multimodal Autoregressive Pre-training of Large Vision Encoders* (AIMv2), CVPR 2025,
        arXiv:2411.14402. It equals the `Aimv2AttentionPoolingHead` of transformers.
    """

    query: Float[Array, " dim"]
    kv: Linear
    project: Linear
    num_heads: int = eqx.field(static=True)
    out_dim: int = eqx.field(static=True)
    needs_class_token: ClassVar[bool] = False
    order_invariant: ClassVar[bool] = True
    parameter_kinds: ClassVar[ParameterKinds] = {"query": "token"}

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int | None = None,
        qkv_bias: bool = False,
        init: Init = BIG_VISION,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `dim`: the width of a token.
        - `num_heads`: the number of attention heads; `None` for `dim / 64`, or 1 if 64 does not divide `dim`.
        - `qkv_bias`: whether keys and values have a bias.
        - `init`: draws the weights, and the query like a matrix of the attention.
        - `key`: the random key of the weights.

        **Raises:** `ValueError` if `dim` does not divide into heads.
        """
        self.num_heads = choose_heads(dim, num_heads)
        check_heads("dim", dim, self.num_heads)
        query_key, kv_key, project_key = split_key(key, 3)
        self.query = init.attention(query_key, (1, dim), jnp.dtype(jnp.float32))[0]
        self.kv = Linear(
            dim,
            2 * dim,
            weight_init=draw_separately(init.attention, 2),
            bias_init=jax.nn.initializers.zeros if qkv_bias else None,
            key=kv_key,
        )
        self.project = Linear(
            dim, dim, weight_init=init.attention, bias_init=jax.nn.initializers.zeros, key=project_key
        )
        self.out_dim = dim

    def __call__(self, tokens: Tokens, *, key: PRNGKeyArray | None = None) -> Float[Array, " {self.out_dim}"]:
        keys, values = self._project(tokens)
        gathered = jnp.einsum("hn,hnd->hd", self._weigh(tokens, keys).astype(values.dtype), values)
        return self.project(gathered.reshape(-1))

    def weights(self, tokens: Tokens) -> Float[Array, "maps patches"]:
        """**Arguments:**

        - `tokens`: after the encoder.

        **Returns:**

        The weights of the patches: one row for each head, which sums to one.
        """
        keys, _ = self._project(tokens)
        return self._weigh(tokens, keys)

    def _weigh(self, tokens: Tokens, keys: Float[Array, "heads patches head_dim"]) -> Float[Array, "heads patches"]:
        query = self.query.reshape(self.num_heads, 1, -1).astype(keys.dtype)
        return attention_weights(query, keys, read_patches(tokens)[1])[:, 0]

    def _project(self, tokens: Tokens) -> Float[Array, "2 heads patches head_dim"]:
        """The keys and the values of each head."""
        patches, _ = read_patches(tokens)
        return self.kv(patches).reshape(patches.shape[0], 2, self.num_heads, -1).transpose(1, 2, 0, 3)
