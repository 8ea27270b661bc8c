"""Batches in a shuffled order."""

from collections.abc import Callable, Iterator
from typing import TypeVar, cast

import numpy as np
from jaxtyping import Int

from .._extras import require

B = TypeVar("B")


def make_batches(
    load: Callable[[Int[np.ndarray, " batch"]], B],
    length: int,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    start: int = 0,
) -> tuple[int, Iterator[B]]:
    """Makes shuffled batches.

    **Arguments:**

    - `load`: returns the batch of some indices.
    - `length`: the number of images.
    - `epochs`, `batch_size`: as in `Recipe`.
    - `seed`: for the order. Each epoch has another.
    - `start`: how many batches are left out at the beginning.

    **Returns:**

    The number of batches, and the batches. All are full: one may cross the end of an epoch, and the images that remain
    after the last epoch are left out.

    **Raises:** `ValueError` if there is not one full batch; `MissingExtraError` if grain is not installed.
    """
    grain = require("grain", extra="train")
    order = grain.MapDataset.source(np.arange(length)).seed(seed).shuffle().repeat(epochs)
    order = order.batch(batch_size, drop_remainder=True)
    steps = count_steps(length, epochs=epochs, batch_size=batch_size)
    # One thread that loads ahead is enough, and leaves the cores to the model.
    ahead = grain.ReadOptions(num_threads=1, prefetch_buffer_size=8)
    return steps, cast("Iterator[B]", iter(order[start:].map(load).to_iter_dataset(ahead)))


def count_steps(length: int, *, epochs: int, batch_size: int) -> int:
    """The number of batches of `make_batches`, and its `ValueError` if there is none."""
    steps = epochs * length // batch_size
    if steps == 0:
        raise ValueError(
            f"batch_size must be at most {epochs * length}, the images of all epochs together, got {batch_size}"
        )
    return steps
