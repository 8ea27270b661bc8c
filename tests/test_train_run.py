"""Runs in a folder: they go on where they ended, to the bit, and say what is damaged."""

import dataclasses
import functools
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import parameters, small_model
from PIL import Image
from test_train_state import OBJECTIVES

import vitrail
from vitrail import images, show, train

SIZE = vitrail.EncoderSize(dim=8, depth=1, num_heads=2, mlp_dim=8)
RECIPE = train.Recipe(
    epochs=4,
    batch_size=8,
    average=0.9,
    augmentation=images.Augmentation(flip=True),
    transforms=("random_resized_crop", "rand_augment", "random_erasing"),
)
KEY = jax.random.key(1)
CROPS = images.TRANSFORMS.configure("multi_crop", num_small=1)
RECIPES: Mapping[str, train.Recipe] = {
    "classify": RECIPE,
    "probe": dataclasses.replace(RECIPE, objective="probe", train=("readout",)),
    "mae": dataclasses.replace(RECIPE, objective=train.OBJECTIVES.configure("mae", **OBJECTIVES["mae"])),
    "dino": dataclasses.replace(
        RECIPE, transforms=(CROPS,), objective=train.OBJECTIVES.configure("dino", **OBJECTIVES["dino"])
    ),
    "clip": dataclasses.replace(
        RECIPE, objective=train.OBJECTIVES.configure("clip", embed_dim=8, context=16, text_depth=1)
    ),
    "lora": dataclasses.replace(RECIPE, train=("readout",)),
}


def make_data() -> images.Dataset:
    rng = np.random.default_rng(0)
    labels = np.arange(100) % 3
    texts = np.array([f"a {['red', 'green', 'blue'][label]} one" for label in labels], np.dtypes.StringDType())
    drawn = images.Examples(rng.integers(0, 256, (100, 8, 8, 1), dtype=np.uint8), labels, texts)
    preprocess = images.Preprocess("cover", "bicubic", (0.5,), (0.25,))
    return images.Dataset("noise", drawn[:80], drawn[80:], ("a", "b", "c"), preprocess)


def make_model(kind: str = "classify") -> vitrail.ViT:
    model = small_model(size=SIZE, image_size=(8, 8), patch_size=(4, 4), channels=1, num_classes=3)
    return vitrail.lora(model, rank=2, key=jax.random.key(5)) if kind == "lora" else model


class Stop:
    def __init__(self, step: int):
        self.step = step

    def __call__(self, progress: train.Progress) -> None:
        if progress.step >= self.step:
            raise KeyboardInterrupt


@functools.cache
def fit_whole(kind: str) -> dict[str, Any]:
    """The arrays of a run that nothing ends."""
    return parameters(train.fit(make_model(kind), make_data(), RECIPES[kind], key=KEY))


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    return fit_whole("classify")


def fit(folder: Path, kind: str = "classify", **options: Any) -> Any:
    return train.fit(make_model(kind), make_data(), RECIPES[kind], key=KEY, folder=folder, keep_every=7, **options)


def assert_same(model: vitrail.ViT, whole: dict[str, Any]) -> None:
    assert all(np.array_equal(array, whole[name]) for name, array in parameters(model).items())


def read_metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_an_interrupted_run_equals_the_whole_to_the_bit(tmp_path: Path, whole: dict[str, Any]):
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        fit(folder, report=Stop(20))
    assert_same(fit(folder, validation=make_data().test), whole)
    lines = read_metrics(folder)
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps == sorted(set(steps))
    accuracies = [line["validation"] for line in lines if "validation" in line]
    assert steps[-1] == 40
    assert vitrail.load(folder / "last.safetensors").config.classes == ("a", "b", "c")
    best = train.evaluate(vitrail.load(folder / "best.safetensors"), make_data()).accuracy
    assert best == max(accuracies)
    assert_same(fit(folder), whole)  # a run that is over is read
    with pytest.raises(
        ValueError,
        match=r"which differs in recipe \(epochs: 4 there, 5 here\) and steps: pass a new",
    ):
        train.fit(make_model(), make_data(), dataclasses.replace(RECIPE, epochs=5), key=KEY, folder=folder)
    with pytest.raises(ValueError, match="must be empty or have a run"):
        fit(tmp_path)


def test_damage_is_found(tmp_path: Path, whole: dict[str, Any]):
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        fit(folder, report=Stop(30))
    place = max((folder / "checkpoints").iterdir(), key=lambda path: int(path.name))
    assert place.name == "28"
    kept = tmp_path / "kept"
    shutil.copytree(place, kept)
    files = [path for path in place.rglob("*") if path.is_file() and path.stat().st_size]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    with pytest.raises(
        vitrail.weights.CheckpointError, match=r"checkpoints/28 is damaged: .* Remove that folder to go on from step 21"
    ):
        fit(folder)
    shutil.rmtree(place)
    assert_same(fit(folder), whole)


