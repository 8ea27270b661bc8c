"""A newcomer's day: a folder of photographs, and all that they do with it, from the list of broken files to another
library."""

import csv
import dataclasses
import io
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import vitrail
from vitrail import images, train
from vitrail.cli import main

CLASSES = ("grass", "sea", "sunset")
COLOURS = {"grass": (60, 140, 50), "sea": (40, 90, 160), "sunset": (200, 110, 50)}


def photograph(rng: np.random.Generator, name: str) -> Image.Image:
    """A picture of any size, in the colour of its class for the most part."""
    height, width = rng.integers(20, 300, 2)
    small = rng.normal(COLOURS[name], 45, (6, 8, 3)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def write_photographs(root: Path) -> list[Path]:
    """500 photographs, some of them odd. Returns the two that are broken."""
    rng = np.random.default_rng(0)
    for part, per_class in (("train", 133), ("val", 33)):
        for name in CLASSES:
            (root / part / name).mkdir(parents=True)
            for number in range(per_class):
                photograph(rng, name).save(root / part / name / f"{number:03}.jpg", quality=90)
    phone = photograph(rng, "sea")
    phone.save(root / "train" / "sea" / "phone.jpg", format="MPO", save_all=True, append_images=[phone.resize((9, 9))])
    photograph(rng, "sea").convert("L").save(root / "train" / "sea" / "grey.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    photograph(rng, "grass").rotate(90, expand=True).save(root / "val" / "grass" / "turned.jpg", exif=turned)
    photograph(rng, "sunset").convert("CMYK").save(root / "train" / "sunset" / "print.jpg")
    deep = np.full((40, 50), 30_000, np.uint16)
    Image.fromarray(deep).save(root / "train" / "grass" / "deep.png")
    cut, empty = root / "train" / "grass" / "cut.jpg", root / "val" / "sea" / "empty.png"
    encoded = io.BytesIO()
    photograph(rng, "grass").save(encoded, format="JPEG")
    cut.write_bytes(encoded.getvalue()[: len(encoded.getvalue()) // 2])
    empty.write_bytes(b"")
    return [cut, empty]


def test_a_first_day(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    photos = Path("photos")
    broken = write_photographs(photos)
    assert len(list(photos.glob("*/*/*"))) > 500 - 2

    # One run lists what is broken.
    train_it = ["demo", "--data", "photos", "--image-size", "32", "--epochs", "4", "--learning-rate", "2e-3"]
    assert main(train_it) == 1
    first, *lines = capsys.readouterr().err.splitlines()
    assert first == "vitrail: error: 2 files or folders cannot be used:"
    assert [Path(line.split()[0]) for line in lines] == broken
    for path in broken:
        path.unlink()

    # It trains, on the division of the folder, and saves the model.
    assert main(train_it) == 0
    printed = capsys.readouterr().out
    assert "403 images to learn from, 100 held out, 3 classes, 32 x 32, RGB" in printed
    accuracy = float(printed.split("test accuracy: ")[1].split("%")[0]) / 100
    assert accuracy > 0.9
    assert Path("vitrail-demo.png").is_file()

    # The model tells in another process what it is of, and predicts the files as it was evaluated.
    held_out = sorted(photos.glob("val/*/*"))
    predict = [sys.executable, "-m", "vitrail", "predict", "vitrail-demo.safetensors", "--top", "1"]
    out = subprocess.run([*predict, *map(str, held_out)], capture_output=True, text=True, check=True).stdout
    predicted = [line.split()[-1] for line in out.splitlines()[1::2]]
    right = sum(path.parent.name == name for path, name in zip(held_out, predicted, strict=True))
    assert right / len(held_out) == pytest.approx(accuracy, abs=0.015)

    # Another pool on the same backbone.
    model = vitrail.load("vitrail-demo.safetensors")
    assert model.config.classes == CLASSES
    data = images.load_images(photos, image_size=model.config.image_size, preprocess=model.config.preprocess)
    assert train.evaluate(model, data).accuracy == pytest.approx(accuracy, abs=0.001)
    swapped = vitrail.replace(model, pool="cls", key=jax.random.key(0))
    recipe = train.Recipe(epochs=2, learning_rate=1e-3)
    swapped = train.fit(swapped, data, recipe, key=jax.random.key(1))
    assert train.evaluate(swapped, data).accuracy > 0.8

    # Which pool is best?
    compare = ["compare", "--data", "photos", "--models", "vitrail-demo.safetensors", "--pools", "mean,max", "--seeds"]
    assert main([*compare, "2", "--steps", "100", "--shots", "none", "--out", "comparison"]) == 0
    with Path("comparison", "results.csv").open() as file:
        assert {row["pool"] for row in csv.DictReader(file)} == {"mean", "max"}

    # Folders for transformers and timm, which vitrail reads back. tests/oracles opens them with the libraries.
    photo = vitrail.model_card(model).preprocess(Image.open(held_out[0]))
    for layout, own in (("timm", model), ("hf_vit", swapped)):
        vitrail.save(own, layout, layout=layout)
        again = vitrail.load(layout)
        assert again.config.classes == CLASSES
        # Where a crop begins at half a pixel, transformers begins at the other one.
        expected = dataclasses.replace(data.preprocess, half_pixel="even" if layout == "timm" else "down")
        assert again.config.preprocess == expected
        np.testing.assert_allclose(again(photo), own(photo), rtol=1e-5, atol=1e-5)
    assert json.loads(Path("timm", "config.json").read_text())["label_names"] == list(CLASSES)
    assert json.loads(Path("hf_vit", "config.json").read_text())["id2label"]["1"] == "sea"
    assert json.loads(Path("hf_vit", "preprocessor_config.json").read_text())["size"] == {"shortest_edge": 32}
