"""The training loop."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar, cast, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, PRNGKeyArray, Shaped, UInt8

from ._batches import batches
from ._data import Dataset, Normalisation
from ._optimiser import Optimiser, make_optimiser
from ._recipe import Recipe

_REPORT_EVERY: Final = 10  # steps: reading the loss waits for the device


@runtime_checkable
class Classifier(Protocol):
    """What can be trained: a module that makes logits of one image, as `vitrail.ViT` does."""

    def __call__(self, image: Shaped[Array, "..."], *, key: PRNGKeyArray | None = None) -> Float[Array, "..."]: ...


M = TypeVar("M", bound=Classifier)
_Scalar = Float[Array, ""]
_Batch = tuple[UInt8[Array, "batch height width channels"], Int32[Array, " batch"], PRNGKeyArray]


@dataclass(frozen=True)
class Progress:
    """How far a training run has come."""

    step: int
    """Steps done."""
    steps: int
    """Steps in all."""
    images: int
    """Images seen."""
    loss: float
    """The mean since the last report."""
    accuracy: float
    """On the training images as augmented, the mean since the last report."""
    seconds: float
    """Since the second step: the first compiles."""
    images_per_second: float
    """Since the second step; 0 where there was none."""

    @property
    def seconds_left(self) -> float:
        """At the pace so far."""
        done = self.step - 1
        return (self.steps - self.step) * self.seconds / done if done else float("inf")


def fit(
    model: M,
    data: Dataset,
    recipe: Recipe,
    *,
    key: PRNGKeyArray,
    report: Callable[[Progress], object] | None = None,
) -> M:
    """Trains a model on the training images of a data set.

    !!! example

        ```python
        data = vitrail.train.load_mnist()
        model = vitrail.train.fit(model, data, vitrail.train.Recipe(), key=key)
        print(vitrail.train.evaluate(model, data).accuracy)
        ```

    **Arguments:**

    - `model`: takes one image as `data.normalisation` gives it, and returns one logit for each class.
    - `data`: whose `train` is learned from. Its `test` is not looked at.
    - `recipe`: the numbers of the run.
    - `key`: for the order of the images, their augmentation and what the model draws in training. The same key gives
        the same weights on the same machine.
    - `report`: is called with the `Progress` after the first step, after every tenth, and after the last.

    **Returns:**

    A new model; the one that came is as it was.

    **Raises:** `ValueError` where the model does not return one logit for each class, or a batch is larger than all
    epochs together; `FloatingPointError` where the loss is no longer finite; `MissingExtraError` where optax or grain
    is not installed.
    """
    check_classifier(model, data)
    order_key, steps_key = jax.random.split(key)
    seed = int(jax.random.bits(order_key, dtype=jnp.uint32))
    steps, feed = batches(data.train, epochs=recipe.epochs, batch_size=recipe.batch_size, seed=seed)
    optimiser = make_optimiser(recipe, steps)

    # A copy, as a step gives up the buffers of what it gets.
    trained: Any = jax.tree.map(_copied, model)
    run = trained, optimiser.init(_parameters(trained))
    recent: list[tuple[_Scalar, _Scalar]] = []
    started = time.perf_counter()
    for number, (images, labels) in enumerate(feed, start=1):
        batch = jnp.asarray(images), jnp.asarray(labels), jax.random.fold_in(steps_key, number)
        run, loss, accuracy = _step((batch, optimiser, recipe, data.normalisation), run)
        recent.append((loss, accuracy))
        if number == 1 or number % _REPORT_EVERY == 0 or number == steps:
            values = jax.device_get(recent)
            recent = []
            if number == 1:
                started = time.perf_counter()
            mean_loss, mean_accuracy = (float(sum(column) / len(values)) for column in zip(*values, strict=True))
            if not jnp.isfinite(mean_loss):
                raise FloatingPointError(
                    f"the loss must stay finite, but it was {mean_loss} at step {number} of {steps}: lower "
                    f"learning_rate ({recipe.learning_rate}) or clip_norm ({recipe.clip_norm})"
                )
            if report is not None:
                seconds = time.perf_counter() - started
                pace = (number - 1) * recipe.batch_size / seconds if number > 1 else 0.0
                seen = number * recipe.batch_size
                report(Progress(number, steps, seen, mean_loss, mean_accuracy, seconds, pace))
    return cast(M, run[0])


@eqx.filter_jit(donate="all-except-first")
def _step(fixed: tuple[_Batch, Optimiser, Recipe, Normalisation], run: Any) -> tuple[Any, _Scalar, _Scalar]:
    """One update of the model and the optimiser's state, whose buffers are given up for those that come back."""
    batch, optimiser, recipe, normalisation = fixed
    model, state = run
    grad = cast(Any, eqx.filter_value_and_grad(_loss, has_aux=True))
    (loss, accuracy), gradient = cast(tuple[tuple[_Scalar, _Scalar], Any], grad(model, *batch, recipe, normalisation))
    # optax itself raises an integer step to a float power, which a strict caller forbids.
    with jax.numpy_dtype_promotion("standard"):
        updates, state = optimiser.update(gradient, state, _parameters(model))
    return (eqx.apply_updates(model, updates), state), loss, accuracy


def _loss(
    model: Any,
    images: UInt8[Array, "batch height width channels"],
    labels: Int32[Array, " batch"],
    key: PRNGKeyArray,
    recipe: Recipe,
    normalisation: Normalisation,
) -> tuple[_Scalar, _Scalar]:
    """The mean cross-entropy of a batch, and the part of it that is classified rightly."""
    augment_key, model_key = jax.random.split(key)
    augmented = recipe.augmentation(images.astype(jnp.float32), key=augment_key)

    def classify(image: Float[Array, "height width channels"], key: PRNGKeyArray) -> Float[Array, " classes"]:
        return model(image, key=key)

    logits = jax.vmap(classify)(normalisation(augmented), jax.random.split(model_key, len(images)))
    log_probabilities = jax.nn.log_softmax(logits)
    right = jnp.take_along_axis(log_probabilities, labels[:, None], axis=1)[:, 0]
    smoothing = recipe.label_smoothing
    loss = -(1 - smoothing) * jnp.mean(right) - smoothing * jnp.mean(log_probabilities)
    return loss, jnp.mean((jnp.argmax(logits, axis=1) == labels).astype(jnp.float32))


def _parameters(model: Any) -> Any:
    return cast(Any, eqx.filter(model, eqx.is_inexact_array))


def _copied(leaf: Any) -> Any:
    return jnp.array(leaf) if eqx.is_array(leaf) else leaf


def check_classifier(model: Any, data: Dataset) -> None:
    """Raises a `ValueError` where a model does not return one logit for each class. Nothing is computed."""
    image = jax.ShapeDtypeStruct((*data.image_size, data.channels), jnp.float32)
    logits = cast(jax.ShapeDtypeStruct, eqx.filter_eval_shape(model, image))
    if logits.shape != (len(data.classes),):
        raise ValueError(
            f"model must return one logit for each of the {len(data.classes)} classes, but it returns the shape "
            f"{logits.shape}: build it with num_classes={len(data.classes)}, with a pool that gives one vector and a "
            "head that classifies"
        )