class Poisoned(eqx.Module):
    """Returns NaN for the image whose pixels are all white."""

    layer: eqx.nn.Linear

    def __call__(self, image: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        return self.layer(image.reshape(-1)) + jnp.where(image.min() >= 1, jnp.nan, 0.0)


def test_nan_names_the_images_of_its_batch_and_is_not_kept(tmp_path: Path):
    data = make_data()
    data.train.images[17] = 255
    model = Poisoned(eqx.nn.Linear(64, 3, key=KEY))
    recipe = train.Recipe(epochs=3, batch_size=20, augmentation=images.Augmentation())
    for folder in (None, tmp_path / "run", tmp_path / "run"):  # a run that goes on finds the same
        with pytest.raises(FloatingPointError, match=r"the loss is nan at step \d of 12: .*; its images are") as caught:
            train.fit(model, data, recipe, key=KEY, folder=folder, keep_every=None if folder is None else 1)
        step = int(str(caught.value).split("step ")[1].split()[0])
        if folder is None:
            numbers = str(caught.value).split("images are ")[1].split(", ")
        else:
            found = json.loads((folder / "bad_batch.json").read_text())
            assert found == {"step": step, "images": numbers}
            assert f"and 12 more in {folder / 'bad_batch.json'}; the checkpoint of step {step - 1} is complete" in str(
                caught.value
            )
            assert max(int(path.name) for path in (folder / "checkpoints").iterdir()) == step - 1
        assert len(numbers) == 20
        assert "17" in numbers


def test_lines_and_curves_show_the_metrics(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Of a run that is ended once."""
    folder = tmp_path / "run"
    for end in (20, 100):
        with train.show_progress() as show_line, suppress(KeyboardInterrupt):

            def report(progress: train.Progress, end: int = end, show_line: Any = show_line):
                show_line(progress)
                Stop(end)(progress)

            fit(folder, report=report, validation=make_data().test)
    last = read_metrics(folder)[-1]
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert {f"step {step}" for step in (1, 7, 14, 15, 21, 28, 35, 40)} <= {line.split(" of ")[0] for line in printed}
    shown = f"loss {last['loss']:.3f}  accuracy {last['accuracy']:6.1%}  validation {last['validation']:6.1%}"
    assert printed[-1].startswith(f"step 40 of 40  {shown}")
    assert re.search(r"  [\d,]+ images/s  data wait \d+%  \d:\d\d in all$", printed[-1])
    show.draw_curves(folder, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (1300, 468)
    for wrong, got in ((tmp_path, "one without run.json"), (tmp_path / "no", "no such folder")):
        for use in (train.read_metrics, train.read_run, lambda path: show.draw_curves(path, tmp_path / "curves.png")):
            with pytest.raises(ValueError, match=rf"{wrong} must be the folder of a run, got {got}: pass what"):
                use(wrong)
    (folder / "metrics.jsonl").unlink()
    assert train.read_metrics(folder) == []
    with pytest.raises(ValueError, match="must be the folder of a run with metrics"):
        show.draw_curves(folder, tmp_path / "curves.png")


def make_progress(step: int = 20, **metrics: float) -> train.Progress:
    """Of a run that went on after step 14: of 6 steps, 5 are timed, of 8 images each."""
    state = train.TrainState(None, None, None, (), jnp.array(step), KEY)
    return train.Progress(step, 40, 8 * step, metrics, seconds=2.0, timed=5, waited=0.5, state=state)


def test_events_have_the_metrics(tmp_path: Path):
    """As TensorBoard's format has them: a length, its checksum, a message and its checksum."""
    messages = pytest.importorskip("tensorboardX").proto.event_pb2
    with train.write_board(tmp_path) as report:
        assert not list(tmp_path.iterdir())  # a run begins in an empty folder
        report(make_progress(loss=0.5, validation=0.75))
    (path,) = tmp_path.iterdir()
    content, found = path.read_bytes(), {}
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        event = messages.Event.FromString(content[12 : 12 + length])
        found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
        content = content[16 + length :]
    expected = {"loss": 0.5, "validation": 0.75, "images_per_second": 20.0, "waited": 0.25}
    assert found == {(name, 20): value for name, value in expected.items()}


def test_the_speed_is_that_of_the_steps_in_this_process():
    progress = make_progress()
    assert (progress.images_per_second, progress.seconds_left, progress.share_waited) == (20.0, 8.0, 0.25)


_PROGRAM = """if True:
    import os, resource, sys
    sys.path.insert(0, {tests!r})
    import test_train_run

    def end(progress):
        if progress.step == 20:
            {action}

    {call}"""
_FIT = "test_train_run.fit(test_train_run.Path({folder!r}), report=end)"
# No file can have more bytes than the limit, as on a full disk: too few for the metrics, or for a checkpoint.
_LIMIT = "resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))"
_FIT_LIMITED = """for limit, folder in ((100, "metrics"), (8000, "checkpoint")):
        try:
            test_train_run.fit(test_train_run.Path({folder!r}, folder), {kind!r}, report=end)
        except ValueError as error:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            print(error)"""


def run_program(folder: Path, action: str, call: str, kind: str = "classify") -> subprocess.CompletedProcess[str]:
    tests, call = str(Path(__file__).parent), call.format(folder=str(folder), kind=kind)
    program = [sys.executable, "-c", _PROGRAM.format(tests=tests, action=action, call=call)]
    return subprocess.run(program, timeout=120, check=False, capture_output=True, text=True)


def list_checkpoints(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdecimal())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_goes_on(number: int, tmp_path: Path, whole: dict[str, Any]):
    """tests/kill_runs.py kills at any moment."""
    folder = tmp_path / "run"
    assert run_program(folder, f"os.kill(os.getpid(), {int(number)})", _FIT).returncode == -number
    if number == signal.SIGTERM:
        assert list_checkpoints(folder)[-1] == read_metrics(folder)[-1]["step"]
    assert_same(fit(folder), whole)


class EndedError(Exception):
    """Raised by SIGTERM."""


@pytest.mark.parametrize("kind", [kind for kind in RECIPES if kind != "classify"])
def test_sigterm_keeps_the_state_of_every_objective(kind: str, tmp_path: Path):
    def end(number: int, frame: object) -> None:
        raise EndedError

    before = signal.signal(signal.SIGTERM, end)
    try:
        with pytest.raises(EndedError):
            fit(tmp_path, kind, report=lambda p: p.step == 20 and os.kill(os.getpid(), signal.SIGTERM))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert list_checkpoints(tmp_path)[-1] == 21  # the step after the report
    found, whole = parameters(fit(tmp_path, kind)), fit_whole(kind)
    assert found.keys() == whole.keys()
    assert all(np.array_equal(array, whole[name]) for name, array in found.items())


@pytest.mark.parametrize("kind", ["classify", "mae", "dino", "clip", "lora"])
def test_a_run_goes_on_when_there_is_room_again(kind: str, tmp_path: Path):
    ended = run_program(tmp_path, _LIMIT, _FIT_LIMITED, kind)
    for name, message in zip(("metrics", "checkpoint"), ended.stdout.splitlines(), strict=True):
        folder = tmp_path / name
        assert re.search(r"cannot be written: .*File too large", message)
        assert f"the checkpoint of step {list_checkpoints(folder)[-1]} is complete" in message
        vitrail.load(folder / "last.safetensors")
        assert_same(fit(folder, kind), fit_whole(kind))


def test_a_signal_that_is_ignored_stays_ignored(tmp_path: Path, whole: dict[str, Any]):
    """A shell starts a job in the background so, for which Ctrl-C is not meant."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        run = fit(tmp_path / "run", report=lambda progress: progress.step == 20 and os.kill(os.getpid(), signal.SIGINT))
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert_same(run, whole)


def test_a_run_goes_on_from_its_own_last_model(tmp_path: Path):
    """As from the first one, which may be gone: the checkpoint has all weights."""
    for kind in ("classify", "lora", "mae"):
        folder = tmp_path / kind
        with pytest.raises(KeyboardInterrupt):
            fit(folder, kind, report=Stop(20))
        own = vitrail.load(folder / "last.safetensors")
        own = vitrail.lora(own, rank=2, key=jax.random.key(9)) if kind == "lora" else own
        other = jax.tree.map(lambda x: x + 1 if eqx.is_inexact_array(x) else x, own)
        with pytest.raises(ValueError, match="has the results of another run, which differs in model"):
            train.fit(other, make_data(), RECIPES[kind], key=KEY, folder=folder, keep_every=7)
        assert_same(train.fit(own, make_data(), RECIPES[kind], key=KEY, folder=folder, keep_every=7), fit_whole(kind))
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(ValueError, match="has the results of another run, which differs in model"):
        train.fit(own, make_data(), RECIPES[kind], key=KEY, folder=folder, keep_every=7)
