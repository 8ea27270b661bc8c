"""Runs in a folder: they go on where they ended, to the bit, and say what is damaged."""

import dataclasses
import json
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import parameters, small_model
from PIL import Image

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


def make_data() -> images.Dataset:
    rng = np.random.default_rng(0)
    drawn = images.Examples(rng.integers(0, 256, (80, 8, 8, 1), dtype=np.uint8), np.arange(80) % 3)
    preprocess = images.Preprocess("cover", "bicubic", (0.5,), (0.25,))
    return images.Dataset("noise", drawn, drawn[:20], ("a", "b", "c"), preprocess)


def make_model() -> vitrail.ViT:
    return small_model(size=SIZE, image_size=(8, 8), patch_size=(4, 4), channels=1, num_classes=3)


class Stop:
    def __init__(self, step: int):
        self.step = step

    def __call__(self, progress: train.Progress) -> None:
        if progress.step >= self.step:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    return parameters(train.fit(make_model(), make_data(), RECIPE, key=KEY))


def fit(folder: Path, **options: Any) -> vitrail.ViT:
    return train.fit(make_model(), make_data(), RECIPE, key=KEY, folder=folder, keep_every=7, **options)


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
        match=r"must have this run, got one with another recipe and steps .*epochs=4.* there, .*epochs=5.* here",
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
            train.fit(model, data, recipe, key=KEY, folder=folder, keep_every=1)
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


def test_lines_curves_and_events_say_what_metrics_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Of a run that is ended once: its steps are counted from where it goes on."""
    folder = tmp_path / "run"
    board = pytest.importorskip("tensorboardX")
    written: list[tuple[str, float, int]] = []
    monkeypatch.setattr(board.SummaryWriter, "add_scalar", lambda _, *scalar: written.append(scalar))
    for end in (20, 100):
        with train.write_board(folder) as write, train.show_progress() as show_line, suppress(KeyboardInterrupt):

            def report(progress: train.Progress, end: int = end, write: Any = write, show_line: Any = show_line):
                write(progress)
                show_line(progress)
                Stop(end)(progress)

            fit(folder, report=report, validation=make_data().test)
    lines = read_metrics(folder)
    assert [(name, value) for name, value, step in written if step == 28] == [
        *((name, value) for name, value in lines[-4].items() if name != "step"),
        ("waited", pytest.approx(0.5, abs=0.5)),
    ]
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert [line.split(" of ")[0] for line in printed] == [f"step {n}" for n in (1, 7, 14, 15, 21, 28, 35, 40)]
    loss, accuracy, validation = (lines[-1][name] for name in ("loss", "accuracy", "validation"))
    assert printed[-1].startswith(
        f"step 40 of 40  loss {loss:.3f}  accuracy {accuracy:6.1%}  validation {validation:6.1%}"
    )
    assert re.search(r"  [\d,]+ images/s  data wait \d+%  \d:\d\d in all$", printed[-1])
    show.draw_curves(folder, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (1300, 468)
    with pytest.raises(ValueError, match="must be the folder of a run with metrics"):
        show.draw_curves(tmp_path, tmp_path / "curves.png")


def test_the_speed_is_that_of_the_steps_in_this_process():
    """A run that went on after step 14: of 6 steps, 5 are timed, of 8 images each."""
    progress = train.Progress(20, 40, 160, {}, seconds=2.0, timed=5, waited=0.5, state=cast(Any, None))
    assert (progress.images_per_second, progress.seconds_left, progress.share_waited) == (20.0, 8.0, 0.25)


_PROGRAM = """if True:
    import os, resource, sys
    sys.path.insert(0, {tests!r})
    import test_train_run

    def end(progress):
        if progress.step == 20:
            {action}

    try:
        test_train_run.fit(test_train_run.Path({folder!r}), report=end)
    except ValueError as error:
        sys.exit(str(error))"""


@pytest.mark.parametrize(
    ("action", "status"),
    [
        ("os.kill(os.getpid(), 9)", -signal.SIGKILL),
        ("os.kill(os.getpid(), 15)", -signal.SIGTERM),
        # No file can have more bytes, as on a full disk.
        ("resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))", 1),
        ("resource.setrlimit(resource.RLIMIT_FSIZE, (8000, resource.RLIM_INFINITY))", 1),
    ],
    ids=["kill", "terminate", "full", "full for a checkpoint"],
)
def test_a_run_that_was_ended_goes_on(action: str, status: int, tmp_path: Path, whole: dict[str, Any]):
    folder = tmp_path / "run"
    program = _PROGRAM.format(tests=str(Path(__file__).parent), folder=str(folder), action=action)
    ended = subprocess.run([sys.executable, "-c", program], timeout=120, check=False, capture_output=True, text=True)
    assert ended.returncode == status
    checkpoints = [int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdecimal()]
    if status == -signal.SIGTERM:
        assert max(checkpoints) == read_metrics(folder)[-1]["step"]
    if status == 1:
        *_, message = ended.stderr.splitlines()
        assert re.search(r"run.* cannot be written: .*File too large", message)
        assert f"the checkpoint of step {max(checkpoints)} is complete" in message
        vitrail.load(folder / "last.safetensors")
    assert_same(fit(folder), whole)
