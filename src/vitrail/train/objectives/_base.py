"""The contract of an objective."""

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer, PRNGKeyArray

from ..._check import describe_value
from ...images import Preprocess

Scalar = Float[Array, ""]
"""A floating-point array of JAX with shape `()`."""
Batch = Mapping[str, Any]
"""The arrays of a batch by name, with the axis of the batch first: `"image"`, the pixels in uint8 with shape `(batch,
height, width, channels)`, and `"label"`, whole numbers, or `"text"`, token ids with shape `(batch, tokens)`."""


@final
class Outcome(eqx.Module):
    """What an objective returns together with the loss."""

    metrics: Mapping[str, Scalar]
    """Numbers to report, by name."""
    carried: Any
    """What the next step gets as `carried`, such as the centre of DINO: a PyTree of arrays."""

    def __init__(self, metrics: Mapping[str, Scalar], carried: Any = ()):
        """**Arguments:** the fields."""
        self.metrics = metrics
        self.carried = carried


class AbstractObjective(eqx.Module):
    """The base of objectives: the loss of a batch, and the state that it carries from step to step.

    Extend it, make it `@final`, and pass the class as `Recipe.objective`. You must write `prepare` and `__call__`. A
    training step calls the objective, updates the weights, and calls `finish`. All three are one compiled program.
    """

    inputs: ClassVar[tuple[str, ...]] = ("image",)
    """The arrays that a batch must have."""
    takes_crops: ClassVar[bool] = False
    """Whether a batch may have the crops of `MultiCrop` in place of images."""
    is_mean: ClassVar[bool] = True
    """Whether the loss of a batch is the mean of the losses of its images: only then a step can add up the gradients of
    parts of a batch."""

    def __check_init__(self) -> None:
        name, inputs = type(self).__name__, cast(object, self.inputs)
        names = cast("tuple[object, ...]", inputs if isinstance(inputs, tuple) else ())
        if not names or not all(isinstance(each, str) for each in names):
            advice = f": write ({inputs!r},)" if isinstance(inputs, str) else ""
            raise TypeError(
                f"inputs of {name} must be a tuple of names of arrays, as ('image', 'label'), got {inputs!r}{advice}"
            )
        for field in ("takes_crops", "is_mean"):
            if not isinstance(value := cast(object, getattr(self, field)), bool):
                raise TypeError(f"{field} of {name} must be True or False, got {describe_value(value)}")

    @abc.abstractmethod
    def prepare(self, model: Any, *, key: PRNGKeyArray) -> Any:
        """Makes what is trained, before the first step.

        **Arguments:**

        - `model`: the model that a user passes to `fit`: a `ViT`, or the system itself.
        - `key`: for fresh weights.

        **Returns:**

        What is trained: the model, or a system around it. The arrays of the model must stay the same.

        **Raises:** `ValueError` if the objective cannot train it.
        """

    def start(self, model: Any) -> Any:
        """Makes the state of the objective, before the first step.

        **Arguments:**

        - `model`: what is trained.

        **Returns:**

        What the first step gets as `carried`: a PyTree of arrays. By default it is empty.
        """
        return ()

    @abc.abstractmethod
    def __call__(
        self, model: Any, batch: Batch, *, carried: Any, progress: Scalar, key: PRNGKeyArray
    ) -> tuple[Scalar, Outcome]:
        """Computes the loss of a batch.

        **Arguments:**

        - `model`: what is trained.
        - `batch`: the arrays of `inputs` by name, with the axis of the batch first. Images are bytes: see
            `normalise_images`.
        - `carried`: from the step before.
        - `progress`: the share of the run that is done, from 0 to 1.
        - `key`: for what is random.

        **Returns:**

        The loss, and an `Outcome`.
        """

    def finish(self, model: Any, carried: Any, *, progress: Scalar) -> tuple[Any, Any]:
        """Ends a step, after the weights were updated. By default it changes nothing.

        **Arguments:**

        - `model`: with the new weights.
        - `carried`: of the `Outcome`.
        - `progress`: as in `__call__`.

        **Returns:**

        The model, and what the next step gets as `carried`.
        """
        return model, carried

    def choose_model(self, model: Any, carried: Any) -> Any:
        """Chooses the model that is the result of a run. By default it is the model that is trained.

        **Arguments:**

        - `model`: what is trained.
        - `carried`: what the next step would get, such as the teacher of DINO.

        **Returns:**

        The model that `fit` returns.
        """
        return model

    def add_inputs(self, model: Any, batch: Batch, *, seed: int, share: tuple[int, int] = (0, 1)) -> Batch:
        """Adds arrays to a batch that are made on the host, such as the choice of hidden patches. By default none.

        **Arguments:**

        - `model`: what is trained.
        - `batch`: NumPy arrays.
        - `seed`: for what is random, different in each step.
        - `share`: which part of the batch of a step this is, and how many parts there are: one for each host.

        **Returns:**

        The batch with all arrays that `__call__` reads.
        """
        return batch


