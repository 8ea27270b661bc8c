"""`vitrail train`: what is wrong is said before anything slow, batches, runs without their first weights, devices."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers import parameters, small_model, write_pictures

import vitrail
from vitrail import train
from vitrail.cli import main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twenty pictures, and a small model beside them."""
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "images")
    size = vitrail.EncoderSize(dim=16, depth=1, num_heads=2, mlp_dim=16)
    model = small_model(size=size, image_size=(8, 8), patch_size=(4, 4), num_classes=2)
    vitrail.save(model, tmp_path / "model.safetensors", licence="mit")
    return tmp_path


RUN = ["train", "--data", "images", "--model", "model.safetensors", "--epochs", "2", "--out", "run"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--objective", "clasify"], "there is no objective 'clasify': did you mean 'classify'"),
        (["--objective", "classify(smoothin=0.1)"], "did you mean 'smoothing'"),
        (["--objective", "classify(smoothing=2.0)"], "smoothing must be in [0, 1), got 2.0"),
        (["--transforms", "horizontal_flip", "rand_augmnet"], "there is no transform 'rand_augmnet'"),
        (["--transforms", "rand_augment(magnitud=1.0)"], "did you mean 'magnitude'"),
        (["--pool", "maen"], "there is no pool 'maen': did you mean 'mean'"),
        (["--model", "Ti/16", "--head", "linaer"], "there is no head 'linaer': did you mean 'linear'"),
        (["--model", "Ti/16", "--position", "lerned"], "'lerned': did you mean 'learned'"),
        (["--model", "Ti/16", "--patch", "cnov"], "there is no patch"),
        (["--recipe", "objective.json"], "there is no objective 'clasify'"),
        (["--recipe", "transform.json"], "there is no transform 'flip'"),
        (["--recipe", "optimiser.json"], "optimiser.json must be a recipe as Recipe.to_json writes it: optimiser"),
        (["--recipe", "schedule.json"], "schedule.json must be a recipe as Recipe.to_json writes it: schedule"),
    ],
)
def test_a_wrong_name_is_found_before_anything_is_loaded(
    folder: Path,
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("something was loaded")

    for name in ("load_data", "load_data_for"):
        monkeypatch.setattr(f"vitrail.cli._train_model.{name}", fail)
    monkeypatch.setattr("vitrail.cli._options.LoadOptions.load_model", fail)
    for name, wrong in (
        ("objective", "clasify"),
        ("transforms", ["flip"]),
        ("optimiser", "adamm"),
        ("schedule", "cosinus"),
    ):
        fields = json.loads(train.RECIPES["finetune"].to_json()) | {name: wrong}
        Path(f"{name.removesuffix('s')}.json").write_text(json.dumps(fields))
    assert main([*RUN, *options]) == 1
    assert message in capsys.readouterr().err
    assert not Path("run").exists()


def test_fit_finds_wrong_names_before_it_opens_files(folder: Path):
    data = vitrail.images.load_images("images", image_size=(8, 8), lazy=True)
    Path("images/dark/0.png").unlink()  # which would be found next
    Path("images/light/0.png").unlink()
    model = vitrail.load("model.safetensors")
    for changes, message in (
        ({"objective": "clasify"}, "there is no objective 'clasify'"),
        ({"transforms": ("flip",)}, "there is no transform 'flip'"),
        ({"batch_size": 1000}, "batch_size must be at most"),
        ({}, "cannot be decoded"),
    ):
        recipe = dataclasses.replace(train.RECIPES["probe"], **{"batch_size": 4, **changes})
        with pytest.raises((vitrail.UnknownPartError, ValueError), match=message):
            train.fit(model, data, recipe, key=jax.random.key(0))


def test_a_batch_that_was_chosen_is_not_cut(folder: Path, capsys: pytest.CaptureFixture[str]):
    own = dataclasses.replace(train.RECIPES["probe"], batch_size=300, epochs=2)
    Path("own.json").write_text(own.to_json())
    for options, message in (
        (["--recipe", "probe", "--batch-size", "17"], "batch_size must be at most 16, for 16 training images, got 17"),
        (["--recipe", "probe", "--batch-size", "128"], "got 128"),  # the number of the recipe, but chosen
        (["--recipe", "own.json"], "got 300"),
        (
            ["--recipe", "probe", "--batch-size", "18", "--mesh", "data=2"],
            "at most 16, for 16 training images in 2 parts",
        ),
        (["--recipe", "probe", "--batch-size", "16", "--validation", "0.25"], "at most 12, for 12 training images"),
    ):
        assert main([*RUN, *options]) == 1
        assert message in capsys.readouterr().err
    assert main([*RUN, "--recipe", "probe", "--held-out", "0.25", "--mesh", "data=2"]) == 0
    printed = capsys.readouterr().out
    assert "batch_size: 16, because there are 16 training images; 128 by default" in printed
    assert "recipe: Recipe(epochs=2, batch_size=16," in printed
    assert "augmentation=Augmentation()," in printed
    assert json.loads(Path("run/run.json").read_text())["settings"]["batch_size"] == 16
    assert main(["train", "--resume", "run"]) == 0


@pytest.mark.parametrize(
    "options", [[], ["--lora", "2"], ["--objective", "mae(decoder_dim=8, decoder_depth=1, decoder_heads=2)"]]
)
def test_a_run_goes_on_without_the_weights_that_it_began_with(
    folder: Path, options: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    run = [*RUN, "--batch-size", "8", "--epochs", "4", *options]
    assert main([*run, "--out", "whole"]) == 0

    class Stop:
        def __enter__(self) -> Any:
            return self

        def __exit__(self, *args: object) -> None:
            pass

        def __call__(self, progress: train.Progress) -> None:
            if progress.step == 4:
                raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("vitrail.cli._train.show_progress", Stop)
        assert main(run) == 130
    Path("model.safetensors").unlink()
    capsys.readouterr()
    assert main(["train", "--resume", "run"]) == 0
    assert "model.safetensors is not there; the run goes on from its own checkpoint" in capsys.readouterr().out
    one, other = (parameters(vitrail.load(f"{name}/last.safetensors")) for name in ("run", "whole"))
    assert all(np.array_equal(one[name], other[name]) for name in other)
    assert vitrail.model_card("run/last.safetensors").licence == "mit"
    assert main(run) == 1  # a new command needs the file
    assert (
        "model must be a file of weights, a name of `vitrail list models`, small, or a size" in capsys.readouterr().err
    )


@pytest.mark.parametrize("model", ["model.safetensors", "small", "Ti/16"])
def test_the_command_never_holds_the_whole_model_on_one_device(
    folder: Path, model: str, monkeypatch: pytest.MonkeyPatch
):
    """What is alive on each of two devices when `fit` begins, and what it prepares."""
    found = list[tuple[float, bool]]()

    def list_buffers() -> dict[tuple[Any, int], int]:
        """The bytes of what is alive, by device and address: an array and its parts share theirs."""
        parts = [part for array in jax.live_arrays() for part in array.addressable_shards]
        return {(part.device, part.data.unsafe_buffer_pointer()): part.data.nbytes for part in parts}

    def look(model: Any, *args: Any, **kwargs: Any) -> Any:
        arrays = parameters(model.backbone).values()  # a head for other classes is new
        whole = sum(array.nbytes for array in arrays)
        alive = {place: size for place, size in list_buffers().items() if place not in before}
        for device in jax.devices():
            live = sum(size for (where, _), size in alive.items() if where == device)
            found.append((live / whole, all(len(array.sharding.device_set) == 2 for array in arrays)))
        raise KeyboardInterrupt

    monkeypatch.setattr("vitrail.cli._train.fit", look)
    held, before = jax.live_arrays(), list_buffers()  # held, so that no new array takes the place of an old one
    size = [] if model == "model.safetensors" else ["--image-size", "32"]
    assert main([*RUN, "--model", model, "--batch-size", "8", "--mesh", "fsdp=2", *size]) == 130
    del held
    assert len(found) == 2
    for share, is_divided in found:
        assert is_divided
        assert 0.3 < share < (0.9 if model == "model.safetensors" else 0.6)


def test_what_an_objective_adds_is_born_divided(folder: Path, monkeypatch: pytest.MonkeyPatch):
    mesh = train.make_mesh("fsdp=2")
    model, data = vitrail.load("model.safetensors"), vitrail.images.load_images("images", image_size=(8, 8))
    recipe = dataclasses.replace(
        train.RECIPES["mae"],
        objective=train.OBJECTIVES.configure("mae", decoder_dim=8, decoder_depth=1, decoder_heads=2),
        batch_size=8,
    )
    seen = list[Any]()
    start = train.Training.start

    def look(self: Any, model: Any, *, key: Any) -> Any:
        seen.append(model)
        return start(self, model, key=key)

    monkeypatch.setattr(train.Training, "start", look)
    once = dataclasses.replace(recipe, epochs=1)
    divided = train.fit(model, data, once, key=jax.random.key(0), mesh=mesh)
    alone = train.make_objective(once, data.preprocess).prepare(model, key=jax.random.split(jax.random.key(0), 3)[2])
    assert type(divided) is type(alone)
    for name, array in parameters(seen[0]).items():
        assert len(array.sharding.device_set) == 2
        assert np.array_equal(array, parameters(alone)[name])
