"""Digests of arrays that are divided over devices and hosts."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Shaped, UInt64

from .._files import count_cores

_LARGEST: Final = 2**20  # elements at a time, whose products stay in the cache
_STEP, _FIRST, _SECOND = (np.uint64(x) for x in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))

_Part = tuple[Shaped[np.ndarray, "..."], Sequence[int]]
"""A part of an array, and where it begins along each axis."""


def digest_divided(arrays: Mapping[str, Any]) -> dict[str, str]:
    """Digests arrays. However an array is divided over devices and hosts, its digest is the same: the sum of a mixture
    of each element with its place, which changes with each element.

    ??? cite

        The mixture: Steele, Lea and Flood, *Fast Splittable Pseudorandom Number Generators*, OOPSLA 2014.

    **Arguments:**

    - `arrays`: the same on each host, which digests its parts.

    **Returns:**

    The digest of each, in hexadecimal digits.
    """
    with ThreadPoolExecutor(count_cores()) as pool:
        sums = [pool.map(_digest_part, _list_parts(array)) for array in arrays.values()]
        own = np.array([sum(map(int, each)) % 2**64 for each in sums], np.uint64)
    if jax.process_count() > 1:  # as halves, because JAX has no integers of 64 bits
        halves = multihost_utils.process_allgather(own.view(np.uint32))
        own = np.asarray(halves).view(np.uint64).reshape(-1, len(own)).sum(axis=0)
    return {name: f"{digest:016x}" for name, digest in zip(arrays, own.tolist(), strict=True)}


def _list_parts(array: Any) -> Iterator[tuple[_Part, tuple[int, ...]]]:
    """The parts of an array that this host answers for, each with the shape of the whole."""
    if not isinstance(array, jax.Array):
        yield from (((part, start), array.shape) for part, start in _cut(array, (0,) * array.ndim))
        return
    for shard in array.addressable_shards:
        if shard.replica_id == 0:
            start = [place.start or 0 for place in shard.index]
            yield from ((part, array.shape) for part in _cut(np.asarray(shard.data), start))


def _cut(array: Shaped[np.ndarray, "..."], start: Sequence[int]) -> Iterator[_Part]:
    """An array in pieces of a moderate size, along its first axes."""
    if array.size <= _LARGEST:
        yield array, start
        return
    axis = next(axis for axis, length in enumerate(array.shape) if length > 1)
    middle = array.shape[axis] // 2
    for piece, moved in zip(np.split(array, [middle], axis), (0, middle), strict=True):
        yield from _cut(piece, [first + moved * (i == axis) for i, first in enumerate(start)])


def _digest_part(given: tuple[_Part, tuple[int, ...]]) -> np.uint64:
    (part, start), shape = given
    place = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):
        for first, length, whole in zip(start, part.shape, shape, strict=True):
            place = place[..., None] * np.uint64(whole) + np.arange(first, first + length, dtype=np.uint64)
        mixed: UInt64[np.ndarray, ...] = _read_bits(part) + (place + np.uint64(1)) * _STEP
        mixed = (mixed ^ (mixed >> np.uint64(30))) * _FIRST
        mixed = (mixed ^ (mixed >> np.uint64(27))) * _SECOND
        return np.sum(mixed ^ (mixed >> np.uint64(31)), dtype=np.uint64)


def _read_bits(part: Shaped[np.ndarray, "..."]) -> UInt64[np.ndarray, "..."]:
    return np.asarray(part, order="C").view(f"u{part.dtype.itemsize}").astype(np.uint64)
