"""How DPT ends: with a depth, or with the scores of classes."""

from typing import Literal, final

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from ..nn import Conv, FrozenBatchNorm, Init, Linear, resample, split_key


@final
class DepthEnding(eqx.Module):
    """Three convolutions, with upsampling after the first, that end in one channel of numbers that are not negative."""

    refine: Conv | None
    conv1: Conv
    conv2: Conv
    out: Linear
    activation: Literal["relu", "sigmoid"] = eqx.field(static=True)
    max_depth: float = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        *,
        hidden_dim: int,
        refine: bool,
        activation: Literal["relu", "sigmoid"],
        max_depth: float,
        init: Init,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `dim`: the number of channels of the fused map.
        - `hidden_dim`: the number of channels before the last layer.
        - `refine`: whether another convolution with a ReLU comes first.
        - `activation`: the last activation.
        - `max_depth`: what its result is multiplied by.
        - `init`: draws the weights.
        - `key`: the random key of the weights.
        """
        keys = split_key(key, 4)
        self.refine = Conv(dim, dim, weight_init=init.mlp, key=keys[0]) if refine else None
        self.conv1 = Conv(dim, dim // 2, weight_init=init.mlp, key=keys[1])
        self.conv2 = Conv(dim // 2, hidden_dim, weight_init=init.mlp, key=keys[2])
        self.out = Linear(hidden_dim, 1, weight_init=init.head, key=keys[3])
        self.activation = activation
        self.max_depth = max_depth

    def __call__(self, x: Float[Array, "rows cols dim"], size: tuple[int, int]) -> Float[Array, "height width 1"]:
        """**Arguments:**

        - `x`: the fused map.
        - `size`: rows and columns of the result.

        **Returns:**

        The depth: relative and inverse after a ReLU, in metres up to `max_depth` after a sigmoid.
        """
        if self.refine is not None:
            x = jax.nn.relu(self.refine(x))
        x = resample(self.conv1(x), size, "bilinear_corners")
        x = self.out(jax.nn.relu(self.conv2(x)))
        return (jax.nn.relu(x) if self.activation == "relu" else jax.nn.sigmoid(x)) * self.max_depth


@final
class SegmentationEnding(eqx.Module):
    """A convolution with batch norm and ReLU, a linear layer for each cell, and upsampling."""

    conv: Conv
    norm: FrozenBatchNorm
    out: Linear

    def __init__(self, dim: int, *, num_classes: int, init: Init, key: PRNGKeyArray):
        """**Arguments:**

        - `dim`: the number of channels of the fused map.
        - `num_classes`: the number of classes.
        - `init`: draws the weights.
        - `key`: the random key of the weights.
        """
        conv_key, out_key = split_key(key)
        self.conv = Conv(dim, dim, bias=False, weight_init=init.mlp, key=conv_key)
        self.norm = FrozenBatchNorm(dim)
        self.out = Linear(dim, num_classes, weight_init=init.head, key=out_key)

    def __call__(self, x: Float[Array, "rows cols dim"], size: tuple[int, int]) -> Float[Array, "height width classes"]:
        """**Arguments:**

        - `x`: the fused map.
        - `size`: rows and columns of the result.

        **Returns:**

        The scores of the classes.
        """
        scores = self.out(jax.nn.relu(self.norm(self.conv(x))))
        return resample(scores, size, "bilinear_corners")
