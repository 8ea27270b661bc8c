"""Batches of a training set in a shuffled order."""

from collections.abc import Iterator
from typing import cast

import numpy as np
from jaxtyping import Int32, UInt8

from .._extras import require
from ._data import Examples

Batch = tuple[UInt8[np.ndarray, "batch height width channels"], Int32[np.ndarray, " batch"]]


def batches(examples: Examples, *, epochs: int, batch_size: int, seed: int) -> tuple[int, Iterator[Batch]]:
    """How many batches there are, and the batches.

    Each epoch is shuffled anew. Batches are full: one may reach over the end of an epoch, and what is left after the
    last epoch is not seen.
    """
    grain = require("grain", extra="train")
    order = grain.MapDataset.source(np.arange(len(examples))).seed(seed).shuffle().repeat(epochs)
    order = order.batch(batch_size, drop_remainder=True)
    steps = len(order)
    if steps == 0:
        raise ValueError(
            f"batch_size must be at most the images of all epochs together, {epochs * len(examples)}, but {batch_size} "
            "came: take a smaller one"
        )

    def load(which: np.ndarray) -> Batch:
        return examples.images[which], examples.labels[which]

    # One thread that works ahead is enough to hide the loading, and leaves the cores to the model.
    ahead = grain.ReadOptions(num_threads=1, prefetch_buffer_size=8)
    return steps, cast(Iterator[Batch], iter(order.map(load).to_iter_dataset(ahead)))
