"""Training on images with texts, from Python and by the command, and what is refused before the first step."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers import small_model
from PIL import Image

import vitrail
from vitrail import images, train
from vitrail.cli import main

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "yellow": (220, 220, 30)}
KEY = jax.random.key(1)
CLIP = train.OBJECTIVES.configure("clip", embed_dim=8, context=16, text_depth=1)
RECIPE = dataclasses.replace(
    train.RECIPES["clip"], objective=CLIP, epochs=20, batch_size=16, learning_rate=1e-2, warmup=0.1
)


def make_model(num_classes: int = 4) -> vitrail.ViT:
    size = vitrail.EncoderSize(dim=16, depth=1, num_heads=2, mlp_dim=16)
    return small_model(size=size, image_size=(8, 8), patch_size=(4, 4), num_classes=num_classes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of one colour, with the name of the colour in one of two sentences."""
    path = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    lines: list[str] = []
    for i in range(80):
        name = list(COLOURS)[i % 4]
        noise = rng.integers(-25, 26, (8, 8, 3))
        Image.fromarray((np.array(COLOURS[name]) + noise).astype(np.uint8)).save(path / f"{i}.png")
        lines += [json.dumps({"file": f"{i}.png", "text": text}) for text in (f"it is {name}", f"{name.upper()}!")]
    (path / "captions.jsonl").write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def data(folder: Path) -> images.Dataset:
    return images.load_images(folder, image_size=(8, 8), lazy=True)


@pytest.fixture(scope="module")
def trained(data: images.Dataset) -> vitrail.ImageText:
    return train.fit(make_model(), data, RECIPE, key=KEY)


def name_colours(model: vitrail.ImageText, data: images.Dataset) -> list[str]:
    """For each held-out image the sentence that fits best."""
    sentences = [f"it is {name}" for name in COLOURS]
    texts = jax.vmap(model.embed_text)(model.tokenize(sentences))
    pixels = data.preprocess.normalise(jax.numpy.asarray(data.test.images[:]))
    return [sentences[i] for i in np.argmax(model.similarity(jax.vmap(model.embed_image)(pixels), texts), axis=1)]


def assert_right(model: vitrail.ImageText, data: images.Dataset) -> None:
    assert data.test.texts is not None
    right = [text.lower().strip("!").split()[-1] for text in data.test.texts]
    assert [name.split()[-1] for name in name_colours(model, data)] == right


def test_a_vit_gets_a_text_tower_that_learns_what_images_show(trained: vitrail.ImageText, data: images.Dataset):
    assert len(data.test) == 32
    assert trained.config.image.preprocess == data.preprocess
    assert_right(trained, data)


def test_the_command_trains_a_model_of_images_and_texts(
    trained: vitrail.ImageText, data: images.Dataset, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "clip").mkdir()
    vitrail.save(trained, tmp_path / "clip" / "model.safetensors")
    run = ["train", "--data", str(folder), "--model", str(tmp_path / "clip"), "--objective", "clip", "--recipe", "clip"]
    options = [*run, "--epochs", "2", "--out", str(tmp_path / "run")]
    assert main([*options, "--batch-size", "129"]) == 1
    assert "batch_size must be at most 128, for 128 training images, got 129" in capsys.readouterr().err
    for _ in range(2):
        assert main(options) == 0
        printed = capsys.readouterr().out
        assert "128 images to learn from, 32 held out, texts, 8 x 8, RGB" in printed
        assert "batch_size: 128, because there are 128 training images; 256 by default" in printed
        assert "batch_size=128" in printed
        assert "test text accuracy: 100.0% (32 of 32 held-out images, whose own text is the best of 8)" in printed
    assert_right(vitrail.load(tmp_path / "run" / "last.safetensors"), data)
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    assert "last.safetensors: 100.0% (32 of 32 held-out images)" in capsys.readouterr().out
    assert main(["evaluate", str(tmp_path / "run"), "--templates", "{}"]) == 1
    assert "templates has no effect without zero-shot classification" in capsys.readouterr().err
    for wrong, message in (
        (["--head", "mlp"], "head has no effect for images without classes"),
        (["--tokenizer", "x", "--objective", "clip(text_depth=1)"], "tokenizer must be None for a model that has one"),
        (["--tokenizer", "x"], "tokenizer must be None for a model that has one"),
    ):
        assert main([*run, *wrong]) == 1
        assert message in capsys.readouterr().err


def test_a_run_with_texts_classifies_images_by_the_names_of_their_folders(
    folder: Path, data: images.Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    train.fit(make_model(), data, RECIPE, key=KEY, folder=tmp_path / "run")
    for i, name in enumerate(COLOURS):
        for picture in range(i, 80, 4):
            (tmp_path / "classes" / name).mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / f"{picture}.png", tmp_path / "classes" / name)
    command = ["evaluate", str(tmp_path / "run"), "--data", str(tmp_path / "classes"), "--templates", "it is {}"]
    assert main(command) == 0
    assert "test zero-shot accuracy of" in (printed := capsys.readouterr().out)
    assert "100.0% (16 of 16 held-out images)" in printed
    (tmp_path / "classes" / "red").rename(tmp_path / "classes" / "moved")
    (tmp_path / "classes" / "blue").rename(tmp_path / "classes" / "red")
    (tmp_path / "classes" / "moved").rename(tmp_path / "classes" / "blue")
    assert main(command) == 0
    assert "50.0% (8 of 16 held-out images)" in capsys.readouterr().out


