"""The training loop."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import jax

from ._hosts import agree_largest
from ._state import Training, TrainState
from .objectives import Batch

_REPORT_EVERY: Final = 10  # steps, because reading the loss waits for the device


class StopTraining(Exception):
    """Raised by `report`, it ends a run: `fit` returns the model as it is."""


@dataclass(frozen=True)
class Progress:
    """The progress of a training run."""

    step: int
    """The number of steps done."""
    steps: int
    """The number of all steps."""
    images: int
    """The number of images seen."""
    metrics: Mapping[str, float]
    """The means since the last report: `"loss"`, `"gradient"` (the norm before clipping), and what the objective
    returns, as the `"accuracy"` on the augmented training images. In a step whose state is kept, also `"validation"`,
    the accuracy on the images of validation, if there are any."""
    seconds: float
    """The time of the steps in this process but the first one, which compiles."""
    timed: int
    """The number of those steps."""
    waited: float
    """The part of `seconds` in which the device waited for data."""
    state: TrainState = field(repr=False)
    """What was trained so far. The next step reuses its memory: copy what you keep, as `vitrail.save` does."""

    @property
    def loss(self) -> float:
        """The mean loss since the last report."""
        return self.metrics["loss"]

    @property
    def images_per_second(self) -> float:
        """The mean over `seconds`; 0 after the first step."""
        return self.timed * self.images / self.step / self.seconds if self.timed else 0.0

    @property
    def seconds_left(self) -> float:
        """The time left at the mean speed so far."""
        return (self.steps - self.step) * self.seconds / self.timed if self.timed else float("inf")

    @property
    def share_waited(self) -> float:
        """The share of `seconds` in which the device waited for data."""
        return self.waited / self.seconds if self.timed else 0.0


def run_steps(
    training: Training,
    state: TrainState,
    batches: Iterator[Batch],
    *,
    report: Callable[[Progress], object] | None,
    keep: Callable[[TrainState, Mapping[str, float]], object] | None = None,
    keep_every: int = 1,
    measure: Callable[[TrainState], Mapping[str, float]] | None = None,
    stop: list[int] | None = None,
    describe: Callable[[int], str] | None = None,
) -> TrainState:
    """Takes a step with each batch.

    **Arguments:**

    - `training`: the objective, the recipe and the number of steps.
    - `state`: before the first step.
    - `batches`: one for each step.
    - `report`: is called with the `Progress` after the first step, after every tenth, and after the last.
    - `keep`: is called after every `keep_every` steps and after the last with the state, which is finite, and what
        `measure` returned.
    - `keep_every`: how often.
    - `measure`: is called with a state before it is reported and kept. What it returns is reported.
    - `stop`: a list of the signals that ask for an end. When it is no longer empty, the run ends after the step, and
        `keep` is called. Several hosts end at the next report, and have the signal of one in the lists of all.
    - `describe`: describes the batch of a step for an error, after a semicolon.

    **Returns:**

    The state after the last step, or after the step whose report raised `StopTraining` or in which it stopped.

    **Raises:** `FloatingPointError` that names the first step whose loss or gradient is not finite, at the next report.
    No later state is kept.
    """
    recent: list[Mapping[str, Any]] = []
    stop = [] if stop is None else stop
    first, waited, started = int(state.step), 0.0, time.perf_counter()
    number = first
    while True:
        before = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            return state
        waited += time.perf_counter() - before
        state, metrics = training.step(state, batch)
        number += 1
        recent.append(metrics)
        is_due = keep is not None and number % keep_every == 0
        is_read = number == first + 1 or number % _REPORT_EVERY == 0 or is_due
        ends = number == training.steps or _is_stopped(stop, is_read=is_read)
        is_kept = is_due or (keep is not None and ends)
        if is_read or ends:
            values = [{name: float(value) for name, value in each.items()} for each in jax.device_get(recent)]
            recent = []
            _check_finite(training, values, number, describe)
            if number == first + 1:
                started, waited = time.perf_counter(), 0.0
            measured: Mapping[str, float] = measure(state) if is_kept and measure is not None else {}
            if report is not None:
                means = {name: sum(each[name] for each in values) / len(values) for name in values[0]} | dict(measured)
                seen, seconds = number * training.recipe.batch_size, time.perf_counter() - started
                timed = number - first - 1
                try:
                    report(Progress(number, training.steps, seen, means, seconds, timed, waited, state))
                except StopTraining:
                    return state
            if is_kept and keep is not None:
                keep(state, measured)
        if ends:  # not `stop`, which a signal can fill after the decision not to keep
            return state


def _is_stopped(stop: list[int], *, is_read: bool) -> bool:
    """Whether the run ends after this step. Several hosts end together, where they wait for each other anyway."""
    if jax.process_count() == 1:
        return bool(stop)
    if is_read and (number := agree_largest(max(stop, default=0))) and not stop:
        stop.append(number)
    return is_read and bool(stop)


def _check_finite(
    training: Training, values: list[dict[str, float]], last: int, describe: Callable[[int], str] | None
) -> None:
    recipe = training.recipe
    for step, metrics in enumerate(values, start=last - len(values) + 1):
        wrong = [name for name in ("loss", "gradient") if not math.isfinite(metrics[name])]
        if wrong:
            lower = f"lower learning_rate ({recipe.learning_rate}) or clip_norm ({recipe.clip_norm})"
            advice = "look for NaN or infinity in the weights and the inputs" if step == 1 else lower
            batch = "" if describe is None else f"; {describe(step)}"
            raise FloatingPointError(
                f"the {wrong[0]} is {metrics[wrong[0]]} at step {step} of {training.steps}: {advice}{batch}"
            )
