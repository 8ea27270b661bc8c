"""Nearest neighbours: votes by a loop in float64, the features of a model, and the command."""

import dataclasses
import math
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import final_norm, small_model
from PIL import Image

import vitrail
from vitrail import images, train
from vitrail.cli import main
from vitrail.images import IMAGENET


def ranked_by_a_loop(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, neighbours: int, temperature: float
) -> list[list[int]]:
    """The classes that the nearest vote for, the first with the most votes."""
    found: list[list[int]] = []
    for x in test.astype(np.float64):
        cosines = [float(x @ y / np.linalg.norm(x) / np.linalg.norm(y)) for y in train.astype(np.float64)]
        votes: dict[int, float] = {}
        for i in sorted(range(len(train)), key=lambda i: -cosines[i])[:neighbours]:
            votes[int(labels[i])] = votes.get(int(labels[i]), 0.0) + math.exp(cosines[i] / temperature)
        found.append(sorted(votes, key=lambda label: -votes[label])[:5])
    return found


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_the_nearest_vote_with_the_exponential_of_their_cosine(
    temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitrail.train._knn._SIMILARITIES", 300)  # several chunks
    rng = np.random.default_rng(0)
    first, second = (rng.normal(size=(n, 5)).astype(np.float32) for n in (60, 12))
    labels = rng.integers(0, 8, 60).astype(np.int32)
    numbers = (1, 3, 20, 60)
    ranked = train.rank_by_neighbours(first, labels, second, 8, neighbours=numbers, temperature=temperature)
    assert ranked.shape == (4, 12, 5)
    for number, rows in zip(numbers, ranked, strict=True):
        found = [[label for label in row if label >= 0] for row in rows.tolist()]
        assert found == ranked_by_a_loop(first, labels, second, number, temperature)


def test_a_low_temperature_does_not_overflow() -> None:
    rng = np.random.default_rng(0)
    first, labels = rng.normal(size=(30, 5)).astype(np.float32), rng.integers(0, 4, 30)
    ranked = train.rank_by_neighbours(first, labels, first, 4, neighbours=(20,), temperature=1e-4)
    assert ranked[0, :, 0].tolist() == labels.tolist()  # each is its own nearest, which then decides


def make_data(count: int = 60) -> images.Dataset:
    """Two classes of small images that differ in brightness."""
    rng = np.random.default_rng(0)
    labels = np.tile(np.arange(2, dtype=np.int32), count // 2)
    pixels = (rng.integers(0, 200, (count, 8, 12, 3)) + 50 * labels[:, None, None, None]).astype(np.uint8)
    examples = images.Examples(pixels, labels)
    preprocess = images.Preprocess("cover", "bicubic", (0.5,) * 3, (0.3,) * 3)
    return images.Dataset("noise", examples[: count - 20], examples[count - 20 :], ("dark", "bright"), preprocess)


def test_the_features_are_what_the_pool_returns() -> None:
    model, data = small_model(pool="cls", norm_order="pool_norm"), make_data()
    found = vitrail.knn(model, data, neighbours=(5, 20), batch_size=7)

    @eqx.filter_jit
    def compute(model: vitrail.ViT, image: jax.Array) -> jax.Array:
        pooled = model.readout.pool(model.backbone(data.preprocess.normalise(image)))
        return final_norm(model)(pooled)

    features = [np.stack([compute(model, jnp.asarray(x)) for x in part.images]) for part in (data.train, data.test)]
    for number in (5, 20):
        expected = ranked_by_a_loop(features[0], data.train.labels, features[1], number, 0.07)
        first = [row[0] for row in expected]
        assert found.ranked[found.neighbours.index(number), :, 0].tolist() == first
        assert found.accuracy[number] == np.mean(np.array(first) == data.test.labels)
        both = [label in row for label, row in zip(data.test.labels, expected, strict=True)]
        assert found.top5_accuracy[number] == np.mean(both)
    assert repr(found).startswith("<NearestNeighbours: 20 images, ")


def test_what_does_not_fit_is_an_error() -> None:
    data = make_data()
    with pytest.raises(ValueError, match=r"neighbours must be one number or more of at most 40, .* got \(10, 20, 100"):
        vitrail.knn(small_model(), data)
    with pytest.raises(ValueError, match=r"neighbours must be one number or more of at most 40"):
        vitrail.knn(small_model(), data, neighbours=())
    with pytest.raises(ValueError, match="neighbours must be positive, got"):
        vitrail.knn(small_model(), data, neighbours=0)
    with pytest.raises(ValueError, match="temperature must be a finite number above zero"):
        vitrail.knn(small_model(), data, neighbours=5, temperature=0.0)
    with pytest.raises(ValueError, match="must have a pool that returns one vector of an image, got the pool none"):
        vitrail.knn(small_model(pool="none", head="none", num_classes=None), data, neighbours=5)
    with pytest.raises(ValueError, match="model must have the channels of the images"):
        vitrail.knn(small_model(channels=1), data, neighbours=5)
    broken = eqx.tree_at(lambda m: m.backbone.norm.bias, small_model(), jnp.full(16, jnp.nan))
    with pytest.raises(FloatingPointError, match="the features of the training images must be finite"):
        vitrail.knn(broken, data, neighbours=5)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_data(80)
    for index, (image, label) in enumerate(zip(data.train.images, data.train.labels, strict=True)):
        folder = tmp_path / "photos" / data.classes[int(label)]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{index}.png")
    preprocess = vitrail.Preprocess("squash", "bicubic", *IMAGENET)
    model = dataclasses.replace(small_model(), config=dataclasses.replace(small_model().config, preprocess=preprocess))
    path = tmp_path / "model.safetensors"
    vitrail.save(model, path)
    assert main(["knn", str(path), "--data", str(tmp_path / "photos"), "--neighbours", "1,20,900"]) == 0
    printed = capsys.readouterr().out.splitlines()
    loaded = images.load_images(tmp_path / "photos", image_size=(8, 12), preprocess=preprocess, channels=3)
    expected = vitrail.knn(model, loaded, neighbours=(1, 20))
    assert [line.split()[:2] for line in printed[-2:]] == [
        [str(number), f"{accuracy:.2%}"] for number, accuracy in expected.accuracy.items()
    ]
    # One size for all, whatever the file does with pictures.
    half = (0.5,) * 3
    for fit, options in (("native", {"patch_size": (4, 4), "max_patches": 6}), ("keep", {"multiple": 4}), ("pad", {})):
        kept = vitrail.Preprocess(fit, "bilinear", half, half, **options)
        vitrail.save(vitrail.replace(model, preprocess=kept), tmp_path / "kept.safetensors")
        assert (
            main(["knn", str(tmp_path / "kept.safetensors"), "--data", str(tmp_path / "photos"), "--neighbours", "1"])
            == 0
        )
        squash = vitrail.Preprocess("squash", "bilinear", half, half)
        loaded = images.load_images(tmp_path / "photos", image_size=(8, 12), preprocess=squash, channels=3)
        accuracy = vitrail.knn(model, loaded, neighbours=(1,)).accuracy[1]
        printed = capsys.readouterr().out
        assert "preprocess: images are squashed" in printed
        assert printed.splitlines()[-1].split()[1] == f"{accuracy:.2%}"
    for wrong, message in (
        (["--neighbours", "ten"], "neighbours must be whole numbers separated by commas, as 10,20, got 'ten'"),
        (["--neighbours", "0"], "neighbours must be positive"),
        (["--neighbours", "900"], "neighbours must be one number or more of at most 48"),
        (["--temperature", "-1"], "temperature must be a finite number above zero"),
        (["--data", str(tmp_path / "nowhere")], "nowhere must be a folder"),
        (["--image-size", "7"], "must be multiples of patch_size"),
    ):
        assert main(["knn", str(path), "--data", str(tmp_path / "photos"), *wrong]) == 1
        assert message in capsys.readouterr().err
