"""Training a model on images."""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32, PRNGKeyArray, Shaped, UInt8

from ._batches import batches
from ._data import Dataset, Normalisation
from ._loop import Batch, Progress, Scalar, cross_entropy, optimise
from ._recipe import Recipe


@runtime_checkable
class Classifier(Protocol):
    """What can be trained: a module that makes logits of one image, as `vitrail.ViT` does."""

    def __call__(self, image: Shaped[Array, "..."], *, key: PRNGKeyArray | None = None) -> Float[Array, "..."]: ...


M = TypeVar("M", bound=Classifier)


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

    def load(which: Int[np.ndarray, " batch"]) -> Batch:
        return data.train.images[which], data.train.labels[which]

    order_key, steps_key = jax.random.split(key)
    seed = int(jax.random.bits(order_key, dtype=jnp.uint32))
    steps, feed = batches(load, len(data.train), epochs=recipe.epochs, batch_size=recipe.batch_size, seed=seed)
    fixed = recipe, data.normalisation
    return optimise(model, _loss, feed, steps, recipe, fixed=fixed, key=steps_key, report=report)


def _loss(
    model: Any,
    images: UInt8[Array, "batch height width channels"],
    labels: Int32[Array, " batch"],
    key: PRNGKeyArray,
    fixed: tuple[Recipe, Normalisation],
) -> tuple[Scalar, Scalar]:
    recipe, normalisation = fixed
    augment_key, model_key = jax.random.split(key)
    augmented = recipe.augmentation(images.astype(jnp.float32), key=augment_key)

    def classify(image: Float[Array, "height width channels"], key: PRNGKeyArray) -> Float[Array, " classes"]:
        return model(image, key=key)

    logits = jax.vmap(classify)(normalisation(augmented), jax.random.split(model_key, len(images)))
    return cross_entropy(logits, labels, recipe.label_smoothing)


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
