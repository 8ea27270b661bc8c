"""`vitrail predict --classes` and `vitrail search`: what they print, draw and refuse."""

import dataclasses
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import run
from PIL import Image
from test_cli_weights import error_of
from text_models import make_model, write_model

import vitrail
from vitrail.cli import main

FAMILIES = ["openai_clip", "hf_siglip 2"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of a model for each family."""
    return {family: write_model(family, tmp_path_factory.mktemp("m") / "model") for family in FAMILIES}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images, two of them in a folder within, and what is none."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "within").mkdir()
    (folder / ".hidden").mkdir()
    generator = np.random.default_rng(0)
    for name in (
        "a.png",
        "b.jpg",
        "c.PNG",
        "within/d.webp",
        "within/a long name of a picture, in words.png",
        ".hidden/x.png",
    ):
        pixels = generator.integers(0, 256, (9, 12, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "broken.jpg").write_text("no picture")
    (folder / "notes.txt").write_text("no picture")
    return folder


def embed(folder: Path, picture: Path) -> np.ndarray:
    """The embedding of a picture, by hand."""
    model: vitrail.ImageText = vitrail.load(folder)
    preprocess = model.image.config.preprocess
    assert preprocess is not None
    with Image.open(picture) as image:
        return np.asarray(run(model.embed_image, jnp.asarray(preprocess(image, (8, 8)))))


@pytest.mark.parametrize("family", FAMILIES)
def test_predict_shows_the_probabilities_of_the_classes_that_are_named(
    family: str, folders: dict[str, Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, names = folders[family], ["cat", "dog", "red sofa"]
    assert main(["predict", str(folder), str(photos / "a.png"), "--classes", "cat, dog,red sofa"]) == 0
    printed = capsys.readouterr().out
    model: vitrail.ImageText = vitrail.load(folder)
    texts = jnp.asarray(model.tokenize([f"a photo of a {name}." for name in names]))
    logits = model.similarity(jnp.asarray(embed(folder, photos / "a.png")), jax.vmap(model.embed_text)(texts))
    shares = np.asarray(jax.nn.softmax(logits) if model.bias is None else jax.nn.sigmoid(logits))
    lines = [f"  {shares[i]:6.1%}  class {i}  {names[i]}" for i in np.argsort(-shares)]
    assert printed.splitlines() == [str(photos / "a.png"), *lines]
    # The classifier that is saved predicts the same.
    saved = tmp_path / "m.safetensors"
    vitrail.save(vitrail.zero_shot(model, names), saved)
    assert main(["predict", str(saved), str(photos / "a.png")]) == 0
    assert capsys.readouterr().out == printed


def test_predict_takes_templates_and_draws_attention(
    folders: dict[str, Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["predict", str(folders["openai_clip"]), str(photos / "a.png"), "--classes", "cat,dog"]
    found: list[str] = []
    for extra in ([], ["--templates", "imagenet_simple"], ["--templates", "no {} here"]):
        assert main([*command, *extra]) == 0
        found.append(capsys.readouterr().out)
    assert len(set(found)) == 3
    assert main([*command, "--attention", str(tmp_path / "a.png")]) == 0
    with Image.open(tmp_path / "a.png") as drawn:
        assert drawn.size == (16, 8)


def test_predict_refuses_classes_that_are_none(
    folders: dict[str, Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = str(photos / "a.png")
    clip = ["predict", str(folders["openai_clip"]), picture]
    for classes in ("", "cat,,dog", " , ", "cat,"):
        assert "classes must be names between commas, none empty" in error_of([*clip, "--classes", classes], capsys)
    assert "classes must be different, got 'cat' more than once" in error_of(
        [*clip, "--classes", "cat,dog, cat"], capsys
    )
    assert "classes must be at least two, got 'cat'" in error_of([*clip, "--classes", "cat"], capsys)
    assert "templates must be one of 'photo'" in error_of([*clip, "--classes", "a,b", "--templates", "x"], capsys)
    assert "or name --classes if it has both towers of CLIP or SigLIP" in error_of(clip, capsys)
    assert main(["predict", str(folders["hf_siglip 2"]), picture, "--classes", "cat"]) == 0


def test_models_that_read_no_texts_are_refused(
    folders: dict[str, Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tower = tmp_path / "tower.safetensors"
    vitrail.save(vitrail.load(folders["openai_clip"], part="image"), tower)
    vitrail.save(make_model("openai_clip"), tmp_path / "bare.safetensors")
    commands = [
        ["predict", "FILE", str(photos / "a.png"), "--classes", "cat,dog"],
        ["search", "FILE", str(photos), "a cat"],
    ]
    for command in commands:
        command[1] = str(tower)
        assert "must have both towers of CLIP or SigLIP to read texts, got an image model" in error_of(command, capsys)
        command[1] = str(tmp_path / "bare.safetensors")
        assert "must have a tokenizer beside it to read texts, got none" in error_of(command, capsys)


@pytest.mark.parametrize("family", FAMILIES)
def test_search_ranks_the_images_by_their_cosine_with_the_text(
    family: str, folders: dict[str, Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = folders[family], tmp_path / "found.png"
    command = ["search", str(folder), str(photos), "a red car", "--out", str(out), "--batch-size", "2"]
    assert main(command) == 0
    *lines, left_out, summary, _ = capsys.readouterr().out.splitlines()
    model: vitrail.ImageText = vitrail.load(folder)
    text = np.asarray(run(model.embed_text, jnp.asarray(model.tokenize("a red car")[0])))
    names = ["a.png", "b.jpg", "c.PNG", "within/d.webp", "within/a long name of a picture, in words.png"]
    scores = {str(photos / name): float(embed(folder, photos / name) @ text) for name in names}
    expected = sorted(scores, key=lambda name: -scores[name])
    assert [line.split(maxsplit=1)[1] for line in lines] == expected
    for line, name in zip(lines, expected, strict=True):
        assert abs(float(line.split()[0]) - scores[name]) < 1e-3
    assert re.fullmatch(r"left out: .*broken\.jpg must be an image that Pillow can read.*", left_out)
    assert summary == f"5 images, the best 5: {out}"
    with Image.open(out) as sheet:
        assert sheet.size[0] == 1560
    assert main([*command, "--top", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == lines[:2]


def test_search_does_not_find_its_own_picture(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "red.png")
    command = ["search", str(folders["openai_clip"]), str(tmp_path), "red 赤", "--out", str(tmp_path / "found.png")]
    for _ in range(2):
        assert main(command) == 0
        assert "1 images, the best 1" in capsys.readouterr().out


def test_search_refuses_what_it_cannot_search(
    folders: dict[str, Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = str(folders["openai_clip"])
    out = ["--out", str(tmp_path / "x.png")]
    assert "text must say what to look for" in error_of(["search", clip, str(photos), " ", *out], capsys)
    assert "it is not a folder" in error_of(["search", clip, str(tmp_path / "none"), "x", *out], capsys)
    assert "it is not a folder" in error_of(["search", clip, str(photos / "a.png"), "x", *out], capsys)
    (tmp_path / "empty").mkdir()
    assert "must have images (.jpg," in error_of(["search", clip, str(tmp_path / "empty"), "x", *out], capsys)
    (tmp_path / "empty" / "bad.png").write_text("no picture")
    assert "must have an image that can be read" in error_of(
        ["search", clip, str(tmp_path / "empty"), "x", *out], capsys
    )
    assert "out must end in .png" in error_of(["search", clip, str(photos), "x", "--out", "x.gif"], capsys)
    assert "top must be positive" in error_of(["search", clip, str(photos), "x", "--top", "0", *out], capsys)
    with pytest.warns(UserWarning, match=r"1,000,000 characters\) has more than 77 tokens"):
        assert main(["search", clip, str(photos), "red " * 250_000, *out]) == 0


def test_a_contact_sheet_has_a_caption_for_each_picture(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (7, 1, 1, 3)).astype(np.uint8)
    captions = [(str(number), "a name") for number in range(7)]
    vitrail.show.draw_contact_sheet(pictures, captions, tmp_path / "sheet.png", title="t" * 500)
    with Image.open(tmp_path / "sheet.png") as sheet:
        drawn = np.asarray(sheet.convert("RGB"))
    # In inches: rows of six from the left, 0.4 from the edge, 0.12 apart, each row below the title or the captions.
    side = (12 - 2 * 0.4 - 5 * 0.12) / 6
    for number, picture in enumerate(pictures):
        left, top = 0.4 + number % 6 * (side + 0.12), 0.75 + number // 6 * (side + 0.5)
        assert np.array_equal(drawn[int(130 * (top + side / 2)), int(130 * (left + side / 2))], picture[0, 0])
    with pytest.raises(ValueError, match="captions must be one for each picture, got 6 for 7 pictures"):
        vitrail.show.draw_contact_sheet(pictures, captions[:6], tmp_path / "sheet.png", title="t")
    with pytest.raises(ValueError, match=r"path must end in \.png"):
        vitrail.show.draw_contact_sheet(pictures, captions, tmp_path / "sheet.gif", title="t")


def test_images_of_any_shape_are_searched_by_a_model_of_native_aspect(
    folders: dict[str, Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model: vitrail.ImageText = vitrail.load(folders["hf_siglip 2"])
    patch = model.image.config.patch_size
    half = (0.5,) * 3
    native = vitrail.Preprocess("native", "bilinear", half, half, patch_size=patch, max_patches=6)
    image = vitrail.replace(model.image, preprocess=native)
    config = dataclasses.replace(model.config, image=image.config)
    vitrail.save(dataclasses.replace(model, image=image, config=config), tmp_path / "m.safetensors")
    search = ["search", str(tmp_path / "m.safetensors"), str(photos), "red", "--out", str(tmp_path / "found.png")]
    assert main(search) == 0
    with Image.open(photos / "a.png") as picture:
        batch = vitrail.pack([native(picture, (0, 0))], patch, 6)
    text = run(model.embed_text, jnp.asarray(model.tokenize("red")[0]))
    score = float(run(jax.vmap(model.embed_image), batch)[0] @ text)
    assert f"{score:8.4f}  {photos / 'a.png'}" in capsys.readouterr().out
