"""A run in a folder: what it is, its checkpoints, its metrics, and its models as files."""

import hashlib
import json
import os
import platform
import shutil
import signal
import sys
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any, Final, cast

import jax

from .. import __version__
from .._files import claim_folder, read_object, remove_stale, spell_fields, write_whole
from ..model import JSONConfig, has_adapters, merge
from ..nn import list_arrays
from ..weights import CheckpointError, load, save
from ._checkpoints import Checkpoints
from ._digest import digest_divided
from ._hosts import is_writer, wait_for_hosts
from ._loop import Progress
from ._mesh import collect
from ._state import Training, TrainState

_FACTS: Final = "run.json"
_METRICS: Final = "metrics.jsonl"
_LAST: Final = "last.safetensors"
_CHECKPOINTS: Final = "checkpoints"
_BATCH: Final = "bad_batch.json"
_SHOWN: Final = 8
_MIB: Final = 2**20


class Run:
    """What `fit` keeps in a folder. A second call with the same arguments goes on where the first one ended."""

    def __init__(
        self,
        folder: Path,
        training: Training,
        state: TrainState,
        *,
        data: str,
        seed: int,
        notes: Mapping[str, object],
        licence: str | None,
    ):
        """**Arguments:**

        - `folder`: is made if it is not there.
        - `training`: what is done.
        - `state`: before the first step.
        - `data`: describes the data set.
        - `seed`: of the order of the images.
        - `notes`: what else `run.json` says.
        - `licence`: of the models in the folder; `None` to name none.

        **Raises:** `ValueError` if the folder has another run, or something else, or if the model cannot be saved;
        `OSError` if there is no room.
        """
        self.folder = folder
        self.best = -1.0
        self._training = training
        self._licence = licence
        facts: dict[str, Any] = {
            "recipe": spell_fields(training.recipe),
            "steps": training.steps,
            "data": data,
            "seed": seed,
            "model": _digest_model(state.model),
        }
        is_new = not (folder / _FACTS).exists()
        if not is_new and (own := read_run(folder).get("model")) != facts["model"] and _is_last(folder, state.model):
            facts["model"] = own
        if folder.is_dir() and is_new:
            remove_stale(folder)
            if any(folder.iterdir()):
                raise ValueError(f"{folder} must be empty or have a run, got a folder with other files: pass a new one")
        config = getattr(state.model, "config", None)
        self._has_files = isinstance(config, JSONConfig)
        if isinstance(config, JSONConfig):
            config.to_json()  # what cannot be saved is found now, and not after an epoch
        versions = {"vitrail": __version__, "jax": version("jax"), "python": platform.python_version()}
        wait_for_hosts("look at the run")  # before the first of them writes
        if is_writer() or not is_new:
            claim_folder(folder / _FACTS, facts, {"versions": versions, "command": sys.argv, **notes})
        wait_for_hosts("make the run")
        _check_space(folder, sum(array.nbytes for array in list_arrays(state).values()))
        self.checkpoints = Checkpoints(folder / _CHECKPOINTS)

    def restore(self, state: TrainState) -> TrainState:
        """**Arguments:**

        - `state`: before the first step.

        **Returns:**

        The state of the last checkpoint; metrics of later steps are removed.
        """
        state = self.checkpoints.restore(state)
        kept = [line for line in read_metrics(self.folder) if line["step"] <= int(state.step)]
        self.best = max((line.get("validation", -1.0) for line in kept), default=-1.0)
        text = "".join(f"{json.dumps(line)}\n" for line in kept)
        if is_writer():
            write_whole(self.folder / _METRICS, lambda part: part.write_text(text))
        return state

    def report(self, progress: Progress) -> None:
        """**Arguments:**

        - `progress`: whose metrics are written.

        **Raises:** `CheckpointError` if they cannot be.
        """
        if not is_writer():
            return
        line = {"step": progress.step, **progress.metrics, "images_per_second": progress.images_per_second}
        with self._blame_disk(), (self.folder / _METRICS).open("a") as file:
            file.write(json.dumps(line) + "\n")

    def keep(self, state: TrainState, measured: Mapping[str, float]) -> None:
        """Saves the model as a file, `last.safetensors`, and `best.safetensors` if it is the best, and then a
        checkpoint, so that all is there that belongs to it. Adapters of `vitrail.lora` are merged in the files.

        **Arguments:**

        - `state`: of a step.
        - `measured`: has `"validation"`, the accuracy, if there are images of validation.

        **Raises:** `CheckpointError` if this or the checkpoint before cannot be written.
        """
        names = [_LAST]
        if measured.get("validation", -1.0) > self.best:
            self.best = measured["validation"]
            names.append("best.safetensors")
        if self._has_files:
            model = self._training.choose_model(state)
            model = model if jax.process_count() == 1 else collect(model)
            model = merge(model) if has_adapters(model) else model
            with self._blame_disk():
                for name in names if is_writer() else ():
                    save(model, self.folder / name, licence=self._licence)
        self.checkpoints.save(state)

    def note_batch(self, step: int, images: Sequence[str]) -> str:
        """**Arguments:**

        - `step`: whose loss is not finite.
        - `images`: of its batch, which are written to `bad_batch.json`.

        **Returns:**

        A description for an error.
        """
        path = self.folder / _BATCH
        if is_writer():
            write_whole(path, lambda part: part.write_text(json.dumps({"step": step, "images": images}, indent=1)))
        more = f" and {len(images) - _SHOWN:,} more in {path}" if len(images) > _SHOWN else ""
        return f"its images are {', '.join(images[:_SHOWN])}{more}; {self.checkpoints.describe()}"

    @contextmanager
    def _blame_disk(self) -> Generator[None]:
        """Turns an error of the system, as of a full disk, into one that says what is left."""
        try:
            yield
        except CheckpointError:
            raise
        except Exception as error:
            raise self.checkpoints.explain(error, self.folder) from error