def check_returned(objective: AbstractObjective, returned: object) -> tuple[Scalar, Outcome]:
    """Checks what a call of an objective returned.

    **Arguments:**

    - `objective`: what was called.
    - `returned`: what it returned.

    **Returns:**

    The loss and the `Outcome`.

    **Raises:** `TypeError` if it is something else, or the loss or a metric is not one real number in floating point;
    `ValueError` if a metric has the name of what a step reports itself.
    """
    who = f"a call of {type(objective).__name__}"
    pair = cast("tuple[object, ...]", returned) if isinstance(returned, tuple) else ()
    if len(pair) != 2:
        got = f"{len(pair)} values" if pair else describe_value(cast(object, returned))
        raise TypeError(f"{who} must return two values, the loss and an Outcome, got {got}")
    loss, outcome = pair
    if isinstance(outcome, Outcome) and (taken := sorted({"loss", "gradient"} & outcome.metrics.keys())):
        raise ValueError(f"{who} must return metrics of other names than {taken[0]!r}, which a step reports itself")
    if not isinstance(outcome, Outcome):
        advice = ": write vitrail.train.Outcome(metrics)" if isinstance(outcome, Mapping) else ""
        raise TypeError(
            f"{who} must return an Outcome after the loss, got {describe_value(cast(object, outcome))}{advice}"
        )
    for name, value in {"loss": loss, **{f"metric {name!r}": value for name, value in outcome.metrics.items()}}.items():
        is_array = isinstance(value, jax.Array)
        if not is_array or value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
            got = f"an array of {value.dtype} and shape {value.shape}" if is_array else describe_value(value)
            advice = ": take its mean" if is_array and value.shape != () else ""
            raise TypeError(
                f"{who} must return the {name} as an array of JAX with one real number in floating point, shape (), "
                f"got {got}{advice}"
            )
    return cast(Scalar, loss), outcome


def check_kept(objective: AbstractObjective, what: str, before: Any, after: Any) -> None:
    """Checks that what an objective returns has the form of what it got, for the next step.

    **Arguments:**

    - `objective`: whose call or `finish` returned it.
    - `what`: the name of what it returned.
    - `before`: what the step began with.
    - `after`: what it ends with.

    **Raises:** `ValueError` that names the first difference in structure, shape or dtype.
    """
    one, other = ({name: _describe(leaf) for name, leaf in _name_leaves(tree)} for tree in (before, after))
    differing = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    if differing or jax.tree.structure(before) != jax.tree.structure(after):
        name = differing[0] if differing else ""
        detail = f": {name or 'it'} was {one.get(name, 'not there')} and is {other.get(name, 'not there')}"
        raise ValueError(
            f"{type(objective).__name__} must return the {what} with the structure, shapes and dtypes of the step "
            f"before{detail if differing else ', got another structure'}"
        )


def _name_leaves(tree: Any) -> list[tuple[str, Any]]:
    leaves = cast("list[tuple[Any, Any]]", jax.tree_util.tree_leaves_with_path(tree))
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in leaves]


def _describe(leaf: Any) -> object:
    return f"{leaf.dtype}{list(leaf.shape)}" if eqx.is_array(leaf) else leaf


def normalise_images(preprocess: Preprocess, batch: Batch) -> Float[Array, "batch height width channels"]:
    """Normalises the images of a batch.

    **Arguments:**

    - `preprocess`: how pixels are normalised.
    - `batch`: a batch with the array `"image"`, pixels in [0, 255].

    **Returns:**

    The input of the model.
    """
    return preprocess.normalise(cast(Array, batch["image"]))


def compare_with(labels: Integer[Array, " batch"], logits: Float[Array, "batch classes"]) -> Scalar:
    """Computes the accuracy of a batch.

    **Arguments:**

    - `labels`: the class of each image.
    - `logits`: the logits of each image.

    **Returns:**

    The share of the images whose largest logit is that of their class.
    """
    return jnp.mean((jnp.argmax(logits, axis=1) == labels.astype(jnp.int32)).astype(jnp.float32))


@dataclass(frozen=True, kw_only=True)
class ObjectiveContext:
    """What an objective is built for. The class of an objective gets those of the fields that its `__init__` names."""

    preprocess: Preprocess
    """How pixels are normalised."""


ObjectiveFactory = Callable[..., AbstractObjective]
"""A class or a function that makes an objective. It names what it needs: fields of `ObjectiveContext`."""