def test_texts_are_cut_with_one_warning(data: images.Dataset):
    short = dataclasses.replace(
        RECIPE, epochs=1, objective=train.OBJECTIVES.configure("clip", embed_dim=8, context=6, text_depth=1)
    )
    with pytest.warns(UserWarning, match=r"and \d+ more of 128 texts has more than 6 tokens") as caught:
        train.fit(make_model(), data, short, key=KEY)
    assert len([each for each in caught if "tokens" in str(each.message)]) == 1


def test_data_without_what_an_objective_needs_is_refused(data: images.Dataset):
    for objective, message in (
        (
            "classify",
            "the objective 'classify' needs a label with each image, got images and texts: load data with labels",
        ),
        ("probe", "the objective 'probe' needs a label with each image"),
    ):
        with pytest.raises(ValueError, match=message):
            train.fit(make_model(), data, dataclasses.replace(RECIPE, objective=objective), key=KEY)
    for use in (train.evaluate, vitrail.knn, vitrail.compare):
        with pytest.raises(ValueError, match=r"data must have classes, got .* with texts alone"):
            use(make_model(), data, **({"neighbours": 3} if use is vitrail.knn else {}))


def test_a_broken_picture_stops_a_run_before_it_begins_unless_it_is_skipped(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(5):
            source = folder / f"{i if name == 'cat' else 10 + i}.png"
            (tmp_path / "data" / name / f"{i}.png").write_bytes(source.read_bytes())
    broken = tmp_path / "data" / "cat" / "broken.png"
    broken.write_bytes((folder / "0.png").read_bytes()[:60])
    data = images.load_images(tmp_path / "data", image_size=(8, 8), lazy=True)

    def fail(progress: Any) -> None:
        raise AssertionError("a step was taken")

    with pytest.raises(images.DataError, match=r"broken.png cannot be decoded"):
        train.fit(make_model(2), data, train.Recipe(batch_size=2), key=KEY, report=fail, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    vitrail.save(make_model(2), tmp_path / "model.safetensors")
    (tmp_path / "test.txt").write_text("cat/0.png\ndog/1.png\ndog/2.png\n")
    run = ["train", "--data", str(tmp_path / "data"), "--model", str(tmp_path / "model.safetensors"), "--epochs", "1"]
    run += ["--out", str(tmp_path / "run"), "--held-out"]
    assert main([*run, "0.4"]) == 1
    assert "broken.png cannot be decoded" in capsys.readouterr().err
    assert main([*run, str(tmp_path / "test.txt"), "--skip-broken"]) == 0
    printed = capsys.readouterr().out
    assert f"left out: {broken} cannot be decoded" in printed
    assert "7 images to learn from, 3 held out, 1 left out, 2 classes" in printed
    assert "of 3 held-out images" in printed
    assert main(["train", "--skip-broken"]) == 1
    assert "skip-broken has no effect without data: leave it out" in capsys.readouterr().err


def test_validation_chooses_the_model_that_tells_texts_apart_best(data: images.Dataset, tmp_path: Path):
    mask = images.hold_out_images(data.train, share=0.25)
    assert not set(data.train.images.names[mask]) & set(data.train.images.names[~mask])
    rest, held = dataclasses.replace(data, train=data.train[~mask]), data.train[mask]
    folder = tmp_path / "run"
    recipe = dataclasses.replace(RECIPE, epochs=6)
    train.fit(make_model(), rest, recipe, key=KEY, folder=folder, validation=held, keep_every=4)
    measured = [line["validation"] for line in train.read_metrics(folder) if "validation" in line]
    assert len(measured) >= 5
    best = vitrail.load(folder / "best.safetensors")
    judged = dataclasses.replace(rest, test=held)
    right, number = train.match_texts(best, judged, batch_size=7)
    assert right.mean() == max(measured)
    assert number == 8
    # By one image after the other.
    assert held.texts is not None
    sentences = sorted(set(held.texts.tolist()))
    texts = np.stack([best.embed_text(tokens) for tokens in best.tokenize(sentences)])
    pixels = data.preprocess.normalise(jax.numpy.asarray(held.images[:]))
    names = held.images.names
    for i, image in enumerate(pixels):
        chosen = sentences[int(np.argmax(texts @ best.embed_image(image)))]
        assert right[i] == (chosen in held.texts[names == names[i]].tolist())
    with pytest.raises(ValueError, match="got 24 that are in both"):
        train.fit(make_model(), data, recipe, key=KEY, folder=tmp_path / "other", validation=data.train[:24])
    silent = dataclasses.replace(held, texts=None)
    with pytest.raises(ValueError, match="validation must have texts for the objective clip"):
        train.fit(make_model(), rest, recipe, key=KEY, folder=tmp_path / "other", validation=silent)


def test_the_command_validates_on_texts(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "clip").mkdir()
    model = train.make_objective(RECIPE, images.Preprocess("cover", "bicubic", (0.5,) * 3, (0.25,) * 3))
    vitrail.save(model.prepare(make_model(), key=KEY), tmp_path / "clip" / "model.safetensors")
    run = ["train", "--data", str(folder), "--model", str(tmp_path / "clip"), "--objective", "clip", "--recipe", "clip"]
    assert main([*run, "--epochs", "2", "--validation", "0.25", "--out", str(tmp_path / "run")]) == 0
    assert "96 images to learn from, 32 held out, texts" in capsys.readouterr().out
    assert {"best.safetensors", "last.safetensors"} <= {path.name for path in (tmp_path / "run").iterdir()}
    assert all(0 <= line["validation"] <= 1 for line in train.read_metrics(tmp_path / "run") if "validation" in line)