def _digest_model(model: Any) -> str:
    arrays = list_arrays(model)
    digests = digest_divided(arrays)
    shapes = {name: (str(array.dtype), array.shape) for name, array in arrays.items()}
    return hashlib.sha256(f"{digests}{shapes}{cast(Any, jax.tree.structure)(model)}".encode()).hexdigest()


def _is_last(folder: Path, model: Any) -> bool:
    """Whether a model is the last one of a run with a checkpoint, from which it goes on as from the first one."""
    path = folder / _LAST
    if not path.exists() or not any(place.name.isdecimal() for place in (folder / _CHECKPOINTS).glob("*")):
        return False
    given, last = (list_arrays(each) for each in (merge(model) if has_adapters(model) else model, load(path)))
    return given.keys() == last.keys() and digest_divided(given) == digest_divided(last)


def _check_space(folder: Path, size: int) -> None:
    """Raises an `OSError` if a checkpoint and a file of the model do not fit on the disk."""
    free = shutil.disk_usage(folder).free
    if free < 2 * size:
        raise OSError(
            f"{folder} must have room for a checkpoint and the model, {2 * size / _MIB:,.1f} MiB, got "
            f"{free / _MIB:,.1f} MiB: make room, or pass a folder on another disk"
        )


@contextmanager
def catch_signals() -> Generator[list[int]]:
    """Collects SIGTERM and SIGINT instead of ending the program, until the block ends, and then sends the first of them
    again. A second one ends it at once. What is ignored, as Ctrl-C by a job in the background, stays ignored.

    **Returns:**

    A context manager that returns the list of the signals.
    """
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    before = {number: handler for number, handler in handlers.items() if handler != signal.SIG_IGN}

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


def read_metrics(folder: Path | str) -> list[dict[str, float]]:
    """Reads the metrics of a run: the lines of its `metrics.jsonl`.

    **Arguments:**

    - `folder`: the folder of the run.

    **Returns:**

    The metrics of each report, with its `"step"`. Empty if the run has not reported yet.

    **Raises:** `ValueError` if it is not the folder of a run.
    """
    _check_run(Path(folder))
    path = Path(folder) / _METRICS
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    # The last line may have been cut off when the machine went.
    return [json.loads(line) for line in lines if line.endswith("}\n")]


def read_run(folder: Path | str) -> dict[str, Any]:
    """Reads the description of a run: its `run.json`.

    **Arguments:**

    - `folder`: the folder of the run.

    **Returns:**

    The recipe, the model, the data, the versions, the seed, the number of steps and the command.

    **Raises:** `ValueError` if it is not the folder of a run.
    """
    _check_run(Path(folder))
    return cast("dict[str, Any]", read_object(Path(folder) / _FACTS))


def _check_run(folder: Path) -> None:
    if (folder / _FACTS).is_file():
        return
    got = f"one without {_FACTS}" if folder.is_dir() else "a file" if folder.exists() else "no such folder"
    raise ValueError(f"{folder} must be the folder of a run, got {got}: pass what was passed as folder, or --out")
