"""MAE beside its checkpoints: what is hidden stays hidden, the loss by NumPy, and the command."""

from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest
from helpers import assert_close, randomise, run
from PIL import Image

import vitrail
from vitrail.cli import main

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CONFIG = vitrail.MAEConfig(
    image=vitrail.ViTConfig(
        image_size=(8, 12),
        patch_size=(4, 2),
        size=vitrail.EncoderSize(16, 2, 2, 24),
        pool="cls",
        head="none",
        num_registers=1,
        preprocess=vitrail.Preprocess("squash", "bilinear", *IMAGENET),
    ),
    decoder=vitrail.EncoderSize(8, 1, 2, 12),
)
RNG = np.random.default_rng(0)
IMAGE = RNG.normal(size=(8, 12, 3)).astype(np.float32)
NOISE = RNG.permutation(12).astype(np.float32)


@pytest.fixture(scope="module", params=[True, False])
def model(request: pytest.FixtureRequest) -> vitrail.MaskedAutoencoder:
    config = vitrail.MAEConfig(image=CONFIG.image, decoder=CONFIG.decoder, normalise_targets=request.param)
    return randomise(lambda: config.build(key=jax.random.key(0)))


def cut(image: np.ndarray) -> np.ndarray:
    """The pixels of each patch, by loops."""
    return np.stack([image[r : r + 4, c : c + 2].ravel() for r in (0, 4) for c in range(0, 12, 2)])


def test_pixels_are_cut_into_patches_and_put_together(model: vitrail.MaskedAutoencoder) -> None:
    patches = model.patchify(IMAGE)
    np.testing.assert_array_equal(patches, cut(IMAGE))
    np.testing.assert_array_equal(model.unpatchify(patches), IMAGE)


def test_the_loss_is_that_of_the_paper(model: vitrail.MaskedAutoencoder) -> None:
    result = run(model.reconstruct, IMAGE, 0.75, noise=NOISE)
    kept = np.argsort(NOISE)[:3]
    assert sorted(np.flatnonzero(~np.asarray(result.masked))) == sorted(kept)
    predicted, targets = np.asarray(run(model, IMAGE, jax.numpy.asarray(kept))), np.float64(cut(IMAGE))
    mean, deviation = targets.mean(1, keepdims=True), np.sqrt(targets.var(1, ddof=1, keepdims=True) + 1e-6)
    if model.config.normalise_targets:
        targets = (targets - mean) / deviation
    errors = ((predicted - targets) ** 2).mean(1)
    assert_close(result.loss, errors[np.asarray(result.masked)].mean())
    shown = predicted * deviation + mean if model.config.normalise_targets else predicted
    assert_close(cut(np.asarray(result.pixels)), shown)


def test_nothing_of_a_hidden_patch_is_seen(model: vitrail.MaskedAutoencoder) -> None:
    kept = jax.numpy.asarray([1, 7])
    other = np.asarray(model.unpatchify(model.patchify(IMAGE).at[np.asarray([0, 2, 3, 11])].set(np.nan)))
    predicted = run(model, IMAGE, kept)
    np.testing.assert_array_equal(run(model, other, kept), predicted)
    assert np.abs(run(model, IMAGE + 1, kept) - predicted).max() > 1e-3


def test_every_parameter_of_the_decoder_is_trained(model: vitrail.MaskedAutoencoder) -> None:
    @eqx.filter_jit
    @eqx.filter_grad
    def slope(model: vitrail.MaskedAutoencoder) -> jax.Array:
        return model.reconstruct(IMAGE, key=jax.random.key(0)).loss

    slopes = jax.tree.leaves(eqx.filter(slope(model), eqx.is_array))
    assert all(np.isfinite(leaf).all() and np.any(leaf) for leaf in slopes)


