"""How good a model is on images that it has not learned from."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int32, Shaped, UInt8

from .._check import check_positive
from ._data import Dataset, Normalisation
from ._fit import Classifier, check_classifier


@dataclass(frozen=True)
class Evaluation:
    """What a model says about the held-out images."""

    logits: Float32[np.ndarray, "images classes"]
    """Of each image."""
    labels: Int32[np.ndarray, " images"]
    """The true class of each image."""

    @property
    def predicted(self) -> Int[np.ndarray, " images"]:
        """The class with the largest logit, of each image."""
        return np.argmax(self.logits, axis=1)

    @property
    def probability(self) -> Float[np.ndarray, " images"]:
        """How sure the model is of the class it predicts, by softmax."""
        exponentials = np.exp(self.logits.astype(np.float64) - np.max(self.logits, axis=1, keepdims=True))
        return np.max(exponentials, axis=1) / np.sum(exponentials, axis=1)

    @property
    def correct(self) -> int:
        """How many images are classified rightly."""
        return int(np.sum(self.predicted == self.labels))

    @property
    def accuracy(self) -> float:
        """The part of the images that is classified rightly."""
        return self.correct / len(self.labels)


def evaluate(model: Classifier, data: Dataset, *, batch_size: int = 250) -> Evaluation:
    """Classifies the held-out images of a data set. Nothing is random here.

    **Arguments:**

    - `model`: what `fit` takes and returns.
    - `data`: whose `test` is classified.
    - `batch_size`: images at a time. It changes no result beyond rounding.

    **Returns:**

    An `Evaluation`.

    **Raises:** `ValueError` where the model does not return one logit for each class.
    """
    check_positive(batch_size=batch_size)
    check_classifier(model, data)
    return Evaluation(in_batches(_logits, model, data.test.images, data.normalisation, batch_size), data.test.labels)


@eqx.filter_jit
def _logits(
    model: Any, images: UInt8[Array, "batch height width channels"], normalisation: Normalisation
) -> Float[Array, "batch classes"]:
    def classify(image: Float[Array, "height width channels"]) -> Float[Array, " classes"]:
        return model(image)

    return jax.vmap(classify)(normalisation(images))


def in_batches(
    function: Any, model: Any, inputs: Shaped[np.ndarray, "images ..."], fixed: Any, batch_size: int
) -> Float32[np.ndarray, "images ..."]:
    """A compiled function of a model, a batch and what stays the same, applied to all inputs."""
    return np.concatenate([made for _, made in each_batch(function, model, inputs, fixed, batch_size)])


def each_batch(
    function: Any, model: Any, inputs: Shaped[np.ndarray, "images ..."], fixed: Any, batch_size: int
) -> Iterator[tuple[slice, Float32[np.ndarray, "batch ..."]]]:
    """Which inputs, and what the function makes of them. The last batch is filled up, so that it compiles once."""
    batch_size = min(batch_size, len(inputs))
    for start in range(0, len(inputs), batch_size):
        batch = np.asarray(inputs[start : start + batch_size])
        filled = np.concatenate([batch, np.repeat(batch[-1:], batch_size - len(batch), axis=0)])
        made = np.asarray(function(model, jnp.asarray(filled), fixed))[: len(batch)]
        yield slice(start, start + len(batch)), made
