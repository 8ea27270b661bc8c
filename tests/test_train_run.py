"""Runs in a folder: they go on where they ended, to the bit, and say what is damaged."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers import parameters, small_model

import vitrail
from vitrail import images, train

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
        ValueError, match=r"must have this run, got another recipe: .*epochs=4.* there, .*epochs=5.* here"
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


_PROGRAM = """if True:
    import os, sys
    sys.path.insert(0, {tests!r})
    import test_train_run

    def end(progress):
        if progress.step == 20:
            os.kill(os.getpid(), {number})

    test_train_run.fit(test_train_run.Path({folder!r}), report=end)"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_goes_on(number: int, tmp_path: Path, whole: dict[str, Any]):
    folder = tmp_path / "run"
    program = _PROGRAM.format(tests=str(Path(__file__).parent), folder=str(folder), number=int(number))
    assert subprocess.run([sys.executable, "-c", program], timeout=120, check=False).returncode == -number
    if number == signal.SIGTERM:
        last = max(int(path.name) for path in (folder / "checkpoints").iterdir())
        assert last == read_metrics(folder)[-1]["step"]
    assert_same(fit(folder), whole)
