"""Initialisers: how fresh weights are drawn."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ._draw import draw_normal, draw_uniform, split_key

InitName = Literal["trunc_normal", "big_vision"]
"""The names of the schemes in `INITS`."""


@runtime_checkable
class Initializer(Protocol):
    """A function that draws one array. The functions that `jax.nn.initializers` makes have this type."""

    def __call__(self, key: PRNGKeyArray, shape: tuple[int, ...], dtype: jnp.dtype, /) -> Float[Array, "..."]:
        """Draws an array.

        **Arguments:**

        - `key`: the random key.
        - `shape`: the shape of the array; `(out, in)` for a weight.
        - `dtype`: the dtype of the array.

        **Returns:**

        An array of that shape and dtype.
        """
        ...


@dataclass(frozen=True)
class Init:
    """A scheme: an initialiser for each kind of array.

    Weights are `(out, in)`, so the fan-in is the last axis. Biases that are not named here start at zero, and the
    scales of norms at one.
    """

    patch: Initializer
    """The patch embedding's weight, drawn as `(dim, channels * height * width)`."""
    attention: Initializer
    """Queries, keys, values and the projection, each drawn as its own `(dim, dim)` matrix."""
    mlp: Initializer
    """The weights of the MLP."""
    mlp_bias: Initializer
    """The biases of the MLP."""
    position: Initializer
    """A learned position embedding, `(tokens, dim)`."""
    class_token: Initializer
    """The class token, `(1, dim)`."""
    registers: Initializer
    """The register tokens, `(registers, dim)`."""
    head: Initializer
    """The weights of the head."""

    def __repr__(self) -> str:
        named = [name for name, init in INITS.items() if init is self]
        return f"<Init {named[0]}>" if named else "<Init with initializers of its own>"


_zeros = jax.nn.initializers.zeros


def _normal(std: float) -> Initializer:
    def draw(key: PRNGKeyArray, shape: tuple[int, ...], dtype: jnp.dtype, /) -> Float[Array, "..."]:
        return draw_normal(key, shape, std=std).astype(dtype)

    return draw


def _xavier(key: PRNGKeyArray, shape: tuple[int, ...], dtype: jnp.dtype, /) -> Float[Array, "..."]:
    return draw_uniform(key, shape, bound=(6 / (shape[-2] + shape[-1])) ** 0.5).astype(dtype)


def _lecun(key: PRNGKeyArray, shape: tuple[int, ...], dtype: jnp.dtype, /) -> Float[Array, "..."]:
    return draw_normal(key, shape, std=shape[-1] ** -0.5, cut=True).astype(dtype)


def draw_separately(initializer: Initializer, parts: int) -> Initializer:
    """An initializer that draws the rows as several matrices: one matrix would have too large a fan-out for Xavier."""

    def draw(key: PRNGKeyArray, shape: tuple[int, ...], dtype: jnp.dtype, /) -> Float[Array, "..."]:
        part = (shape[0] // parts, *shape[1:])
        return jnp.concatenate([initializer(k, part, dtype) for k in split_key(key, parts)])

    return draw


def _normal_by_width(key: PRNGKeyArray, shape: tuple[int, ...], dtype: jnp.dtype, /) -> Float[Array, "..."]:
    return _normal(1 / shape[-1] ** 0.5)(key, shape, dtype)


# PyTorch's trunc_normal_ cuts at +-2 in the units of the weight, which is 100 standard deviations of 0.02: no float32
# draw gets there, so a plain normal is the same. The trunc_normal of jax.nn.initializers cuts at two standard
# deviations, which reduces the standard deviation by 12 %; with wide bounds it returns the lower one once in some
# millions.
_normal_002 = _normal(0.02)

TRUNC_NORMAL: Final[Init] = Init(
    patch=_normal_002,
    attention=_normal_002,
    mlp=_normal_002,
    mlp_bias=_zeros,
    position=_normal_002,
    class_token=_normal_002,
    registers=_normal(1e-6),
    head=_normal_002,
)
"""The scheme of `ViTModel` of transformers, and of timm for linear layers and positions: every weight and embedding is
normal with standard deviation 0.02, and biases are zero. Registers are normal with standard deviation 1e-6, as in
DINOv2."""

BIG_VISION: Final[Init] = Init(
    patch=_lecun,
    attention=_xavier,
    mlp=_xavier,
    mlp_bias=_normal(1e-6),
    position=_normal_by_width,
    class_token=_zeros,
    registers=_normal(1e-6),
    head=_lecun,
)
"""The scheme of big_vision's `models/vit.py` (Google Research): LeCun normal for the patches, Xavier uniform for
attention and MLP, normal with standard deviation `1 / sqrt(dim)` for the positions, zero for the class token. For its
zero head use the option `zero=True` of the head. big_vision has no registers; they are drawn as in DINOv2."""

INITS: Final[Mapping[InitName, Init]] = MappingProxyType({"trunc_normal": TRUNC_NORMAL, "big_vision": BIG_VISION})
"""The schemes by name."""
