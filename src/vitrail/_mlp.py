"""The feed-forward half of a block, and of the pools that have one."""

from typing import Literal, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ._init import Init, each
from ._layers import ACTIVATIONS, PRODUCT, ActivationName, Linear, dropout, keep


@final
class MLP(eqx.Module):
    r"""Two linear layers with an activation between, or SwiGLU's gate.

    Plain, it is $W_2\, \phi(W_1 x)$. Under `"swiglu"` it is $W_2 (\mathrm{silu}(W_g x) \odot W_u x)$ with $W_1$ the
    rows $[W_g; W_u]$: the layout of DINOv2's `w12` and timm's `SwiGLUPacked`.

    ??? cite

        Shazeer, *GLU Variants Improve Transformer*, 2020, arXiv:2002.05202.
    """

    hidden: Linear
    out: Linear
    activation: ActivationName | Literal["swiglu"] = eqx.field(static=True)
    dropout: float = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        mlp_dim: int,
        *,
        activation: ActivationName | Literal["swiglu"] = "gelu",
        dropout: float = 0.0,
        init: Init,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `dim`: the width of a token.
        - `mlp_dim`: the width of the hidden layer.
        - `activation`: between the two layers, or `"swiglu"` for a gate.
        - `dropout`: the probability of dropping an element of the hidden layer in training.
        - `init`: draws the weights.
        - `key`: for the weights.
        """
        hidden_key, out_key = jax.random.split(key)
        gated = activation == "swiglu"
        hidden_dim, hidden_init = (2 * mlp_dim, each(init.mlp, 2)) if gated else (mlp_dim, init.mlp)
        self.hidden = Linear(dim, hidden_dim, weight_init=hidden_init, bias_init=init.mlp_bias, key=hidden_key)
        self.out = Linear(mlp_dim, dim, weight_init=init.mlp, bias_init=init.mlp_bias, key=out_key)
        self.activation = activation
        self.dropout = dropout

    def __call__(self, x: Float[Array, "tokens dim"], *, key: PRNGKeyArray | None = None) -> Float[Array, "tokens dim"]:
        """**Arguments:**

        - `x`: the tokens.
        - `key`: for dropout; `None` means inference.

        **Returns:**

        Each token's own new values.
        """
        hidden = keep(self.hidden(x), PRODUCT)
        if self.activation == "swiglu":
            gate, up = jnp.split(hidden, 2, axis=-1)
            hidden = ACTIVATIONS["silu"](gate) * up
        else:
            hidden = ACTIVATIONS[self.activation](hidden)
        return self.out(dropout(hidden, self.dropout, key=key))
