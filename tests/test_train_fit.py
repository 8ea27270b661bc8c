"""Training: the loop learns, repeats itself, and says what is wrong; augmentation, recipe, evaluation, picture."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    assert_close,
    assert_trees_close,
    parameters,
    random_array,
    run,
    small_config,
    small_model,
)
from PIL import Image
from scipy import ndimage

import vitrail
from vitrail import images, show, train

SIZE = vitrail.EncoderSize(dim=16, depth=1, num_heads=2, mlp_dim=24)
RECIPE = train.Recipe(epochs=16, batch_size=16, learning_rate=1e-2, augmentation=images.Augmentation())


@pytest.fixture(scope="module")
def data() -> images.Dataset:
    """Five classes that the brightest column tells apart."""
    rng = np.random.default_rng(0)

    def draw(many: int) -> images.Examples:
        labels = rng.integers(0, 5, many).astype(np.int32)
        pixels = rng.integers(0, 60, (many, 8, 12, 3), dtype=np.uint8)
        for image, label in zip(pixels, labels, strict=True):
            image[:, 2 * label + 1] += 150
        return images.Examples(pixels, labels)

    learned = draw(160)
    return images.Dataset("columns", learned, draw(53), tuple("abcde"), images.measure_preprocess(learned))


@pytest.fixture(scope="module")
def model() -> vitrail.ViT:
    return eqx.filter_jit(small_config(size=SIZE, init="big_vision").build)(key=jax.random.key(0))


@pytest.fixture(scope="module")
def trained(model: vitrail.ViT, data: images.Dataset) -> tuple[vitrail.ViT, list[train.Progress]]:
    reports: list[train.Progress] = []
    return train.fit(model, data, RECIPE, key=jax.random.key(1), report=reports.append), reports


def test_it_learns(model: vitrail.ViT, data: images.Dataset, trained: tuple[vitrail.ViT, list[train.Progress]]):
    better, reports = trained
    before, after = train.evaluate(model, data), train.evaluate(better, data)
    assert before.accuracy < 0.5
    assert after.accuracy > 0.9
    assert reports[-1].loss < 0.5 * reports[0].loss
    assert [report.step for report in reports] == [1, *range(10, 161, 10)]
    assert (reports[-1].steps, reports[-1].images, reports[-1].seconds_left) == (160, 2560, 0)
    assert reports[0].seconds_left == float("inf")
    assert after.correct == round(after.accuracy * 53)


def test_a_trained_model_knows_how_it_was_fed(
    data: images.Dataset, trained: tuple[vitrail.ViT, list[train.Progress]], tmp_path: Path
):
    vitrail.save(trained[0], tmp_path / "model.safetensors")
    config = vitrail.load(tmp_path / "model.safetensors").config
    assert (config.classes, config.preprocess) == (tuple("abcde"), data.preprocess)


def test_a_head_of_the_users_own_is_trained_and_kept(data: images.Dataset):
    config = small_config(
        size=SIZE, head=functools.partial(vitrail.MLPHead, hidden_dim=8, num_classes=5), num_classes=None
    )
    once = dataclasses.replace(RECIPE, epochs=1)
    model = train.fit(config.build(key=jax.random.key(0)), data, once, key=jax.random.key(1))
    assert (model.config.classes, model.config.preprocess) == (None, data.preprocess)
    assert train.evaluate(model, data).logits.shape == (53, 5)


def test_the_same_key_gives_the_same_weights(
    model: vitrail.ViT, data: images.Dataset, trained: tuple[vitrail.ViT, list[train.Progress]]
):
    again = train.fit(model, data, RECIPE, key=jax.random.key(1))
    assert_trees_close(again, trained[0], tolerance=0)
    other = train.fit(model, data, RECIPE, key=jax.random.key(2))
    assert any(not np.array_equal(p, parameters(trained[0])[name]) for name, p in parameters(other).items())


def test_one_step_is_that_of_optax(model: vitrail.ViT, data: images.Dataset):
    """Written out: cross-entropy with smoothing, the gradient's norm clipped, AdamW at the schedule's first value."""
    recipe = train.Recipe(
        epochs=1,
        batch_size=160,
        learning_rate=1e-2,
        warmup=0.0,
        clip_norm=0.1,
        weight_decay=0.3,
        objective=train.OBJECTIVES.configure("classify", smoothing=0.2),
        augmentation=images.Augmentation(),
    )
    result = train.fit(model, data, recipe, key=jax.random.key(0))
    pixels = (data.train.images / 255 - np.array(data.preprocess.mean)) / np.array(data.preprocess.std)
    targets = jnp.asarray(0.8 * np.eye(5)[data.train.labels] + 0.2 / 5, jnp.float32)

    @eqx.filter_jit
    @eqx.filter_grad
    def gradient(model: vitrail.ViT) -> jax.Array:
        logits = jax.vmap(model)(jnp.asarray(pixels, jnp.float32))
        return -(targets * jax.nn.log_softmax(logits)).sum(1).mean()

    grads = parameters(gradient(model))
    norm = np.sqrt(sum(float((g**2).sum()) for g in grads.values()))
    assert norm > 0.1
    weights = parameters(result)
    for name, before in parameters(model).items():
        grad = np.asarray(grads[name]) * 0.1 / norm
        decay = 0.3 if name.endswith(".weight") and "norm" not in name and before.ndim > 1 else 0.0
        expected = np.asarray(before) - 1e-2 * (grad / (np.abs(grad) + 1e-8) + decay * np.asarray(before))
        clear = np.abs(grad) > 1e-5  # where rounding does not decide the sign of Adam's first step
        assert_close(np.asarray(weights[name])[clear], expected[clear], tolerance=1e-4)


def test_dropout_and_stochastic_depth_are_on_in_training_only(data: images.Dataset):
    model = small_model(size=SIZE, dropout=vitrail.Dropout(0.2, 0.2))
    everything = dataclasses.replace(RECIPE, epochs=1, batch_size=160)
    losses: list[float] = []
    for seed in range(3):  # one step on all images, whose order does not matter to the loss
        train.fit(model, data, everything, key=jax.random.key(seed), report=lambda p: losses.append(p.loss))
    assert max(losses) - min(losses) > 1e-3
    assert_close(train.evaluate(model, data).logits, train.evaluate(model, data).logits, tolerance=0)


def test_any_module_can_be_trained(data: images.Dataset):
    class Linear(eqx.Module):
        layer: eqx.nn.Linear

        def __call__(self, image: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
            return self.layer(image.reshape(-1))

    model = Linear(eqx.nn.Linear(8 * 12 * 3, 5, key=jax.random.key(0)))
    assert train.evaluate(train.fit(model, data, RECIPE, key=jax.random.key(0)), data).accuracy > 0.9


def test_what_does_not_fit_is_said_at_once(model: vitrail.ViT, data: images.Dataset):
    no_pool = small_model(size=SIZE, pool="none")
    with pytest.raises(ValueError, match=r"logits of shape \(5,\), got"):
        train.fit(no_pool, data, RECIPE, key=jax.random.key(0))
    with pytest.raises(ValueError, match=r"logits of shape \(5,\)"):
        train.evaluate(no_pool, data)
    with pytest.raises(ValueError, match="batch_size must be at most"):
        train.fit(model, data, train.Recipe(epochs=1, batch_size=161), key=jax.random.key(0))
    mae = train.OBJECTIVES.configure("mae", decoder_dim=8, decoder_depth=1, decoder_heads=2)
    larger = images.Examples(np.zeros((5, 16, 24, 3), np.uint8), np.arange(5, dtype=np.int32))
    for recipe, given, sentence in (
        (RECIPE, {"validation": data.test}, "validation, keep_every, notes and licence have no effect without folder"),
        (RECIPE, {"keep_every": 3}, "validation, keep_every, notes and licence have no effect without folder"),
        (RECIPE, {"folder": "run", "validation": larger}, r"validation must have images of \(8, 12\), as data has"),
        (dataclasses.replace(RECIPE, objective=mae), {"folder": "run", "validation": data.test}, "must be None for"),
    ):
        with pytest.raises(ValueError, match=sentence):
            train.fit(model, data, recipe, key=jax.random.key(0), **given)
    for name, options in (("mae", dict(mae.options)), ("dino", {"prototypes": 8, "hidden_dim": 8})):
        small = dataclasses.replace(RECIPE, objective=train.OBJECTIVES.configure(name, **options))
        made = train.make_objective(small, data.preprocess).prepare(model, key=jax.random.key(0))
        assert made.config.image.preprocess == made.image.config.preprocess == data.preprocess
    system = train.make_objective(dataclasses.replace(RECIPE, objective=mae), data.preprocess)
    with pytest.raises(
        ValueError, match=r"got a MaskedAutoencoder: pass vitrail.replace\(model.image, head='linear', num"
    ):
        train.fit(system.prepare(model, key=jax.random.key(0)), data, RECIPE, key=jax.random.key(0))
    wild = dataclasses.replace(RECIPE, learning_rate=1e30, warmup=0.0, clip_norm=1e30, weight_decay=1e30)
    with pytest.raises(FloatingPointError, match="lower learning_rate"):
        train.fit(model, data, wild, key=jax.random.key(0))


class Broken(train.AbstractObjective):
    """A loss that is not a number where the batch says so."""

    inputs = ("label",)

    def prepare(self, model: Any, *, key: Any) -> Any:
        return model

    def __call__(self, model: Any, batch: Any, *, carried: Any, progress: Any, key: Any) -> Any:
        return jnp.sum(model.norm.weight**2) + batch["label"][0], train.Outcome({})


@pytest.mark.parametrize("broken", [{1}, {2}, {2, 9}, {7, 8}, {10}, {11}, {12, 13}, {13}])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_the_step_whose_loss_is_not_finite_is_named(model: vitrail.ViT, broken: set[int], value: float):
    batches = ({"label": np.full(1, value if s in broken else s, np.float32)} for s in range(1, 14))
    reports: list[train.Progress] = []
    training = train.Training(Broken(), RECIPE, 13)
    state = training.start(model.backbone, key=jax.random.key(0))
    advice = "look for NaN or infinity in the weights" if 1 in broken else "lower learning_rate"
    with pytest.raises(FloatingPointError, match=rf"^the loss is {value} at step {min(broken)} of 13: {advice}"):
        train.run_steps(training, state, batches, report=reports.append)
    assert all(report.step < min(broken) for report in reports)
    assert all(np.isfinite(report.loss) for report in reports)


def break_weights(model: Any) -> Any:
    return eqx.tree_at(lambda m: m.backbone.norm.bias, model, jnp.full_like(model.backbone.norm.bias, jnp.nan))


class BreakDark(eqx.Module):
    """Logits that are NaN for images whose first pixel is dark, and exclude one class."""

    def __call__(self, image: jax.Array, *, key: Any = None) -> jax.Array:
        return jnp.where(image[0, 0, 0] < 0, jnp.nan, jnp.array([0.0, 2.0, 1.0, -jnp.inf, 0.0]))


def test_logits_that_are_not_finite_are_an_error(model: vitrail.ViT, data: images.Dataset):
    message = "^the logits must be finite, got NaN or infinity for 53 of 53 images, the first of them image 0: look for"
    with pytest.raises(FloatingPointError, match=message):
        train.evaluate(break_weights(model), data)
    dark = data.preprocess.normalise(data.test.images)[:, 0, 0, 0] < 0
    wrong, first = int(dark.sum()), int(np.argmax(dark))
    assert first > 0
    message = rf"got NaN or infinity for {wrong} of 53 images, the first of them image {first}: look for NaN"
    with pytest.raises(FloatingPointError, match=message):
        train.evaluate(BreakDark(), data, batch_size=5)
    bright = dataclasses.replace(data, test=data.test[~dark])
    evaluation = train.evaluate(BreakDark(), bright)  # -inf excludes a class, and is no error
    assert set(evaluation.predicted) == {1}
    assert np.all(np.isfinite(evaluation.probability))
    with pytest.raises(FloatingPointError, match="got NaN or infinity for 1 of 2 images, the first of them image 1"):
        train.Evaluation(np.array([[0.0, 1.0], [0.0, np.inf]], np.float32), np.zeros(2, np.int32))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"epochs": 0}, "epochs"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"warmup": 1.0}, "warmup"),
    ],
)
def test_a_recipe_that_makes_no_sense(change: dict[str, float], sentence: str):
    with pytest.raises(ValueError, match=sentence):
        train.Recipe(**change)
    with pytest.raises(ValueError, match="rotate"):
        images.Augmentation(rotate=-1.0)


def test_every_epoch_sees_every_image_once_in_another_order():
    steps, feed = train.make_batches(lambda which: which, 12, epochs=3, batch_size=4, seed=0)
    seen = np.concatenate(list(feed)).reshape(3, 12)
    assert steps == 9
    assert np.array_equal(np.sort(seen, axis=1), np.tile(np.arange(12), (3, 1)))
    assert len({tuple(epoch) for epoch in seen.tolist()}) == 3


@pytest.mark.parametrize("transformed", [False, True])
def test_batches_are_the_same_for_any_number_of_hosts_and_from_any_step(transformed: bool):
    """50 images in batches of 12 leave 2, so that a batch crosses the end of an epoch and a part is left out."""

    def draw(example: dict[str, Any], random: np.random.Generator) -> dict[str, Any]:
        return {**example, "drawn": random.random(2)}

    def make(start: int = 0, **shared: int) -> list[dict[str, np.ndarray]]:
        steps, feed = train.make_batches(
            lambda which: {"image": which},
            50,
            epochs=3,
            batch_size=12,
            seed=5,
            start=start,
            transform=draw if transformed else None,
            **shared,
        )
        assert steps == 12
        return list(feed)

    def same(batches: list[Any], expected: list[Any]) -> bool:
        return len(batches) == len(expected) and all(
            np.array_equal(batch[name], other[name])
            for batch, other in zip(batches, expected, strict=True)
            for name in other
        )

    whole = make()
    assert same(make(), whole)
    for start in (1, 5, 12):
        assert same(make(start), whole[start:])
    for hosts in (2, 4):
        shared = [make(3, host=host, hosts=hosts) for host in range(hosts)]
        together = [
            {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            for parts in zip(*shared, strict=True)
        ]
        assert same(together, whole[3:])
    if transformed:
        drawn = np.concatenate([batch["drawn"] for batch in whole])
        assert len(np.unique(drawn)) == drawn.size  # another for each image in each epoch
    assert sorted(np.concatenate([batch["image"] for batch in whole])[:50].tolist()) == list(range(50))
    for host, hosts in ((0, 5), (2, 2), (-1, 2)):
        with pytest.raises(ValueError, match="batch_size must be a multiple of hosts, and host below it"):
            make(host=host, hosts=hosts)


def test_augmentation_is_an_affine_map(data: images.Dataset):
    """Against SciPy's, with the same numbers."""
    pixels = jnp.abs(random_array(3, 9, 7, 2))
    augmentation = images.Augmentation(rotate=30.0, shift=0.2, scale=0.3, flip=True)
    key = jax.random.key(5)
    result = jax.jit(lambda pixels: augmentation(pixels, key=key))(pixels)
    amounts = np.asarray(jax.random.uniform(key, (3, 6), minval=-1.0, maxval=1.0), np.float64)
    centre = np.array([4.0, 3.0])
    for image, (turn, down, right, taller, wider, mirror), actual in zip(pixels, amounts, result, strict=True):
        angle = np.deg2rad(30 * turn)
        matrix = np.diag(np.exp([0.3 * taller, 0.3 * wider])) @ [
            [np.cos(angle), -np.sin(angle)],
            [np.sin(angle), np.cos(angle)],
        ]
        matrix = matrix @ np.diag([1, 1 if mirror > 0 else -1])
        offset = centre + np.array([0.2 * 9 * down, 0.2 * 7 * right]) - matrix @ centre
        for channel in range(2):
            expected = ndimage.affine_transform(
                np.asarray(image[..., channel], np.float64), matrix, offset, order=1, mode="nearest"
            )
            assert_close(actual[..., channel], expected, tolerance=1e-4)
    assert images.Augmentation()(pixels, key=key) is pixels


