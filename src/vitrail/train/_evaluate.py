"""Evaluates a model on held-out images."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Integer, Shaped, UInt8

from .._check import check_positive
from ..images import Dataset, Pictures, Preprocess
from ._classifier import Classifier, check_classifier
from ._mesh import divide, find_mesh, replicate, use_mesh


@dataclass(frozen=True)
class Evaluation:
    """The predictions of a model for held-out images."""

    logits: Float32[np.ndarray, "images classes"]
    """The logits of each image."""
    labels: Integer[np.ndarray, " images"]
    """The true class of each image."""

    def __post_init__(self) -> None:
        check_outputs("logits", self.logits)

    def __repr__(self) -> str:
        return f"<Evaluation: {self.correct:,} of {len(self.labels):,} images right, {self.accuracy:.1%}>"

    @property
    def predicted(self) -> Int[np.ndarray, " images"]:
        """The class with the largest logit, for each image."""
        return np.argmax(self.logits, axis=1)

    @property
    def probability(self) -> Float[np.ndarray, " images"]:
        """The probability of the predicted class by softmax, for each image."""
        exponentials = np.exp(self.logits.astype(np.float64) - np.max(self.logits, axis=1, keepdims=True))
        return np.max(exponentials, axis=1) / np.sum(exponentials, axis=1)

    @property
    def correct(self) -> int:
        """The number of images that are classified correctly."""
        return int(np.sum(self.predicted == self.labels))

    @property
    def accuracy(self) -> float:
        """The fraction of the images that are classified correctly."""
        return self.correct / len(self.labels)


def evaluate(model: Classifier, data: Dataset, *, batch_size: int = 250) -> Evaluation:
    """Classifies the held-out images of a data set.

    **Arguments:**

    - `model`: what `fit` takes and returns.
    - `data`: the data set, whose `test` is classified.
    - `batch_size`: how many images are classified at a time.

    **Returns:**

    An `Evaluation`.

    **Raises:** `ValueError` if the model does not take the images or return one logit for each class;
    `FloatingPointError` if the logits of an image are NaN, or the largest is infinite.
    """
    check_positive(batch_size=batch_size)
    check_classifier(model, data)
    return Evaluation(
        apply_in_batches(_compute_logits, model, data.test.images, data.preprocess, batch_size), data.test.labels
    )


def check_outputs(name: str, outputs: Shaped[np.ndarray, "images ..."], *, first: int = 0) -> None:
    """Checks that what a model returned for images are numbers. Some logits may be -inf, which excludes classes.

    **Arguments:**

    - `name`: what was returned, for the message.
    - `outputs`: for each image.
    - `first`: the number of the first image.

    **Raises:** `FloatingPointError` that says how many images have NaN, or infinity as the largest number, and which is
    the first.
    """
    wrong = np.flatnonzero(~np.isfinite(np.max(outputs, axis=tuple(range(1, outputs.ndim)))))
    if len(wrong):
        which = f" for {len(wrong):,} of {len(outputs):,} images, the first of them image {first + wrong[0]}"
        raise FloatingPointError(
            f"the {name} must be finite, got NaN or infinity{which if len(outputs) > 1 else ''}: look for NaN in the "
            "weights of the model, or train it again"
        )


@eqx.filter_jit
def _compute_logits(
    model: Any, images: UInt8[Array, "batch height width channels"], preprocess: Preprocess
) -> Float[Array, "batch classes"]:
    def classify(image: Float[Array, "height width channels"]) -> Float[Array, " classes"]:
        return model(image)

    return jax.vmap(classify)(preprocess.normalise(images))


def apply_in_batches(
    function: Any, model: Any, inputs: Shaped[np.ndarray, "images ..."] | Pictures, fixed: Any, batch_size: int
) -> Float32[np.ndarray, "images ..."]:
    """Applies a compiled function to all inputs, batch by batch.

    **Arguments:** as in `iterate_batches`.

    **Returns:**

    The results for all inputs, in their order.
    """
    return np.concatenate([made for _, made in iterate_batches(function, model, inputs, fixed, batch_size)])


def iterate_batches(
    function: Any, model: Any, inputs: Shaped[np.ndarray, "images ..."] | Pictures, fixed: Any, batch_size: int
) -> Iterator[tuple[slice, Float32[np.ndarray, "batch ..."]]]:
    """Applies a compiled function to one batch of inputs after the other.

    **Arguments:**

    - `function`: a compiled function, called as `function(model, batch, fixed)`. It returns an array whose first axis
        is the batch.
    - `model`: the model. If it is divided over devices, each batch is, too.
    - `inputs`: images, or other arrays with one row for each.
    - `fixed`: another argument, the same for all batches, such as a `Preprocess`.
    - `batch_size`: the number of inputs in a batch. The last batch is padded, so that the function is compiled once.

    **Returns:**

    For each batch the slice of `inputs`, and the results. Each host gets all results.
    """
    mesh = find_mesh(model)
    batch_size = min(batch_size, len(inputs))
    if mesh is not None:
        batch_size += -batch_size % mesh.size
    for start in range(0, len(inputs), batch_size):
        batch = np.asarray(inputs[start : start + batch_size])
        filled = np.concatenate([batch, np.repeat(batch[-1:], batch_size - len(batch), axis=0)])
        with use_mesh(mesh):
            made = replicate(function(model, jnp.asarray(filled) if mesh is None else divide(filled, mesh), fixed))
        yield slice(start, start + len(batch)), np.asarray(made)[: len(batch)]
