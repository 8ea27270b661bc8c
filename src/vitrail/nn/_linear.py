"""The linear layer."""

from typing import ClassVar, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ._draw import split_key
from ._init import Initializer
from ._labels import ParameterKinds


@final
class Linear(eqx.Module):
    """`y = W x + b` on the last axis, with the weight stored `(out, in)` as in `eqx.nn.Linear` and PyTorch."""

    parameter_kinds: ClassVar[ParameterKinds] = {"weight": "matrix", "bias": "bias"}

    weight: Float[Array, "out_dim in_dim"]
    bias: Float[Array, " out_dim"] | None

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        weight_init: Initializer,
        bias_init: Initializer | None = jax.nn.initializers.zeros,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `in_dim`, `out_dim`: the widths of input and output.
        - `weight_init`: draws the weight, `(out_dim, in_dim)`.
        - `bias_init`: draws the bias, `(out_dim,)`; `None` for no bias.
        - `key`: for weight and bias.
        """
        weight_key, bias_key = split_key(key)
        self.weight = weight_init(weight_key, (out_dim, in_dim), jnp.dtype(jnp.float32))
        self.bias = None if bias_init is None else bias_init(bias_key, (out_dim,), jnp.dtype(jnp.float32))

    @property
    def out_dim(self) -> int:
        """The width of the output."""
        return self.weight.shape[-2]

    def __call__(self, x: Float[Array, "*batch {self.weight.shape[-1]}"]) -> Float[Array, "*batch out_dim"]:
        """**Arguments:**

        - `x`: an array with a last axis of width `in_dim`.

        **Returns:**

        An array with a last axis of width `out_dim`.
        """
        y = x @ self.weight.T
        return y if self.bias is None else y + jnp.broadcast_to(self.bias, y.shape)

    def take_rows(self, start: int, stop: int) -> "Linear":
        """**Arguments:**

        - `start`, `stop`: the first of the outputs to keep, and the first after them.

        **Returns:**

        The layer that returns these.
        """

        def take(leaf: Float[Array, "out_dim ..."]) -> Float[Array, "rows ..."]:
            return leaf[start:stop]

        return jax.tree.map(take, self)
