"""The head `projection`."""

from typing import ClassVar, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._check import check_positive
from ..nn import ACTIVATIONS, TRUNC_NORMAL, Init, Linear, ParameterKinds, draw_uniform, normalise, split_key
from ._base import AbstractHead
from ._classes import check_num_classes


@final
class ProjectionHead(AbstractHead):
    r"""Scores for prototypes: an MLP to a bottleneck of length one, and a last layer of normalised weight. The head of
    DINO, iBOT and DINOv2 in training.

    With $z$ the output of the MLP it computes $s_k = g_k \, \frac{v_k}{\|v_k\|} \cdot \frac{z}{\|z\|}$, where $v_k$ is
    the direction of a prototype and $g_k$ its scale.

    ??? cite

        Caron et al., *Emerging Properties in Self-Supervised Vision Transformers*, ICCV 2021, arXiv:2104.14294,
        appendix C. Weight normalisation: Salimans and Kingma 2016, arXiv:1602.07868.
    """

    parameter_kinds: ClassVar[ParameterKinds] = {"directions": "matrix"}

    hidden: tuple[Linear, ...]
    bottleneck: Linear
    directions: Float[Array, "prototypes bottleneck"]
    scales: Float[Array, " prototypes"] | None
    dim: int = eqx.field(static=True)
    out_dim: int = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        *,
        num_classes: int | None,
        init: Init = TRUNC_NORMAL,
        layers: int = 3,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        bias: bool = True,
        scaled: bool = True,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `dim`: the width of the input.
        - `num_classes`: the number of prototypes: 65,536 in DINO, up to 131,072 in DINOv2.
        - `init`: draws the weights of the MLP. Its biases start at zero, the scales at one.
        - `layers`: of the MLP, the bottleneck included.
        - `hidden_dim`: the width of its hidden layers, which have GELU.
        - `bottleneck_dim`: the width of the bottleneck.
        - `bias`: whether the layers of the MLP have a bias.
        - `scaled`: whether the prototypes have learned scales, as in DINOv2. Without them all are one, as in DINO,
            whose option is `norm_last_layer`.
        - `key`: the random key of the weights.

        **Raises:** `ValueError` if `num_classes` is missing, or a number is not positive.
        """
        self.dim, self.out_dim = dim, check_num_classes(num_classes)
        check_positive(layers=layers, hidden_dim=hidden_dim, bottleneck_dim=bottleneck_dim)
        last_key, *keys = split_key(key, layers + 1)
        widths = [dim, *(hidden_dim,) * (layers - 1), bottleneck_dim]
        bias_init = jax.nn.initializers.zeros if bias else None
        mlp = [
            Linear(width, widths[i + 1], weight_init=init.head, bias_init=bias_init, key=keys[i])
            for i, width in enumerate(widths[:-1])
        ]
        self.hidden, self.bottleneck = tuple(mlp[:-1]), mlp[-1]
        # PyTorch draws the weight of a linear layer so.
        self.directions = draw_uniform(last_key, (self.out_dim, bottleneck_dim), bound=bottleneck_dim**-0.5)
        self.scales = jnp.ones(self.out_dim, jnp.float32) if scaled else None

    def __call__(
        self, x: Float[Array, "*tokens {self.dim}"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "*tokens {self.out_dim}"]:
        for layer in self.hidden:
            x = ACTIVATIONS["gelu"](layer(x))
        scores = normalise(self.bottleneck(x)) @ normalise(self.directions).T
        return scores if self.scales is None else scores * jnp.broadcast_to(self.scales, scores.shape)
