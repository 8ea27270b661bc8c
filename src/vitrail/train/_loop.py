"""The training loop."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, PRNGKeyArray

from ._optimiser import Optimiser, make_optimiser
from ._recipe import Recipe

_REPORT_EVERY: Final = 10  # steps, because reading the loss waits for the device

M = TypeVar("M")
Scalar = Float[Array, ""]
Batch = tuple[Any, Integer[np.ndarray, " batch"]]
Loss = Callable[[Any, Any, Any, PRNGKeyArray, Any], tuple[Scalar, Scalar]]
"""Returns the loss and the accuracy, given a model, the inputs and labels of a batch, a key and fixed values. Pass the
same function each time, so that it is compiled once."""


@dataclass(frozen=True)
class Progress:
    """The progress of a training run."""

    step: int
    """The number of steps done."""
    steps: int
    """The number of all steps."""
    images: int
    """The number of images seen."""
    loss: float
    """The mean loss since the last report."""
    accuracy: float
    """The mean accuracy on the augmented training images since the last report."""
    seconds: float
    """The time since the second step, because the first compiles."""
    images_per_second: float
    """The mean since the second step; 0 before it."""

    @property
    def seconds_left(self) -> float:
        """The time left at the mean speed so far."""
        done = self.step - 1
        return (self.steps - self.step) * self.seconds / done if done else float("inf")


def optimise(
    model: M,
    loss: Loss,
    feed: Iterator[Batch],
    steps: int,
    recipe: Recipe,
    *,
    fixed: Any,
    key: PRNGKeyArray,
    report: Callable[[Progress], object] | None,
) -> M:
    """Trains a model for `steps` steps of a recipe, with one batch of `feed` for each.

    **Arguments:**

    - `model`: what is trained.
    - `loss`: returns the loss and the accuracy of a batch.
    - `feed`: the batches, each of inputs and labels.
    - `steps`: the number of batches.
    - `recipe`: the settings of the run.
    - `fixed`: passed to `loss` in every step.
    - `key`: for what is random.
    - `report`: is called with the `Progress`.

    **Returns:**

    The trained model.

    **Raises:** `FloatingPointError` that names the first step whose loss is not finite, at the next report;
    `MissingExtraError` if optax is not installed.
    """
    optimiser = make_optimiser(recipe, steps)

    # A step donates the buffers of what it gets, so it gets a copy.
    trained: Any = jax.tree.map(_copy, model)
    run = trained, optimiser.init(_select_parameters(trained))
    recent: list[tuple[Scalar, Scalar]] = []
    started = time.perf_counter()
    for number, (inputs, labels) in enumerate(feed, start=1):
        batch = jax.tree.map(_copy, inputs), jnp.asarray(labels), jax.random.fold_in(key, number)
        run, step_loss, accuracy = _step((batch, optimiser, loss, fixed), run)
        recent.append((step_loss, accuracy))
        if number == 1 or number % _REPORT_EVERY == 0 or number == steps:
            values = [(float(loss), float(accuracy)) for loss, accuracy in jax.device_get(recent)]
            recent = []
            if number == 1:
                started = time.perf_counter()
            for step, (value, _) in enumerate(values, start=number - len(values) + 1):
                if not math.isfinite(value):
                    lower = f"lower learning_rate ({recipe.learning_rate}) or clip_norm ({recipe.clip_norm})"
                    advice = "look for NaN or infinity in the weights and the inputs" if step == 1 else lower
                    raise FloatingPointError(f"the loss is {value} at step {step} of {steps}: {advice}")
            mean_loss, mean_accuracy = (sum(column) / len(values) for column in zip(*values, strict=True))
            if report is not None:
                seconds = time.perf_counter() - started
                speed = (number - 1) * recipe.batch_size / seconds if number > 1 else 0.0
                seen = number * recipe.batch_size
                report(Progress(number, steps, seen, mean_loss, mean_accuracy, seconds, speed))
    return cast(M, run[0])


@eqx.filter_jit(donate="all-except-first")
def _step(given: tuple[Any, Optimiser, Loss, Any], run: Any) -> tuple[Any, Scalar, Scalar]:
    """Updates the model and the state of the optimiser, whose buffers are donated."""
    batch, optimiser, compute_loss, fixed = given
    model, state = run
    grad = cast(Any, eqx.filter_value_and_grad(compute_loss, has_aux=True))
    (loss, accuracy), gradient = cast(tuple[tuple[Scalar, Scalar], Any], grad(model, *batch, fixed))
    # optax mixes integers and floats, which strict promotion forbids.
    with jax.numpy_dtype_promotion("standard"):
        updates, state = optimiser.update(gradient, state, _select_parameters(model))
    return (eqx.apply_updates(model, updates), state), loss, accuracy


def cross_entropy(
    logits: Float[Array, "batch classes"], labels: Integer[Array, " batch"], smoothing: float
) -> tuple[Scalar, Scalar]:
    """Returns the mean cross-entropy of a batch, with label smoothing, and the accuracy."""
    log_probabilities, labels = jax.nn.log_softmax(logits), labels.astype(jnp.int32)
    right = jnp.take_along_axis(log_probabilities, labels[:, None], axis=1)[:, 0]
    loss = -(1 - smoothing) * jnp.mean(right) - smoothing * jnp.mean(log_probabilities)
    return loss, jnp.mean((jnp.argmax(logits, axis=1) == labels).astype(jnp.float32))


def _select_parameters(model: Any) -> Any:
    return cast(Any, eqx.filter(model, eqx.is_inexact_array))


def _copy(leaf: Any) -> Any:
    return jnp.array(leaf) if isinstance(leaf, jax.Array | np.ndarray) else leaf
