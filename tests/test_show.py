"""Pictures of what a model sees: attention by head, principal components, and `vitrail look`."""

import dataclasses
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, random_array, run, small_model
from PIL import Image

import vitrail
from vitrail import show
from vitrail.cli import main
from vitrail.images import HALF, IMAGENET

PREPROCESS = vitrail.Preprocess("squash", "bicubic", *IMAGENET)


@pytest.fixture(scope="module")
def model() -> vitrail.ViT:
    return small_model(image_size=(16, 24), pool="cls", num_registers=1, preprocess=PREPROCESS)


def picture_of(seed: int, height: int = 20, width: int = 30) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


# Attention -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_the_attention_of_a_head_is_that_of_what_the_pool_reads(pool: str) -> None:
    model = small_model(pool=pool, class_token=True, num_registers=1)
    image = random_array(8, 12, 3)
    for layer in (-1, 0):
        found = run(show.compute_attention_heads, model, image, layer=layer)
        weights = model.backbone.activations(image, at=("attention_weights",), layers=[layer])["attention_weights"][0]
        assert found.shape == (2, 2, 3)
        for head in range(2):
            rows = weights[head, :1] if pool == "cls" else weights[head, 2:]
            assert_close(found[head].reshape(-1), rows[:, 2:].mean(axis=0))
    assert_close(run(show.compute_attention_map, model, image), show.compute_attention_heads(model, image).mean(axis=0))


# Components ------------------------------------------------------------------------------------------------------


def scaled(components: np.ndarray) -> np.ndarray:
    low, high = (np.percentile(components, percent, axis=0) for percent in (1, 99))
    return np.clip((components - low) / (high - low), 0, 1)


def by_svd(rows: np.ndarray, number: int) -> np.ndarray:
    """Principal components by a singular value decomposition."""
    left, values, _ = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    return (left * values)[:, :number]


def same_colours(found: np.ndarray, expected: np.ndarray) -> bool:
    """Whether each colour is that of a component or of its opposite: the sign of a component says nothing."""
    return all(
        min(np.abs(found[:, i] - colours[:, i]).max() for colours in (scaled(expected), scaled(-expected))) < 1e-4
        for i in range(3)
    )


def tokens_of(model: vitrail.ViT, images: np.ndarray) -> np.ndarray:
    return np.concatenate([np.asarray(run(model.backbone, jnp.asarray(x)).patches, np.float64) for x in images])


def test_components_are_those_of_the_patches_of_all_images(model: vitrail.ViT) -> None:
    images = np.asarray(random_array(3, 16, 24, 3))
    found = show.compute_components(model, images)
    assert found.shape == (3, 4, 6, 3)
    assert same_colours(found.reshape(-1, 3), by_svd(tokens_of(model, images), 3))
    assert np.array_equal(found, show.compute_components(model, jnp.asarray(images)))


def test_the_background_is_the_side_of_the_edges(model: vitrail.ViT) -> None:
    """Images of noise with a square in the middle."""
    images = 0.1 * np.asarray(random_array(2, 16, 24, 3))
    images[:, 4:12, 8:16] += 3.0
    rows = tokens_of(model, images)
    first = by_svd(rows, 1)[:, 0].reshape(2, 4, 6)
    inside = np.zeros((2, 4, 6), bool)
    inside[:, 1:3, 2:4] = True
    assert np.all(np.sign(first[inside]) == np.sign(first[0, 1, 2]))  # the component tells them apart
    found = show.compute_components(model, images, foreground=True)
    kept = np.sign(first) == np.sign(first[0, 1, 2])
    assert not found[~kept].any()
    assert same_colours(found[kept], by_svd(rows[kept.ravel()], 3))


def test_tokens_that_are_all_alike_have_one_colour(model: vitrail.ViT) -> None:
    alike = eqx.tree_at(lambda m: m.backbone.norm.weight, model, jnp.zeros(16))
    assert np.all(show.compute_components(alike, np.zeros((1, 16, 24, 3), np.float32)) == 0.5)
    found = show.compute_components(alike, np.zeros((1, 16, 24, 3), np.float32), foreground=True)
    assert np.isfinite(found).all()
    broken = eqx.tree_at(lambda m: m.backbone.norm.bias, model, jnp.full(16, jnp.nan))
    with pytest.raises(FloatingPointError, match="the patch tokens must be finite"):
        show.compute_components(broken, np.zeros((1, 16, 24, 3), np.float32))


# Pictures --------------------------------------------------------------------------------------------------------


