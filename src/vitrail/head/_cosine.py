"""The head `cosine`."""

import math
from typing import ClassVar, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._check import check_positive
from ..nn import TRUNC_NORMAL, Init, Linear, ParameterKinds, normalise, split_key
from ._base import AbstractHead
from ._classes import check_num_classes


@final
class CosineHead(AbstractHead):
    r"""The scaled cosine with a direction for each class: the head of a zero-shot classifier, whose directions are the
    embeddings of texts. `vitrail.zero_shot` makes it.

    With $z$ the input after the projection it computes $e^t \, \frac{z}{\|z\|} \cdot w_k + b$, where $w_k$ is the
    direction of a class, $t$ the logarithm of the scale, and $b$ the bias. The directions are used as they are, so they
    have to be of unit length for a cosine.

    ??? cite

        Radford et al., *Learning Transferable Visual Models From Natural Language Supervision*, ICML 2021,
        arXiv:2103.00020, section 3.1. With a bias: Zhai et al. 2023, arXiv:2303.15343.
    """

    parameter_kinds: ClassVar[ParameterKinds] = {"directions": "matrix", "bias": "bias"}

    projection: Linear | None
    directions: Float[Array, "classes embed"]
    log_scale: Float[Array, ""]
    bias: Float[Array, ""] | None
    dim: int = eqx.field(static=True)
    out_dim: int = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        *,
        num_classes: int | None,
        init: Init = TRUNC_NORMAL,
        projection_dim: int | None = None,
        projection_bias: bool = False,
        bias: bool = False,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `dim`: the width of the input.
        - `num_classes`: the number of logits.
        - `init`: draws projection and directions. The scale starts at 1 / 0.07 as in CLIP, biases at zero.
        - `projection_dim`: the width of a linear layer before the cosine, as in CLIP; `None` for no such layer.
        - `projection_bias`: whether that layer has a bias.
        - `bias`: whether a learned number is added to all logits, as in SigLIP, whose probabilities are sigmoids.
        - `key`: the random key of the weights.

        **Raises:** `ValueError` if `num_classes` is missing or not positive, or `projection_dim` is not positive.
        """
        self.dim = dim
        self.out_dim = check_num_classes(num_classes)
        projection_key, key = split_key(key)
        self.projection = None
        if projection_dim is not None:
            check_positive(projection_dim=projection_dim)
            bias_init = jax.nn.initializers.zeros if projection_bias else None
            self.projection = Linear(
                dim, projection_dim, weight_init=init.head, bias_init=bias_init, key=projection_key
            )
        width = dim if projection_dim is None else projection_dim
        self.directions = init.head(key, (self.out_dim, width), jnp.dtype(jnp.float32))
        self.log_scale = jnp.asarray(-math.log(0.07), jnp.float32)
        self.bias = jnp.zeros((), jnp.float32) if bias else None

    def __call__(
        self, x: Float[Array, "*tokens {self.dim}"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "*tokens {self.out_dim}"]:
        embedding = normalise(x if self.projection is None else self.projection(x))
        # The scale is about 100, by which it makes errors larger.
        cosine = jnp.matmul(embedding, self.directions.T, precision="highest")
        logits = jnp.exp(self.log_scale) * cosine
        return logits if self.bias is None else logits + self.bias
