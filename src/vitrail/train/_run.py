"""A run in a folder: what it is, its checkpoints, its metrics, and its models as files."""

import json
import os
import platform
import signal
import sys
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any, Final, cast

import jax

from .. import __version__
from .._files import read_object, write_whole
from ..model import JSONConfig, has_adapters, merge
from ..nn import digest_arrays, list_arrays
from ..weights import save
from ._checkpoints import Checkpoints
from ._loop import Progress
from ._state import Training, TrainState

_FACTS: Final = "run.json"
_METRICS: Final = "metrics.jsonl"


class Run:
    """What `fit` keeps in a folder. A second call with the same arguments goes on where the first one ended."""

    def __init__(self, folder: Path, training: Training, state: TrainState, *, data: str, seed: int):
        """**Arguments:**

        - `folder`: is made if it is not there.
        - `training`: what is done.
        - `state`: before the first step.
        - `data`: describes the data set.
        - `seed`: of the order of the images.

        **Raises:** `ValueError` if the folder has another run, or something else.
        """
        self.folder = folder
        self.best = -1.0
        facts: dict[str, Any] = {
            "recipe": repr(training.recipe),
            "steps": training.steps,
            "data": data,
            "seed": seed,
            "model": digest_arrays(list_arrays(state.model).values(), str(cast(Any, jax.tree.structure)(state.model))),
        }
        found = folder / _FACTS
        if found.exists():
            _compare(found, facts)
        elif folder.exists() and any(folder.iterdir()):
            raise ValueError(f"{folder} must be empty or have a run, got a folder with other files: pass a new one")
        else:
            folder.mkdir(parents=True, exist_ok=True)
            facts["versions"] = {"vitrail": __version__, "jax": version("jax"), "python": platform.python_version()}
            facts["command"] = sys.argv
            write_whole(found, lambda part: part.write_text(json.dumps(facts, indent=2)))
        self.checkpoints = Checkpoints(folder / "checkpoints")

    def restore(self, state: TrainState) -> TrainState:
        """**Arguments:**

        - `state`: before the first step.

        **Returns:**

        The state of the last checkpoint; metrics of later steps are removed.
        """
        state = self.checkpoints.restore(state)
        path = self.folder / _METRICS
        if path.exists():
            every, last = path.read_text().splitlines(), int(state.step)
            kept = [line for line in every if _read_line(line).get("step", last + 1) <= last]
            self.best = max((_read_line(line).get("validation", -1.0) for line in kept), default=-1.0)
            write_whole(path, lambda part: part.write_text("".join(f"{line}\n" for line in kept)))
        return state

    def report(self, progress: Progress) -> None:
        """**Arguments:**

        - `progress`: whose metrics are written.
        """
        self._write({"step": progress.step, **progress.metrics, "images_per_second": progress.images_per_second})

    def keep(self, state: TrainState, accuracy: float | None) -> None:
        """Saves a checkpoint, and the model as a file: `last.safetensors`, and `best.safetensors` if it is the best.
        Adapters of `vitrail.lora` are merged in the files.

        **Arguments:**

        - `state`: of a step.
        - `accuracy`: on the images of validation, if there are any.
        """
        self.checkpoints.save(state)
        model = state.best_model
        names = ["last.safetensors"]
        if accuracy is not None:
            self._write({"step": int(state.step), "validation": accuracy})
            if accuracy > self.best:
                self.best = accuracy
                names.append("best.safetensors")
        if isinstance(getattr(model, "config", None), JSONConfig):
            model = merge(model) if has_adapters(model) else model
            for name in names:
                save(model, self.folder / name)

    def _write(self, line: Mapping[str, Any]) -> None:
        with (self.folder / _METRICS).open("a") as file:
            file.write(json.dumps(line) + "\n")


@contextmanager
def catch_signals() -> Generator[list[int]]:
    """Collects SIGTERM and SIGINT instead of ending the program, until the block ends, and then sends the first of them
    again. A second one ends it at once.

    **Returns:**

    A context manager that returns the list of the signals.
    """
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def catch(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        if len(caught) > 1:
            restore()
            os.kill(os.getpid(), number)

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, catch)
    try:
        yield caught
    finally:
        restore()
    if caught:
        signal.raise_signal(caught[0])


def _compare(path: Path, facts: Mapping[str, Any]) -> None:
    found = read_object(path)
    for name, value in facts.items():
        if found.get(name) != value:
            raise ValueError(
                f"{path.parent} must have this run, got another {name}: {found.get(name)} there, {value} here. Pass a "
                "new folder, or the arguments of that run"
            )


def _read_line(line: str) -> dict[str, Any]:
    try:
        return cast("dict[str, Any]", json.loads(line))
    except ValueError:  # the end of a file that was being written when the machine went
        return {}
