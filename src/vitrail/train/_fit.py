"""Training a model on images."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol, cast, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped

from ..images import Dataset, Preprocess
from ..model import ViT, replace
from ._batches import make_batches
from ._loop import Progress, run_steps
from ._recipe import Recipe
from ._state import Training
from .objectives import OBJECTIVES, AbstractObjective, Batch, ObjectiveContext


@runtime_checkable
class Classifier(Protocol):
    """What can be trained: a module that returns the logits of one image, as `vitrail.ViT` does."""

    def __call__(self, image: Shaped[Array, "..."], *, key: PRNGKeyArray | None = None) -> Float[Array, "..."]: ...


def fit(
    model: Any,
    data: Dataset,
    recipe: Recipe,
    *,
    key: PRNGKeyArray,
    report: Callable[[Progress], object] | None = None,
) -> Any:
    """Trains a model on the training images of a data set, for the objective of the recipe.

    !!! example

        ```python
        data = vitrail.images.load_mnist()
        model = vitrail.train.fit(model, data, vitrail.train.Recipe(), key=key)
        print(vitrail.train.evaluate(model, data).accuracy)
        ```

    **Arguments:**

    - `model`: a `ViT`, which the objective makes a system of if it trains one, or the system itself. To classify, any
        module that takes one image, normalised by `data.preprocess`, and returns one logit for each class.
    - `data`: the data set. Its `train` is used, its `test` is not.
    - `recipe`: the settings of the run.
    - `key`: for the order of the images, their augmentation and what is random in the model. The same key gives the
        same weights on the same machine.
    - `report`: is called with the `Progress` after the first step, after every tenth, and after the last. If it raises
        `StopTraining`, the run ends there.

    **Returns:**

    The trained model, with the mean of its weights if the recipe takes one; the configuration of a `vitrail.ViT` has
    the preprocessing and the class names of the data. The model that was passed does not change.

    **Raises:** `ValueError` if the objective cannot train the model, if the model does not take the images or return
    one logit for each class, or if a batch is larger than all epochs together; `FloatingPointError` that names the
    first step whose loss is not finite; `MissingExtraError` if optax or grain is not installed.
    """
    order_key, steps_key, fresh_key = jax.random.split(key, 3)
    objective = make_objective(recipe, data.preprocess)
    if "label" in objective.inputs:
        check_classifier(model, data)
    prepared = _describe_data(objective.prepare(model, key=fresh_key), data)
    seed = int(jax.random.bits(order_key, dtype=jnp.uint32))

    def load(which: Int[np.ndarray, " batch"]) -> Batch:
        found = {"image": data.train.images[which], "label": data.train.labels[which]}
        return {name: found[name] for name in objective.inputs}

    steps, feed = make_batches(load, len(data.train), epochs=recipe.epochs, batch_size=recipe.batch_size, seed=seed)
    training = Training(objective, recipe, steps)
    state = training.start(prepared, key=steps_key)
    return run_steps(training, state, _add_inputs(objective, prepared, feed, seed), report=report).best_model


def make_objective(recipe: Recipe, preprocess: Preprocess) -> AbstractObjective:
    """Makes the objective of a recipe.

    **Arguments:**

    - `recipe`: names it.
    - `preprocess`: how pixels are normalised.

    **Returns:**

    The objective.

    **Raises:** what `OBJECTIVES.build` raises.
    """
    return OBJECTIVES.build(recipe.objective, ObjectiveContext(preprocess=preprocess), key=jax.random.key(0))


def _add_inputs(objective: AbstractObjective, model: Any, batches: Iterator[Batch], seed: int) -> Iterator[Batch]:
    for step, batch in enumerate(batches):
        yield objective.add_inputs(model, batch, seed=(seed + step) % 2**32)


def _describe_data(model: Any, data: Dataset) -> Any:
    """The model with the preprocessing and the class names of the data in its configuration, if it has one."""
    if not isinstance(model, ViT):
        return model
    # A head of the user's own may count the classes elsewhere.
    classes = data.classes if model.config.num_classes == len(data.classes) else None
    return replace(model, classes=classes, preprocess=data.preprocess)


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
