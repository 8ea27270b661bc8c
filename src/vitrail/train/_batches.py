"""Batches in a shuffled order."""

from collections.abc import Callable, Iterator
from typing import TypeVar, cast

import numpy as np
from jaxtyping import Int

from .._extras import require

B = TypeVar("B")


def batches(
    load: Callable[[Int[np.ndarray, " batch"]], B], length: int, *, epochs: int, batch_size: int, seed: int
) -> tuple[int, Iterator[B]]:
    """How many batches there are, and the batches: what `load` makes of the indices of each, out of so many.

    Each epoch is shuffled anew. Batches are full: one may reach over the end of an epoch, and what is left after the
    last epoch is not seen.
    """
    grain = require("grain", extra="train")
    order = grain.MapDataset.source(np.arange(length)).seed(seed).shuffle().repeat(epochs)
    order = order.batch(batch_size, drop_remainder=True)
    steps = len(order)
    if steps == 0:
        raise ValueError(
            f"batch_size must be at most the images of all epochs together, {epochs * length}, but {batch_size} "
            "came: take a smaller one"
        )
    # One thread that works ahead is enough to hide the loading, and leaves the cores to the model.
    ahead = grain.ReadOptions(num_threads=1, prefetch_buffer_size=8)
    return steps, cast("Iterator[B]", iter(order.map(load).to_iter_dataset(ahead)))
