"""Convolutions over maps, channels last."""

from typing import ClassVar, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._check import check_positive
from ._init import Initializer
from ._labels import ParameterKinds


@final
class Conv(eqx.Module):
    """A convolution over a map with zeros around it, as PyTorch's `Conv2d` with a padding of half the kernel.

    With a stride of 1 the map keeps its size; with 2 it has half of it, rounded up.
    """

    parameter_kinds: ClassVar[ParameterKinds] = {"weight": "matrix", "bias": "bias"}

    weight: Float[Array, "out_dim in_dim kernel kernel"]
    bias: Float[Array, " out_dim"] | None
    stride: int = eqx.field(static=True)

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        bias: bool = True,
        weight_init: Initializer,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `in_dim`, `out_dim`: the numbers of channels.
        - `kernel`: the side of the kernel, an odd number.
        - `stride`: the distance between the cells that are read.
        - `bias`: whether there is a bias, which starts at zero.
        - `weight_init`: draws the weight, as `(out_dim, in_dim * kernel * kernel)`.
        - `key`: for the weight.

        **Raises:** `ValueError` if a width is not positive or the kernel is even.
        """
        check_positive(in_dim=in_dim, out_dim=out_dim, kernel=kernel, stride=stride)
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, so that it has a middle, got {kernel}")
        flat = weight_init(key, (out_dim, in_dim * kernel**2), jnp.dtype(jnp.float32))
        self.weight = flat.reshape(out_dim, in_dim, kernel, kernel)
        self.bias = jnp.zeros(out_dim, jnp.float32) if bias else None
        self.stride = stride

    def __call__(self, x: Float[Array, "height width {self.weight.shape[1]}"]) -> Float[Array, "rows cols out_dim"]:
        """**Arguments:**

        - `x`: a map.

        **Returns:**

        The new map.
        """
        margin = self.weight.shape[-1] // 2
        y = jax.lax.conv_general_dilated(
            x[None],
            self.weight,
            (self.stride, self.stride),
            ((margin, margin), (margin, margin)),
            dimension_numbers=("NHWC", "OIHW", "NHWC"),
        )[0]
        return y if self.bias is None else y + jnp.broadcast_to(self.bias, y.shape)


@final
class Upscale(eqx.Module):
    """Makes each cell of a map a square of cells by a linear map: PyTorch's `ConvTranspose2d` with a stride as large as
    the kernel."""

    parameter_kinds: ClassVar[ParameterKinds] = {"weight": "matrix", "bias": "bias"}

    weight: Float[Array, "in_dim out_dim factor factor"]
    bias: Float[Array, " out_dim"]

    def __init__(self, in_dim: int, out_dim: int, *, factor: int, weight_init: Initializer, key: PRNGKeyArray):
        """**Arguments:**

        - `in_dim`, `out_dim`: the numbers of channels.
        - `factor`: the side of the square.
        - `weight_init`: draws the weight, as `(out_dim * factor * factor, in_dim)`.
        - `key`: for the weight.

        **Raises:** `ValueError` if a width or the factor is not positive.
        """
        check_positive(in_dim=in_dim, out_dim=out_dim, factor=factor)
        flat = weight_init(key, (out_dim * factor**2, in_dim), jnp.dtype(jnp.float32))
        self.weight = flat.T.reshape(in_dim, out_dim, factor, factor)
        self.bias = jnp.zeros(out_dim, jnp.float32)

    def __call__(self, x: Float[Array, "height width {self.weight.shape[0]}"]) -> Float[Array, "rows cols out_dim"]:
        """**Arguments:**

        - `x`: a map.

        **Returns:**

        The map with `factor` times as many rows and columns.
        """
        factor = self.weight.shape[-1]
        squares = jnp.einsum("hwi,ioab->hawbo", x, self.weight)
        y = squares.reshape(x.shape[0] * factor, x.shape[1] * factor, -1)
        return y + jnp.broadcast_to(self.bias, y.shape)
