"""The MLP of a block, and of the pools that have one."""

from typing import Literal, final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ._activation import ACTIVATIONS, ActivationName
from ._draw import split_key
from ._drop import drop_elements
from ._init import Init, draw_separately
from ._intermediates import NO_TAP, Tap
from ._linear import Linear
from ._lora import AdaptedLinear
from ._norm import Norm, NormName, make_norm
from ._remat import PRODUCT, checkpoint_name


@final
class MLP(eqx.Module):
    r"""Two linear layers with an activation or a gate between them.

    With an activation $\phi$ it computes $W_2\, \phi(W_1 x)$. With `"swiglu"` it computes
    $W_2 (\mathrm{silu}(W_g x) \odot W_u x)$, where the rows of $W_1$ are $[W_g; W_u]$ as in DINOv2's `w12` and timm's
    `SwiGLUPacked`. With `inner_norm` the input of $W_2$ is normalised.

    ??? cite

        Shazeer, *GLU Variants Improve Transformer*, 2020, arXiv:2002.05202. The norm: Shleifer et al., *NormFormer*,
        2021, arXiv:2110.09456, and EVA-02.
    """

    hidden: Linear | AdaptedLinear
    norm: Norm | None
    out: Linear | AdaptedLinear
    activation: ActivationName | Literal["swiglu"] = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        mlp_dim: int,
        *,
        activation: ActivationName | Literal["swiglu"] = "gelu",
        bias: bool = True,
        inner_norm: NormName | None = None,
        norm_eps: float = 1e-6,
        init: Init,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `dim`: the width of a token.
        - `mlp_dim`: the width of the hidden layer.
        - `activation`: between the two layers, or `"swiglu"` for a gate.
        - `bias`: whether the two layers have a bias.
        - `inner_norm`: the norm before the second layer, `"layer"` or `"rms"`; `None` for none.
        - `norm_eps`: what that norm adds to the variance.
        - `init`: draws the weights.
        - `key`: the random key of the weights.
        """
        hidden_key, out_key = split_key(key)
        gated = activation == "swiglu"
        hidden_dim, hidden_init = (2 * mlp_dim, draw_separately(init.mlp, 2)) if gated else (mlp_dim, init.mlp)
        bias_init = init.mlp_bias if bias else None
        self.hidden = Linear(dim, hidden_dim, weight_init=hidden_init, bias_init=bias_init, key=hidden_key)
        self.norm = None if inner_norm is None else make_norm(inner_norm, mlp_dim, eps=norm_eps)
        self.out = Linear(mlp_dim, dim, weight_init=init.mlp, bias_init=bias_init, key=out_key)
        self.activation = activation

    def __call__(
        self,
        x: Float[Array, "tokens dim"],
        *,
        dropout_rate: float = 0.0,
        tap: Tap = NO_TAP,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "tokens dim"]:
        """Applies the MLP to each token.

        **Arguments:**

        - `x`: the tokens.
        - `dropout_rate`: the probability of dropping an element of the hidden layer.
        - `tap`: records and edits the hidden layer, for the encoder; leave it out.
        - `key`: for dropout; `None` means inference.

        **Returns:**

        The output for each token.
        """
        hidden = checkpoint_name(self.hidden(x), PRODUCT)
        if self.activation == "swiglu":
            gate, up = jnp.split(hidden, 2, axis=-1)
            hidden = ACTIVATIONS["silu"](gate) * up
        else:
            hidden = ACTIVATIONS[self.activation](hidden)
        hidden = tap("mlp_hidden", hidden)
        hidden = drop_elements(hidden, dropout_rate, key=key)
        return self.out(hidden if self.norm is None else self.norm(hidden))