def test_evaluation_in_batches_changes_nothing(trained: tuple[vitrail.ViT, list[train.Progress]], data: images.Dataset):
    whole, parts = (train.evaluate(trained[0], data, batch_size=size) for size in (53, 10))
    assert_close(whole.logits, parts.logits, tolerance=1e-5)
    assert whole.logits.shape == (53, 5)
    assert_close(whole.probability, jax.nn.softmax(whole.logits).max(1))


@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_attention_map_and_picture(tmp_path: Path, data: images.Dataset, pool: str):
    model = small_model(size=SIZE, pool=pool, num_registers=1)
    image = random_array(8, 12, 3)
    weights = np.asarray(run(model.backbone.activations, image, at=("attention_weights",))["attention_weights"][-1])
    start = 1 if pool == "mean" else 2
    rows = weights[:, start:, start:].mean((0, 1)) if pool == "mean" else weights[:, 0, start:].mean(0)
    assert_close(run(show.compute_attention_map, model, image), rows.reshape(2, 3))
    path = tmp_path / "picture.png"
    show.draw_predictions(model, data, train.evaluate(model, data), path)
    with Image.open(path) as picture:
        assert picture.width == 1560
        assert len(np.unique(np.asarray(picture.convert("L")))) > 50


def test_a_picture_in_bfloat16_of_classes_with_signs_that_mean_something_to_tex(tmp_path: Path, data: images.Dataset):
    model = small_model(size=SIZE, execution=vitrail.Execution(compute_dtype="bfloat16"))
    priced = dataclasses.replace(data, classes=("US$", "$_$", "$^$", "a_b", "{"))
    show.draw_predictions(model, priced, train.evaluate(model, priced), tmp_path / "picture.png")


def test_a_warm_up_of_nearly_all_steps(model: vitrail.ViT, data: images.Dataset):
    train.fit(model, data, dataclasses.replace(RECIPE, epochs=1, warmup=0.999), key=jax.random.key(0))


def test_the_picture_of_a_faultless_model(tmp_path: Path, model: vitrail.ViT, data: images.Dataset):
    faultless = train.Evaluation(np.eye(5, dtype=np.float32)[data.test.labels], data.test.labels)
    show.draw_predictions(model, data, faultless, tmp_path / "right.svg")
    hopeless = train.Evaluation(np.eye(5, dtype=np.float32)[(data.test.labels + 1) % 5], data.test.labels)
    show.draw_predictions(model, data, hopeless, tmp_path / "wrong.svg")
    assert (tmp_path / "right.svg").stat().st_size < (tmp_path / "wrong.svg").stat().st_size
    assert hopeless.accuracy == 0.0
