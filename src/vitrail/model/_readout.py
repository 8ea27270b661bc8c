"""The readout: from tokens to a vector or logits."""

from typing import final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._check import describe_result, is_jax_array
from .._tokens import Tokens
from ..head import AbstractHead
from ..nn import Norm, split_key, to_dtype
from ..pool import AbstractPool


@final
class Readout(eqx.Module):
    """Turns the tokens of a backbone into logits: a pool, a norm (with `norm_order="pool_norm"`), and a head."""

    pool: AbstractPool
    norm: Norm | None
    head: AbstractHead

    def __init__(self, pool: AbstractPool, norm: Norm | None, head: AbstractHead):
        """**Arguments:**

        - `pool`: the pool.
        - `norm`: the norm of what the pool returns; `None` for none.
        - `head`: the head.
        """
        self.pool = pool
        self.norm = norm
        self.head = head

    def __call__(
        self, tokens: Tokens, *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "*tokens {self.head.out_dim}"]:
        """Computes the logits.

        **Arguments:**

        - `tokens`: the tokens of one image, as a backbone returns them. Pool and head compute in their dtype.
        - `key`: for what is random in training; `None` means inference.

        **Returns:**

        The logits in float32, `(classes,)`. With the pool `none` they are `(tokens, classes)`. With the head `none` the
        readout returns what the pool returns.

        **Raises:** `ValueError` if the head reads another width than the pool returns, or if pool or head return
        another shape than they declare.
        """
        if self.head.dim != self.pool.out_dim:
            raise ValueError(
                f"the head {type(self.head).__name__} reads {self.head.dim} channels, got the pool "
                f"{type(self.pool).__name__} that returns {self.pool.out_dim}: replace the pool with "
                "vitrail.replace(model, pool=..., key=key), which builds the head for its width"
            )
        pool_key, head_key = split_key(key, 2)
        pooled = self.pool_tokens(tokens, key=pool_key)
        logits = to_dtype(self.head, pooled.dtype)(pooled, key=head_key)
        shape = (*pooled.shape[:-1], self.head.out_dim)
        if not is_jax_array(logits) or logits.shape != shape:
            raise ValueError(
                f"the head {type(self.head).__name__} must return logits of shape {shape}, got "
                f"{describe_result(logits)}: fix that class"
            )
        return logits.astype(jnp.float32)

    def pool_tokens(self, tokens: Tokens, *, key: PRNGKeyArray | None = None) -> Float[Array, "*tokens features"]:
        """Computes the pooled vector that the head reads.

        **Arguments:** those of `__call__`.

        **Returns:**

        What the pool returns, normalised if the readout has a norm, in the dtype of the tokens: `(features,)`, or
        `(tokens, features)` with the pool `none`.

        **Raises:** `ValueError` if the pool returns no array, or another width than its `out_dim`.
        """
        pooled = to_dtype(self.pool, tokens.patches.dtype)(tokens, key=key)
        if not is_jax_array(pooled) or pooled.shape[-1:] != (self.pool.out_dim,):
            raise ValueError(
                f"the pool {type(self.pool).__name__} must return vectors of out_dim={self.pool.out_dim} channels, got "
                f"{describe_result(pooled)}: fix that class"
            )
        return pooled if self.norm is None else self.norm(pooled)
