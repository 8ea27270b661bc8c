"""The training loop: one for whatever is trained."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32, PRNGKeyArray

from ._optimiser import Optimiser, make_optimiser
from ._recipe import Recipe

_REPORT_EVERY: Final = 10  # steps: reading the loss waits for the device

M = TypeVar("M")
Scalar = Float[Array, ""]
Batch = tuple[Any, Int32[np.ndarray, " batch"]]
Loss = Callable[[Any, Any, Any, PRNGKeyArray, Any], tuple[Scalar, Scalar]]
"""Of a model, the inputs of a batch, its labels, a key and what stays the same: the loss, and the part that is right.
It has to be the same function each time, so that it compiles once."""


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
    """A model after so many steps of a recipe, with a batch for each."""
    optimiser = make_optimiser(recipe, steps)

    # A copy, as a step gives up the buffers of what it gets.
    trained: Any = jax.tree.map(_copied, model)
    run = trained, optimiser.init(_parameters(trained))
    recent: list[tuple[Scalar, Scalar]] = []
    started = time.perf_counter()
    for number, (inputs, labels) in enumerate(feed, start=1):
        batch = jax.tree.map(_copied, inputs), jnp.asarray(labels), jax.random.fold_in(key, number)
        run, step_loss, accuracy = _step((batch, optimiser, loss, fixed), run)
        recent.append((step_loss, accuracy))
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
def _step(given: tuple[Any, Optimiser, Loss, Any], run: Any) -> tuple[Any, Scalar, Scalar]:
    """One update of the model and the optimiser's state, whose buffers are given up for those that come back."""
    batch, optimiser, loss_of, fixed = given
    model, state = run
    grad = cast(Any, eqx.filter_value_and_grad(loss_of, has_aux=True))
    (loss, accuracy), gradient = cast(tuple[tuple[Scalar, Scalar], Any], grad(model, *batch, fixed))
    # optax itself raises an integer step to a float power, which a strict caller forbids.
    with jax.numpy_dtype_promotion("standard"):
        updates, state = optimiser.update(gradient, state, _parameters(model))
    return (eqx.apply_updates(model, updates), state), loss, accuracy


def cross_entropy(
    logits: Float[Array, "batch classes"], labels: Int32[Array, " batch"], smoothing: float
) -> tuple[Scalar, Scalar]:
    """The mean cross-entropy of a batch, and the part of it that is classified rightly."""
    log_probabilities = jax.nn.log_softmax(logits)
    right = jnp.take_along_axis(log_probabilities, labels[:, None], axis=1)[:, 0]
    loss = -(1 - smoothing) * jnp.mean(right) - smoothing * jnp.mean(log_probabilities)
    return loss, jnp.mean((jnp.argmax(logits, axis=1) == labels).astype(jnp.float32))


def _parameters(model: Any) -> Any:
    return cast(Any, eqx.filter(model, eqx.is_inexact_array))


def _copied(leaf: Any) -> Any:
    return jnp.array(leaf) if isinstance(leaf, jax.Array | np.ndarray) else leaf
