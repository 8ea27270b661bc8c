"""What classifies, and whether it fits a data set."""

from typing import Any, Protocol, cast, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ..images import Dataset
from ..model import ViT
from ..systems import AbstractSystem


@runtime_checkable
class Classifier(Protocol):
    """A module that returns the logits of one image, as `vitrail.ViT` does. `fit` and `evaluate` take one."""

    def __call__(
        self, image: Float[Array, "height width channels"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, " classes"]:
        """Classifies one image.

        **Arguments:**

        - `image`: the image, normalised by the `preprocess` of the data set.
        - `key`: for what is random in training; `None` for inference.

        **Returns:**

        The logits.
        """
        ...


def check_channels(model: ViT, data: Dataset) -> None:
    """Checks that the images of a data set have classes, and the channels that a model reads.

    **Arguments:**

    - `model`: a ViT.
    - `data`: the data set.

    **Raises:** `ValueError` if they do not.
    """
    _check_classes(data)
    channels = model.config.channels
    if channels != data.channels:
        raise ValueError(
            f"model must have the channels of the images, {data.channels}, got {channels}: load the images with "
            f"channels={channels}, or build the model with channels={data.channels}"
        )


def _check_classes(data: Dataset) -> None:
    if not data.classes:
        found = "no labels" if data.train.texts is None else "texts alone"
        raise ValueError(f"data must have classes, got {data.name} with {found}: load images with labels")


def check_classifier(model: Any, data: Dataset) -> None:
    """Checks that a model takes the images of a data set, and returns one logit for each class. Only shapes are
    computed.

    **Arguments:**

    - `model`: what `fit` takes.
    - `data`: the data set.

    **Raises:** `ValueError` if it does not.
    """
    _check_classes(data)
    if isinstance(model, ViT):
        check_channels(model, data)
    if isinstance(model, AbstractSystem):
        raise ValueError(
            f"model must return logits of one image, got a {type(model).__name__}: pass "
            f"vitrail.replace(model.image, head='linear', num_classes={len(data.classes)}, key=key)"
        )
    image = jax.ShapeDtypeStruct((*data.image_size, data.channels), jnp.float32)
    logits = cast(jax.ShapeDtypeStruct, eqx.filter_eval_shape(model, image))
    if logits.shape != (len(data.classes),):
        raise ValueError(
            f"model must return logits of shape ({len(data.classes)},), got {logits.shape}: build the model "
            f"with num_classes={len(data.classes)}, a pool that returns one vector, and a head with classes"
        )
