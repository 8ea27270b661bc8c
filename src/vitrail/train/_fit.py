"""Training a model on images."""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer, PRNGKeyArray, Shaped, UInt8

from ..images import Dataset, Preprocess
from ..model import ViT, replace
from ._batches import make_batches
from ._loop import Batch, Progress, Scalar, cross_entropy, optimise
from ._recipe import Recipe


@runtime_checkable
class Classifier(Protocol):
    """What can be trained: a module that returns the logits of one image, as `vitrail.ViT` does."""

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
        data = vitrail.images.load_mnist()
        model = vitrail.train.fit(model, data, vitrail.train.Recipe(), key=key)
        print(vitrail.train.evaluate(model, data).accuracy)
        ```

    **Arguments:**

    - `model`: takes one image, normalised by `data.preprocess`, and returns one logit for each class.
    - `data`: the data set. Its `train` is used, its `test` is not.
    - `recipe`: the settings of the run.
    - `key`: for the order of the images, their augmentation and what is random in the model. The same key gives the
        same weights on the same machine.
    - `report`: is called with the `Progress` after the first step, after every tenth, and after the last.

    **Returns:**

    The trained model; the configuration of a `vitrail.ViT` has the preprocessing and the class names of the data. The
    model that was passed does not change.

    **Raises:** `ValueError` if the model does not take the images or return one logit for each class, or if a batch is
    larger than all epochs together; `FloatingPointError` that names the first step whose loss is not finite;
    `MissingExtraError` if optax or grain is not installed.
    """
    check_classifier(model, data)

    def load(which: Int[np.ndarray, " batch"]) -> Batch:
        return data.train.images[which], data.train.labels[which]

    order_key, steps_key = jax.random.split(key)
    seed = int(jax.random.bits(order_key, dtype=jnp.uint32))
    steps, feed = make_batches(load, len(data.train), epochs=recipe.epochs, batch_size=recipe.batch_size, seed=seed)
    fixed = recipe, data.preprocess
    described = _describe_data(model, data)
    return optimise(described, _compute_loss, feed, steps, recipe, fixed=fixed, key=steps_key, report=report)


def _describe_data(model: M, data: Dataset) -> M:
    """The model with the preprocessing and the class names of the data in its configuration, if it has one."""
    if not isinstance(model, ViT):
        return model
    # A head of the user's own may count the classes elsewhere.
    classes = data.classes if model.config.num_classes == len(data.classes) else None
    return cast(M, replace(model, classes=classes, preprocess=data.preprocess))


def _compute_loss(
    model: Any,
    images: UInt8[Array, "batch height width channels"],
    labels: Integer[Array, " batch"],
    key: PRNGKeyArray,
    fixed: tuple[Recipe, Preprocess],
) -> tuple[Scalar, Scalar]:
    recipe, preprocess = fixed
    augment_key, model_key = jax.random.split(key)
    augmented = recipe.augmentation(images.astype(jnp.float32), key=augment_key)

    def classify(image: Float[Array, "height width channels"], key: PRNGKeyArray) -> Float[Array, " classes"]:
        return model(image, key=key)

    logits = jax.vmap(classify)(preprocess.normalise(augmented), jax.random.split(model_key, len(images)))
    return cross_entropy(logits, labels, recipe.label_smoothing)


def check_channels(model: ViT, data: Dataset) -> None:
    """Checks that the images of a data set have the channels that a model reads.

    **Arguments:**

    - `model`: a ViT.
    - `data`: the data set.

    **Raises:** `ValueError` if they do not.
    """
    channels = model.config.channels
    if channels != data.channels:
        raise ValueError(
            f"model must have the channels of the images, {data.channels}, got {channels}: load the images with "
            f"channels={channels}, or build the model with channels={data.channels}"
        )


def check_classifier(model: Any, data: Dataset) -> None:
    """Checks that a model takes the images of a data set, and returns one logit for each class. Only shapes are
    computed.

    **Arguments:**

    - `model`: what `fit` takes.
    - `data`: the data set.

    **Raises:** `ValueError` if it does not.
    """
    if isinstance(model, ViT):
        check_channels(model, data)
    image = jax.ShapeDtypeStruct((*data.image_size, data.channels), jnp.float32)
    logits = cast(jax.ShapeDtypeStruct, eqx.filter_eval_shape(model, image))
    if logits.shape != (len(data.classes),):
        raise ValueError(
            f"model must return logits of shape ({len(data.classes)},), got {logits.shape}: build the model "
            f"with num_classes={len(data.classes)}, a pool that returns one vector, and a head with classes"
        )
