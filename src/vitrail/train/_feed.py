"""The batches of a run."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Int

from ..images import Dataset
from ._batches import make_batches
from ._recipe import Recipe
from .objectives import AbstractObjective, Batch


def make_feed(
    objective: AbstractObjective, model: Any, data: Dataset, recipe: Recipe, *, seed: int, start: int = 0
) -> Iterator[Batch]:
    """Makes the batches of a run.

    **Arguments:**

    - `objective`: says which arrays a batch has.
    - `model`: what the objective prepared.
    - `data`: its training images are used.
    - `recipe`: how many epochs, and how many images in a batch.
    - `seed`: for all that is random.
    - `start`: how many batches are left out at the beginning.

    **Returns:**

    The batches, loaded ahead.

    **Raises:** what `make_batches` raises.
    """

    def load(which: Int[np.ndarray, " batch"]) -> Batch:
        found = {"image": data.train.images[which], "label": data.train.labels[which]}
        return {name: found[name] for name in objective.inputs}

    options: dict[str, Any] = {"epochs": recipe.epochs, "batch_size": recipe.batch_size, "seed": seed, "start": start}
    _, batches = make_batches(load, len(data.train), **options)
    for step, batch in enumerate(batches, start=start):
        yield objective.add_inputs(model, batch, seed=(seed + step) % 2**32)
