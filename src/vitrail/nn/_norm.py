"""Normalisation of layers, by root mean square, of batches and to unit length, and modules in other dtypes but for
norms."""

from typing import ClassVar, Final, Literal, TypeVar, cast, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._dtype import at_least_float32
from ._labels import ParameterKinds

_T = TypeVar("_T")
NormName = Literal["layer", "rms"]
"""The norms that an encoder can have."""
_SMALLEST: Final = 1e-12
"""The length of a vector that is not divided by its own."""


@final
class LayerNorm(eqx.Module):
    """Layer normalisation of the last axis, computed at least in float32.

    ??? cite

        Ba, Kiros and Hinton, *Layer Normalization*, 2016, arXiv:1607.06450.
    """

    parameter_kinds: ClassVar[ParameterKinds] = {"weight": "norm", "bias": "norm"}

    weight: Float[Array, " dim"]
    bias: Float[Array, " dim"]
    eps: float = eqx.field(static=True)

    def __init__(self, dim: int, *, eps: float):
        """**Arguments:**

        - `dim`: the width of the last axis.
        - `eps`: what is added to the variance.
        """
        self.weight = jnp.ones(dim, jnp.float32)
        self.bias = jnp.zeros(dim, jnp.float32)
        self.eps = eps

    def __call__(self, x: Float[Array, "*batch {self.weight.shape[-1]}"]) -> Float[Array, "*batch dim"]:
        """**Arguments:**

        - `x`: an array with a last axis of width `dim`.

        **Returns:**

        An array of the same shape and dtype.
        """
        wide = x.astype(at_least_float32(x.dtype))
        centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        normal = centred * jax.lax.rsqrt(variance + self.eps)
        weight, bias = (jnp.broadcast_to(p.astype(wide.dtype), x.shape) for p in (self.weight, self.bias))
        return (normal * weight + bias).astype(x.dtype)


@final
class RMSNorm(eqx.Module):
    """Normalisation of the last axis by its root mean square, computed at least in float32.

    ??? cite

        Zhang and Sennrich, *Root Mean Square Layer Normalization*, NeurIPS 2019, arXiv:1910.07467.
    """

    parameter_kinds: ClassVar[ParameterKinds] = {"weight": "norm"}

    weight: Float[Array, " dim"]
    eps: float = eqx.field(static=True)

    def __init__(self, dim: int, *, eps: float):
        """**Arguments:**

        - `dim`: the width of the last axis.
        - `eps`: what is added to the mean square.
        """
        self.weight = jnp.ones(dim, jnp.float32)
        self.eps = eps

    def __call__(self, x: Float[Array, "*batch {self.weight.shape[-1]}"]) -> Float[Array, "*batch dim"]:
        """**Arguments:**

        - `x`: an array with a last axis of width `dim`.

        **Returns:**

        An array of the same shape and dtype.
        """
        wide = x.astype(at_least_float32(x.dtype))
        normal = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.eps)
        return (normal * jnp.broadcast_to(self.weight.astype(wide.dtype), x.shape)).astype(x.dtype)


Norm = LayerNorm | RMSNorm
"""The norm of an encoder."""


def make_norm(name: NormName, dim: int, *, eps: float) -> Norm:
    """A fresh norm by its name."""
    return RMSNorm(dim, eps=eps) if name == "rms" else LayerNorm(dim, eps=eps)


@final
class FrozenBatchNorm(eqx.Module):
    """Batch normalisation of the last axis with the mean and variance that training left behind.

    They are constants: no gradient reaches them, and no batch changes them.

    ??? cite

        Ioffe and Szegedy, *Batch Normalization*, ICML 2015, arXiv:1502.03167.
    """

    parameter_kinds: ClassVar[ParameterKinds] = {"weight": "norm", "bias": "norm", "mean": "norm", "variance": "norm"}

    weight: Float[Array, " dim"]
    bias: Float[Array, " dim"]
    mean: Float[Array, " dim"]
    variance: Float[Array, " dim"]
    eps: float = eqx.field(static=True)

    def __init__(self, dim: int, *, eps: float = 1e-5):
        """**Arguments:**

        - `dim`: the width of the last axis.
        - `eps`: what is added to the variance.
        """
        self.weight = jnp.ones(dim, jnp.float32)
        self.bias = jnp.zeros(dim, jnp.float32)
        self.mean = jnp.zeros(dim, jnp.float32)
        self.variance = jnp.ones(dim, jnp.float32)
        self.eps = eps

    def __call__(self, x: Float[Array, "*batch {self.weight.shape[-1]}"]) -> Float[Array, "*batch dim"]:
        """**Arguments:**

        - `x`: an array with a last axis of width `dim`.

        **Returns:**

        An array of the same shape and dtype.
        """
        dtype = at_least_float32(x.dtype)
        mean, variance = (jax.lax.stop_gradient(p.astype(dtype)) for p in (self.mean, self.variance))
        scale = self.weight.astype(dtype) * jax.lax.rsqrt(variance + self.eps)
        shift = self.bias.astype(dtype) - mean * scale
        scale, shift = (jnp.broadcast_to(p, x.shape) for p in (scale, shift))
        return (x.astype(dtype) * scale + shift).astype(x.dtype)


def normalise(x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
    """Scales the last axis to unit length, computed at least in float32. A vector of zeros stays zero, and its gradient
    finite."""
    wide = x.astype(at_least_float32(x.dtype))
    square = jnp.sum(jnp.square(wide), axis=-1, keepdims=True)
    return (wide * jax.lax.rsqrt(jnp.maximum(square, _SMALLEST**2))).astype(x.dtype)


def to_jax(tree: _T) -> _T:
    """Converts NumPy arrays, as `jax.device_get` returns them, to JAX arrays. All other leaves stay the same."""

    def convert(leaf: object) -> object:
        return jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf

    return jax.tree.map(convert, tree)


def is_norm(part: object) -> bool:
    """Whether a module is a norm, ours or Equinox's, whose parameters stay in float32."""
    return isinstance(part, LayerNorm | RMSNorm | FrozenBatchNorm | eqx.nn.LayerNorm | eqx.nn.RMSNorm)


def to_dtype(part: _T, dtype: jnp.dtype) -> _T:
    """Converts the floating-point arrays of a module, NumPy's too, to the dtype to compute in. Norms keep theirs."""

    def convert(leaf: object) -> object:
        if not isinstance(leaf, jax.Array | np.ndarray):
            return leaf
        array = cast(Array, leaf)
        return jnp.asarray(array, dtype) if jnp.issubdtype(array.dtype, jnp.inexact) else array

    return jax.tree.map(convert, part, is_leaf=is_norm)
