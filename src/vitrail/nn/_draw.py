"""Random numbers for fresh weights: those of `jax.random`, by programs that compile faster."""

import functools
import math
from typing import Any, Final, cast, overload

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt32

_ROTATIONS: Final = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY: Final = 0x1BD11BDA
_CUT: Final = 2.0
"""Where a truncated normal is cut, in standard deviations before the cut."""
_CUT_DEVIATION: Final = 0.87962566103423978
"""The standard deviation of a standard normal that is cut there."""


def draw_normal(key: PRNGKeyArray, shape: tuple[int, ...], *, std: float, cut: bool = False) -> Float[Array, "..."]:
    """Draws from a normal distribution.

    **Arguments:**

    - `key`: the key.
    - `shape`: of the array.
    - `std`: the standard deviation.
    - `cut`: whether nothing is further from zero than two standard deviations of the distribution before it is cut.

    **Returns:**

    The numbers of `jax.random.normal` or `jax.random.truncated_normal`, scaled.
    """
    high = math.erf(_CUT / math.sqrt(2)) if cut else 1.0
    low = -high if cut else np.nextafter(np.float32(-1), np.float32(0)).item()
    scale = std / _CUT_DEVIATION if cut else std
    return cast(Any, _draw)(key, low, high, math.sqrt(2), scale, shape=shape, is_normal=True)


def draw_uniform(key: PRNGKeyArray, shape: tuple[int, ...], *, bound: float) -> Float[Array, "..."]:
    """Draws evenly.

    **Arguments:**

    - `key`: the key.
    - `shape`: of the array.
    - `bound`: the largest distance from zero.

    **Returns:**

    The numbers of `jax.random.uniform` from `-bound` to `bound`.
    """
    return cast(Any, _draw)(key, -bound, bound, 1.0, 1.0, shape=shape, is_normal=False)


@overload
def split_key(key: PRNGKeyArray, num: int = 2) -> tuple[PRNGKeyArray, ...]: ...
@overload
def split_key(key: PRNGKeyArray | None, num: int = 2) -> tuple[PRNGKeyArray | None, ...]: ...
def split_key(key: PRNGKeyArray | None, num: int = 2) -> tuple[PRNGKeyArray | None, ...]:
    """Splits a key.

    **Arguments:**

    - `key`: the key, or `None`.
    - `num`: how many keys there shall be.

    **Returns:**

    The keys of `jax.random.split`, one by one; without a key all are `None`.
    """
    return (None,) * num if key is None else cast(Any, _split)(key, num=num)


@functools.partial(jax.jit, static_argnames=("num",))
def _split(key: PRNGKeyArray, *, num: int) -> tuple[PRNGKeyArray, ...]:
    if not _is_threefry(key):
        return tuple(jax.random.split(key, num))
    # The barrier stops XLA from computing all words again for each key.
    words = jax.lax.optimization_barrier(jnp.stack(_hash(key, num), axis=-1))
    return tuple(cast(Any, jax.random).wrap_key_data(words))


@functools.partial(jax.jit, static_argnames=("shape", "is_normal"))
def _draw(
    key: PRNGKeyArray,
    low: Float[Array, ""],
    high: Float[Array, ""],
    spread: Float[Array, ""],
    scale: Float[Array, ""],
    *,
    shape: tuple[int, ...],
    is_normal: bool,
) -> Float[Array, "..."]:
    """Numbers between `low` and `high`, or the normal ones whose error functions these are. The factors are arguments,
    so that there is one program for each shape, and they are not merged: the last bit is that of `jax.random`."""
    # The upper 23 bits are the digits of a number from 1 to 2.
    bits = (_draw_bits(key, math.prod(shape)) >> 9) | np.uint32(0x3F800000)
    numbers = jax.lax.bitcast_convert_type(bits, jnp.float32) - 1
    numbers = jnp.maximum(low, numbers * (high - low) + low)
    if is_normal:
        numbers = spread * jax.lax.erf_inv(numbers)
    return (numbers * scale).reshape(shape)


def _draw_bits(key: PRNGKeyArray, number: int) -> UInt32[Array, " number"]:
    if not _is_threefry(key) or number >= 2**32:
        return jax.random.bits(key, (number,), jnp.uint32)
    first, second = _hash(key, number)
    return first ^ second


def _is_threefry(key: PRNGKeyArray) -> bool:
    """Whether `_hash` gives the bits of `jax.random`."""
    return jax.random.key_impl(key) == "threefry2x32" and cast(Any, jax.config).jax_threefry_partitionable


def _hash(key: PRNGKeyArray, number: int) -> tuple[UInt32[Array, " number"], UInt32[Array, " number"]]:
    """Threefry-2x32 of the numbers below `number`, in 20 rounds.

    `jax.random` compiles them as a loop on a CPU, which takes four times as long.

    ??? cite

        Salmon et al., *Parallel Random Numbers: As Easy as 1, 2, 3*, SC 2011.
    """
    words = cast(UInt32[Array, " 2"], cast(Any, jax.random.key_data)(key))
    keys = (words[0], words[1], words[0] ^ words[1] ^ np.uint32(_PARITY))
    first = jnp.broadcast_to(keys[0], (number,))
    second = jax.lax.iota(jnp.uint32, number) + keys[1]
    for turn in range(5):
        for distance in _ROTATIONS[turn % 2]:
            first = first + second
            second = first ^ ((second << distance) | (second >> (32 - distance)))
        first = first + keys[(turn + 1) % 3]
        second = second + keys[(turn + 2) % 3] + np.uint32(turn + 1)
    return first, second