def read(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def test_each_picture_is_drawn_in_one_call(model: vitrail.ViT, tmp_path: Path) -> None:
    pictures = [picture_of(0), Image.fromarray(picture_of(1, 33, 21))]
    widths: list[int] = []
    for draw in (show.draw_components, show.draw_attention, show.draw_look):
        draw(model, pictures, tmp_path / "drawn.png")
        widths.append(read(tmp_path / "drawn.png").shape[1])
        assert len(np.unique(read(tmp_path / "drawn.png").reshape(-1, 3), axis=0)) > 100
    assert widths == sorted(widths)
    show.draw_look(model, pictures[:1], tmp_path / "large.svg", image_size=32, foreground=True)
    assert (tmp_path / "large.svg").read_text().startswith("<?xml")


def test_many_heads_stand_in_several_lines(tmp_path: Path) -> None:
    size = vitrail.EncoderSize(dim=24, depth=1, num_heads=12, mlp_dim=8)
    model = small_model(size=size, preprocess=PREPROCESS)
    show.draw_look(model, [picture_of(0)], tmp_path / "many.png")
    height, width, _ = read(tmp_path / "many.png").shape
    assert width > 2 * height > 0


def test_a_grey_model_and_one_with_windows(tmp_path: Path) -> None:
    grey = small_model(channels=1, preprocess=vitrail.Preprocess("squash", "bicubic", (0.5,), (0.5,)))
    show.draw_look(grey, [picture_of(0)], tmp_path / "grey.png")
    windows = vitrail.WindowOptions(size=2, global_blocks=(1,))
    windowed = small_model(windows=windows, image_size=(16, 16), preprocess=PREPROCESS)
    show.draw_look(windowed, [picture_of(0)], tmp_path / "windows.png")
    with pytest.raises(ValueError, match="windows"):
        show.draw_attention(windowed, [picture_of(0)], tmp_path / "attention.png")
    assert not (tmp_path / "attention.png").exists()


def test_what_cannot_be_drawn_is_an_error(model: vitrail.ViT, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    with pytest.raises(ValueError, match="pictures must have at least one picture, got none"):
        show.draw_look(model, [], out)
    with pytest.raises(ValueError, match="preprocess must be given, because the configuration of the model does not"):
        show.draw_look(small_model(), [picture_of(0)], out)
    with pytest.raises(ValueError, match="image_size must be multiples of patch_size, got 30 x 30"):
        show.draw_look(model, [picture_of(0)], out, image_size=30)
    with pytest.raises(ValueError, match=r"path must end in \.png, \.pdf, \.svg"):
        show.draw_look(model, [picture_of(0)], tmp_path / "out.bmp")
    broken: Any = eqx.tree_at(lambda m: m.backbone.encoder.stack.norm1.bias, model, jnp.full((2, 16), jnp.nan))
    with pytest.raises(FloatingPointError, match="the attention must be finite"):
        show.draw_attention(broken, [picture_of(0)], out)
    assert not list(tmp_path.iterdir())


# The command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(model: vitrail.ViT, tmp_path: Path) -> Path:
    vitrail.save(model, tmp_path / "model.safetensors")
    for number in range(2):
        Image.fromarray(picture_of(number)).save(tmp_path / f"{number}.png")
    return tmp_path / "model.safetensors"


def test_look_draws_what_the_call_draws(
    model: vitrail.ViT, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / "0.png", tmp_path / "1.png"]
    out = tmp_path / "look.png"
    assert main(["look", str(saved), *map(str, paths), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"picture: {out}\n"
    show.draw_look(model, [Image.open(path) for path in paths], tmp_path / "call.png")
    assert np.array_equal(read(out), read(tmp_path / "call.png"))
    options = ["--image-size", "32", "--foreground", "--preprocess", "half"]
    assert main(["look", str(saved), str(paths[0]), *options, "--out", str(out)]) == 0
    half = vitrail.Preprocess("squash", "bicubic", *HALF)
    show.draw_look(model, [picture_of(0)], tmp_path / "call.png", image_size=32, preprocess=half, foreground=True)
    assert np.array_equal(read(out), read(tmp_path / "call.png"))


def test_look_of_the_image_model_of_a_system(tmp_path: Path, model: vitrail.ViT) -> None:
    image = dataclasses.replace(model.config, head="none", num_classes=None)
    head = vitrail.HEADS.configure("projection", hidden_dim=8, bottleneck_dim=4)
    dino = vitrail.DINOConfig(image=image, num_prototypes=6, head=head).build(key=jax.random.key(0))
    vitrail.save(dino, tmp_path / "dino.safetensors")
    Image.fromarray(picture_of(0)).save(tmp_path / "0.png")
    out = tmp_path / "look.png"
    assert main(["look", str(tmp_path / "dino.safetensors"), str(tmp_path / "0.png"), "--out", str(out)]) == 0
    assert out.exists()


def test_an_error_of_look_is_one_line(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.png").write_text("no picture")
    photo, out = str(tmp_path / "0.png"), str(tmp_path / "look.png")
    bare = tmp_path / "bare.safetensors"
    vitrail.save(small_model(), bare)
    for arguments, message in (
        ([str(saved), str(tmp_path / "text.png"), "--out", out], "text.png must be an image that Pillow can read"),
        ([str(saved), photo, str(tmp_path / "nowhere.png"), "--out", out], "nowhere.png: No such file"),
        ([str(tmp_path / "nowhere"), photo, "--out", out], "nowhere"),
        ([photo, photo, "--out", out], "0.png"),
        ([str(saved), photo, "--out", photo], "out must not be one of the images"),
        ([str(saved), photo, "--out", str(tmp_path / "look.bmp")], "out must end in .png, .pdf, .svg"),
        ([str(saved), photo, "--out", out, "--image-size", "30"], "must be multiples of patch_size"),
        ([str(saved), photo, "--out", out, "--image-size", "-4"], "image_size must be positive"),
        ([str(bare), photo, "--out", out], "preprocess is not known for"),
    ):
        assert main(["look", *arguments]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
        assert not (tmp_path / "look.png").exists()


def test_a_picture_of_its_own_size_is_squashed_into_its_panel(tmp_path: Path) -> None:
    half = (0.5,) * 3
    native = vitrail.Preprocess("native", "bilinear", half, half, patch_size=(4, 4), max_patches=6)
    model = small_model(pool="mean", preprocess=native)
    pictures = [np.zeros((30, 10, 3), np.uint8), np.full((8, 40, 3), 200, np.uint8)]
    show.draw_look(model, pictures, tmp_path / "own.png")
    pad, squash = (vitrail.Preprocess(fit, "bilinear", half, half) for fit in ("pad", "squash"))
    show.draw_look(model, pictures, tmp_path / "padded.png", preprocess=pad)
    show.draw_look(vitrail.replace(model, preprocess=squash), pictures, tmp_path / "squashed.png")
    for name in ("own.png", "padded.png"):  # the padding would be the first component
        assert (tmp_path / name).read_bytes() == (tmp_path / "squashed.png").read_bytes()
