"""The contract of an objective."""

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast, final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer, PRNGKeyArray

from ...images import Preprocess

Scalar = Float[Array, ""]
Batch = Mapping[str, Any]
"""The arrays of a batch by name: `"image"`, one byte a channel, and `"label"` or `"text"`."""


@final
class Outcome(eqx.Module):
    """What an objective returns beside the loss."""

    metrics: Mapping[str, Scalar]
    """Numbers to report, by name."""
    carried: Any
    """What the next step gets, as the centre of DINO."""

    def __init__(self, metrics: Mapping[str, Scalar], carried: Any = ()):
        """**Arguments:** the fields."""
        self.metrics = metrics
        self.carried = carried


class AbstractObjective(eqx.Module):
    """The loss of a batch, and what it carries from step to step. Extend it, make it `@final`, and pass it as
    `objective=`.

    A step calls it, takes a step of the optimiser, and calls `finish`. All three are one compiled program.
    """

    inputs: ClassVar[tuple[str, ...]] = ("image",)
    """The arrays that a batch must have."""
    takes_crops: ClassVar[bool] = False
    """Whether a batch may have the crops of `MultiCrop` in place of images."""
    is_mean: ClassVar[bool] = True
    """Whether the loss of a batch is the mean of the losses of its images: only then a step can add up the gradients of
    parts of a batch."""

    @abc.abstractmethod
    def prepare(self, model: Any, *, key: PRNGKeyArray) -> Any:
        """**Arguments:**

        - `model`: what a user passes: a `ViT`, or the system itself.
        - `key`: for fresh weights.

        **Returns:**

        What is trained. Arrays of the model stay the same.

        **Raises:** `ValueError` if the objective cannot train it.
        """

    def start(self, model: Any) -> Any:
        """**Arguments:**

        - `model`: what is trained.

        **Returns:**

        What the first step gets as `carried`: a PyTree of arrays.
        """
        return ()

    @abc.abstractmethod
    def __call__(
        self, model: Any, batch: Batch, *, carried: Any, progress: Scalar, key: PRNGKeyArray
    ) -> tuple[Scalar, Outcome]:
        """**Arguments:**

        - `model`: what is trained.
        - `batch`: the arrays of `inputs`, with the axis of the batch first.
        - `carried`: from the step before.
        - `progress`: the share of the run that is done, from 0 to 1.
        - `key`: for what is random.

        **Returns:**

        The loss, and an `Outcome`.
        """

    def finish(self, model: Any, carried: Any, *, progress: Scalar) -> tuple[Any, Any]:
        """**Arguments:**

        - `model`: after the step of the optimiser.
        - `carried`: of the `Outcome`.
        - `progress`: as in a call.

        **Returns:**

        The model and what the next step gets.
        """
        return model, carried

    def add_inputs(self, model: Any, batch: Batch, *, seed: int, share: tuple[int, int] = (0, 1)) -> Batch:
        """Adds to a batch what is drawn or made on the host, as hidden patches.

        **Arguments:**

        - `model`: what is trained.
        - `batch`: NumPy arrays.
        - `seed`: another one in each step.
        - `share`: which part of the batch of a step this is, and how many parts there are: one for each host.

        **Returns:**

        The batch with all arrays that a call needs.
        """
        return batch


def normalise_images(preprocess: Preprocess, batch: Batch) -> Float[Array, "batch height width channels"]:
    """**Arguments:**

    - `preprocess`: how pixels are normalised.
    - `batch`: has `"image"`.

    **Returns:**

    The images as a model reads them.
    """
    return preprocess.normalise(cast(Array, batch["image"]))


def compare_with(labels: Integer[Array, " batch"], logits: Float[Array, "batch classes"]) -> Scalar:
    """**Arguments:**

    - `labels`: the class of each image.
    - `logits`: of each image.

    **Returns:**

    The share of the images whose largest logit is that of their class.
    """
    return jnp.mean((jnp.argmax(logits, axis=1) == labels.astype(jnp.int32)).astype(jnp.float32))


@dataclass(frozen=True, kw_only=True)
class ObjectiveContext:
    """What an objective is built for. Its class gets the fields that its signature names."""

    preprocess: Preprocess
    """How pixels are normalised."""


ObjectiveFactory = Callable[..., AbstractObjective]
"""A class or a function that makes an objective. It names what it needs: fields of `ObjectiveContext`."""