def test_it_runs_in_another_dtype_and_batched(model: vitrail.MaskedAutoencoder) -> None:
    half = model.with_execution(vitrail.Execution(compute_dtype="bfloat16"))
    exact, rough = (run(each.reconstruct, IMAGE, noise=NOISE) for each in (model, half))
    assert rough.pixels.dtype == np.float32
    assert_close(rough.loss, exact.loss, tolerance=0.05)
    keys = jax.random.split(jax.random.key(0), 2)
    both = jax.vmap(lambda image, key: model.reconstruct(image, key=key))(np.stack([IMAGE, IMAGE]), keys)
    assert_close(both.loss[1], run(model.reconstruct, IMAGE, key=keys[1]).loss)
    dropping = model.with_dropout(vitrail.Dropout(rate=0.5))
    dropped = run(dropping.reconstruct, IMAGE, key=keys[0], noise=NOISE)
    assert np.array_equal(dropped.masked, exact.masked)
    assert np.abs(dropped.pixels - exact.pixels).max() > 1e-3
    assert_close(run(dropping.reconstruct, IMAGE, noise=NOISE).loss, exact.loss)


def test_what_does_not_fit_is_named(model: vitrail.MaskedAutoencoder) -> None:
    key = jax.random.key(0)
    for ratio in (0.0, 1.0, 0.95, float("nan")):
        with pytest.raises(ValueError, match=r"ratio must hide at least one of the 12 patches and keep at least one"):
            model.reconstruct(IMAGE, ratio, key=key)
    with pytest.raises(ValueError, match=r"needs key or noise to choose the patches, got neither: pass key="):
        model.reconstruct(IMAGE)
    with pytest.raises(ValueError, match=r"noise must have a number for each of the 12 patches, got 11"):
        model.reconstruct(IMAGE, noise=NOISE[1:])
    with pytest.raises(ValueError, match=r"patch_size must stay \(4, 2\) in MAE, .* got 2: leave it out"):
        model.resized((8, 12), patch_size=2)
    with pytest.raises(ValueError, match=r"image must be 8 x 12"):
        model.patchify(IMAGE.transpose(1, 0, 2))
    for call in (lambda image: model(image, jax.numpy.asarray([1])), lambda image: model.reconstruct(image, key=key)):
        with pytest.raises(ValueError, match=r"image must be 8 x 12, the image_size of the model, got 8 x 8"):
            call(IMAGE[:, :8])


def test_a_model_takes_images_of_another_size(model: vitrail.MaskedAutoencoder) -> None:
    larger = model.resized((16, 8))
    assert larger.config.image.grid == (4, 4)
    result = run(larger.reconstruct, RNG.normal(size=(16, 8, 3)).astype(np.float32), key=jax.random.key(0))
    assert result.masked.shape == (16,)
    assert np.isfinite(result.loss)


def test_the_command_draws_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vitrail.save(CONFIG.build(key=jax.random.key(0)), tmp_path / "mae.safetensors")
    Image.fromarray(RNG.integers(0, 256, (30, 20, 3), np.uint8)).save(tmp_path / "photo.png")
    arguments = [str(tmp_path / "mae.safetensors"), str(tmp_path / "photo.png")]
    assert main(["reconstruct", *arguments, "--out", str(tmp_path / "out.png")]) == 0
    assert "photo.png: 9 of 12 patches hidden, loss " in capsys.readouterr().out
    with Image.open(tmp_path / "out.png") as drawn:
        assert drawn.width > drawn.height
    vitrail.save(CONFIG.image.build(key=jax.random.key(0)), tmp_path / "vit.safetensors")
    broken = eqx.tree_at(lambda m: m.decoder.mask_token, CONFIG.build(key=jax.random.key(0)), jax.numpy.full(8, np.nan))
    vitrail.save(broken, tmp_path / "nan.safetensors")
    for changed, message in (
        (
            [str(tmp_path / "vit.safetensors"), arguments[1]],
            "must have MAE with its decoder to reconstruct images, got",
        ),
        ([str(tmp_path / "nan.safetensors"), arguments[1]], "the pixels must be finite, got NaN or infinity"),
        ([*arguments, "--prefix", "other."], "layout, config and prefix must be None for a file of vitrail's own"),
        ([*arguments, "--ratio", "1"], "ratio must hide at least one of the 12 patches"),
        ([*arguments, "--out", str(tmp_path / "x.gif")], "out must end in .png, .pdf, .svg"),
        ([*arguments, "--out", arguments[1]], "out must not be one of the images"),
        ([*arguments, "--seed", "-1"], "seed must be in [0, 2**32), got -1"),
    ):
        assert main(["reconstruct", *changed]) == 1
        assert message in capsys.readouterr().err
