"""DPT's fusion of maps, from coarse to fine."""

from functools import partial
from typing import final

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from ..nn import Conv, FrozenBatchNorm, Init, Linear, resample, split_key


@final
class ResidualUnit(eqx.Module):
    """Two convolutions, each after a ReLU, by choice with a batch norm, and the sum with the input."""

    conv1: Conv
    norm1: FrozenBatchNorm | None
    conv2: Conv
    norm2: FrozenBatchNorm | None

    def __init__(self, dim: int, *, bias: bool, batch_norm: bool, init: Init, key: PRNGKeyArray):
        """**Arguments:**

        - `dim`: the number of channels.
        - `bias`: whether the convolutions have one.
        - `batch_norm`: whether a batch norm follows each.
        - `init`: draws the weights.
        - `key`: the random key of the weights.
        """
        key1, key2 = split_key(key)
        self.conv1 = Conv(dim, dim, bias=bias, weight_init=init.mlp, key=key1)
        self.norm1 = FrozenBatchNorm(dim) if batch_norm else None
        self.conv2 = Conv(dim, dim, bias=bias, weight_init=init.mlp, key=key2)
        self.norm2 = FrozenBatchNorm(dim) if batch_norm else None

    def __call__(self, x: Float[Array, "height width dim"]) -> Float[Array, "height width dim"]:
        """**Arguments:**

        - `x`: a map.

        **Returns:**

        A map of the same size.
        """
        y = self.conv1(jax.nn.relu(x))
        y = jax.nn.relu(y if self.norm1 is None else self.norm1(y))
        y = self.conv2(y)
        return x + (y if self.norm2 is None else self.norm2(y))


@final
class Fusion(eqx.Module):
    """Adds a finer map to what was fused so far, refines the sum and upsamples it."""

    skip: ResidualUnit | None
    refine: ResidualUnit
    project: Linear

    def __init__(self, dim: int, *, first: bool, bias: bool, batch_norm: bool, init: Init, key: PRNGKeyArray):
        """**Arguments:**

        - `dim`: the number of channels.
        - `first`: whether it gets the coarsest map alone.
        - `bias`, `batch_norm`: of the residual units.
        - `init`: draws the weights.
        - `key`: the random key of the weights.
        """
        skip_key, refine_key, project_key = split_key(key, 3)
        make_unit = partial(ResidualUnit, dim, bias=bias, batch_norm=batch_norm, init=init)
        self.skip = None if first else make_unit(key=skip_key)
        self.refine = make_unit(key=refine_key)
        self.project = Linear(dim, dim, weight_init=init.mlp, key=project_key)

    def __call__(
        self, x: Float[Array, "height width dim"] | None, finer: Float[Array, "rows cols dim"], size: tuple[int, int]
    ) -> Float[Array, "new_height new_width dim"]:
        """**Arguments:**

        - `x`: what was fused so far; `None` for nothing.
        - `finer`: the next map. It is brought to the size of `x`.
        - `size`: rows and columns of the result.

        **Returns:**

        The fused map.
        """
        x = finer if x is None or self.skip is None else x + self.skip(resample(finer, x.shape[:2], "bilinear"))
        return self.project(resample(self.refine(x), size, "bilinear_corners"))
