"""Batches in a shuffled order."""

import operator
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

import jax
import numpy as np
from jaxtyping import Int

from .._check import check_positive
from .._extras import require
from .._files import count_cores

B = TypeVar("B")


def make_batches(
    load: Callable[[Any], B],
    length: int,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    start: int = 0,
    transform: Callable[[B, np.random.Generator], B] | None = None,
    host: int = 0,
    hosts: int = 1,
) -> tuple[int, Iterator[B]]:
    """Makes shuffled batches, which are loaded ahead.

    The order, and what is random in `transform`, depend on the seed, the epoch and the image only: not on the number of
    threads or hosts, nor on where the batches begin.

    **Arguments:**

    - `load`: returns the batch of some indices; with `transform`, the example of one index, an `int`.
    - `length`: the number of images.
    - `epochs`, `batch_size`: as in `Recipe`.
    - `seed`: for the order and for `transform`. Each epoch has another.
    - `start`: how many batches are left out at the beginning.
    - `transform`: changes an example at random. Examples are PyTrees of arrays, stacked to a batch. They are loaded and
        transformed in as many threads as the machine has cores.
    - `host`, `hosts`: which of several hosts this is. Each gets its part of every batch, one host after the other.

    **Returns:**

    The number of batches, with those left out, and the batches. All are full: one may cross the end of an epoch, and
    the images that remain after the last epoch are left out.

    **Raises:** `ValueError` if there is not one full batch, or the hosts cannot share one; `MissingExtraError` if grain
    is not installed.
    """
    grain = require("grain", extra="train")
    check_positive(hosts=hosts)
    if batch_size % hosts or not 0 <= host < hosts:
        raise ValueError(
            f"batch_size must be a multiple of hosts, and host below it, got batch_size={batch_size}, host={host} and "
            f"hosts={hosts}: each host loads as many images"
        )
    steps = count_steps(length, epochs=epochs, batch_size=batch_size)
    order = grain.MapDataset.source(np.arange(length)).seed(seed).shuffle().repeat(epochs)
    if transform is not None:
        order = order.random_map(_draw_seed)
        load = _make_loader(load, transform)
    size = batch_size // hosts
    order = order[: steps * batch_size].batch(batch_size)
    if hosts > 1:
        order = order.map(operator.itemgetter(slice(host * size, (host + 1) * size)))
    # Two batches are loaded at a time, so that no core waits for the last image of one.
    ahead = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
    return steps, cast("Iterator[B]", iter(order[start:].map(load).to_iter_dataset(ahead)))


def count_steps(length: int, *, epochs: int, batch_size: int) -> int:
    """The number of batches of `make_batches`, and its `ValueError` if there is none."""
    steps = epochs * length // batch_size
    if steps == 0:
        raise ValueError(
            f"batch_size must be at most {epochs * length}, the images of all epochs together, got {batch_size}"
        )
    return steps


def _draw_seed(index: np.int64, random: np.random.Generator) -> Int[np.ndarray, " 2"]:
    return np.array([index, random.integers(2**63)])


def _make_loader(load: Callable[[Any], B], transform: Callable[[B, np.random.Generator], B]) -> Callable[[Any], B]:
    """Returns what loads a batch of numbers and seeds, one image in each of as many threads as there are cores."""
    pool = ThreadPoolExecutor(count_cores())

    def load_one(drawn: Int[np.ndarray, " 2"]) -> B:
        return transform(load(int(drawn[0])), np.random.default_rng(drawn[1]))

    def stack(*leaves: Any) -> Any:
        return np.stack(leaves)

    def load_batch(drawn: Int[np.ndarray, "batch 2"]) -> B:
        return cast(B, jax.tree.map(stack, *pool.map(load_one, drawn)))

    return load_batch
