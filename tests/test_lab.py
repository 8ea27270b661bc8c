"""The lab: one pass of each backbone, runs that depend on nothing but what they are of, and honest statistics."""

import csv
import dataclasses
import functools
import html.parser
import io
import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import Any, ClassVar, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import make_row, small_model

import vitrail
from vitrail import POOLS, images, lab, show
from vitrail.lab import _bench, _cost, _evaluate, _pace, _plan, _probe, _tokens
from vitrail.lab._probe import Probe, Standard, compute_features, compute_logits, draw_order, make_probe, train_probes
from vitrail.lab._statistics import adjust_by_holm, compute_sign_flip_p_value
from vitrail.lab._tokens import store_tokens

OPTIONS = lab.ProbeOptions(seeds=2, steps=6, batch_size=8, learning_rates=(3e-3,), shots=(), draws=2)


def make_data(size: tuple[int, int] = (8, 12)) -> images.Dataset:
    """Two classes of small images that differ in brightness."""
    rng = np.random.default_rng(0)
    labels = np.tile(np.arange(2, dtype=np.int32), 30)
    noise = rng.integers(0, 120, (60, *size, 3))
    pixels = (noise + 100 * labels[:, None, None, None]).astype(np.uint8)
    examples = images.Examples(pixels, labels)
    return images.Dataset(
        "noise",
        examples[:40],
        examples[40:],
        ("dark", "bright"),
        images.Preprocess("cover", "bicubic", (0.5,) * 3, (0.3,) * 3),
    )


@pytest.fixture(scope="module")
def data() -> images.Dataset:
    return make_data()


@pytest.fixture(scope="module")
def model() -> vitrail.ViT:
    return small_model(pool="cls_mean", num_registers=1)


def compare(models: Any, data: Any, **options: Any) -> lab.Comparison:
    return vitrail.compare(models, data, **({"options": OPTIONS} | options))


def same(a: lab.Row, b: lab.Row) -> bool:
    """Whether two rows found the same, but for the time it took and the significance, which depends on the others."""
    maps = (a.maps is None and b.maps is None) or np.array_equal(a.maps, b.maps)  # type: ignore[arg-type]
    fields = ("model", "layer", "resolution", "pool", "pool_parameters", "head_parameters", "needs_class_token")
    fields += ("knn_accuracy", "few_shot", "learning_rate", "flops")
    return maps and np.array_equal(a.correct, b.correct) and all(getattr(a, f) == getattr(b, f) for f in fields)


def store(model: Any, data: images.Dataset, layers: tuple[int, ...] = (-1,), budget: float = 1.0, folder: Any = None):
    return store_tokens(model, data, layers, budget, folder, lambda done, total: None)


# Tokens ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("budget", "layers"), [(1.0, (-1,)), (0.0, (0, -1))])
def test_what_is_kept_are_the_tokens_of_the_model(
    model: vitrail.ViT, data: images.Dataset, budget: float, layers: tuple[int, ...], tmp_path: Path
) -> None:
    with store(model, data, layers, budget, tmp_path) as stored:
        assert isinstance(stored.train, np.memmap) == (budget == 0)
        assert len(list(tmp_path.rglob("*.npy"))) == (0 if budget else 2)
        for layer in layers:
            tokens = stored.get_layer(layer)
            for part, examples in ((tokens.train, data.train), (tokens.test, data.test)):
                for index in (0, len(examples) - 1):
                    image = data.preprocess.normalise(jnp.asarray(examples.images[index]))
                    expected = model.backbone(image)
                    divided = tokens.form.divide(jnp.asarray(part[index]))
                    assert jax.tree.structure(divided) == jax.tree.structure(expected)
                    sequence = expected.sequence
                    if layer == 0:  # the first block and the final norm, by hand
                        assert model.backbone.norm is not None
                        sequence = model.backbone.norm(model.blocks[0](model.backbone.embed(image).sequence))
                    np.testing.assert_allclose(divided.sequence, sequence, rtol=1e-5, atol=1e-5)
    assert not list(tmp_path.iterdir())


def test_memory_and_file_give_the_same(model: vitrail.ViT, data: images.Dataset) -> None:
    one, other = (compare(model, data, pools=["mean", "gem"], token_budget=b) for b in (1.0, 0.0))
    assert all(same(a, b) for a, b in zip(one.rows, other.rows, strict=True))


def test_a_file_of_tokens_that_has_no_room_is_an_error(
    model: vitrail.ViT, data: images.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(_tokens.shutil, "disk_usage", lambda place: usage)
    with pytest.raises(OSError, match=r"the tokens need .* GiB, got 0.0 free in .*token_budget"):
        compare(model, data, pools=["mean"], token_budget=0.0)


# Axes ------------------------------------------------------------------------------------------------------------


def test_each_backbone_runs_once_at_each_resolution(model: vitrail.ViT, tmp_path: Path) -> None:
    """For all layers and pools together; again for none that is finished, and only for what is new."""
    told: list[lab.LabProgress] = []
    seen: list[tuple[int, int]] = []

    def load(model: vitrail.ViT) -> images.Dataset:
        seen.append(model.config.image_size)
        return make_data(model.config.image_size)

    options: dict[str, Any] = {"layers": (-1, 0), "pools": ["mean", "max"], "folder": tmp_path, "report": told.append}
    given = {"one": model, "other": small_model(seed=3)}
    comparison = compare(given, load, resolutions=[(8, 12), 12], **options)
    assert len(comparison.rows) == 16
    assert {row.name for row in comparison.rows} == {
        f"{name} {layer} {size} {pool}"
        for name, layer, size, pool in itertools.product(given, ("last", "0"), ("8x12", "12"), ("mean", "max"))
    }
    assert comparison.axes == ("model", "layer", "resolution", "pool")
    assert seen == [(8, 12), (12, 12)] * 2
    assert sum(p.doing == "backbone" for p in told) == 8  # one batch of each part, for each model and resolution
    cost = {(row.layer, row.resolution): (row.flops, row.memory) for row in comparison.rows}
    assert cost[0, (8, 12)] < cost[-1, (8, 12)] < cost[-1, (12, 12)]
    told.clear()
    again = compare(given, load, resolutions=[(8, 12), 12], **options)
    assert not [p for p in told if p.doing != "plan"]
    assert all(same(a, b) for a, b in zip(again.rows, comparison.rows, strict=True))
    more = compare(given, load, resolutions=[(8, 12), 12], **(options | {"pools": ["mean", "max", "sum"]}))
    assert len(more.rows) == 24
    assert not [p for p in told if p.doing == "readout" and "pool sum" not in p.name]


def test_flops_of_a_layer_are_those_of_a_model_that_ends_there(model: vitrail.ViT, data: images.Dataset) -> None:
    (row,) = compare(model, data, layers=[0], pools=["mean"]).rows
    short = small_model(pool="cls_mean", num_registers=1, size=dataclasses.replace(model.config.size, depth=1))
    assert row.flops == vitrail.model_card(short).flops
    assert row.milliseconds > row.readout_milliseconds > 0


def test_what_does_not_fit_one_model_is_left_out(model: vitrail.ViT) -> None:
    deep = small_model(size=vitrail.EncoderSize(dim=16, depth=3, num_heads=2, mlp_dim=16), patch_size=(4, 6))
    groups, skipped = lab.choose_groups({"a": model, "b": deep}, [-1, 2], [(8, 12), (12, 6)], ["mean", "cls"])
    assert [(g.model, g.resolution, g.layers, tuple(g.pools)) for g in groups] == [
        ("a", (8, 12), (-1,), ("mean", "cls")),
        ("b", (8, 12), (-1,), ("mean",)),
        ("b", (12, 6), (-1,), ("mean",)),
    ]
    assert {s.name for s in skipped} == {"a, layer 2", "a, resolution 12x6", "b, pool cls"}


def test_a_neck_reads_the_last_block_alone(model: vitrail.ViT) -> None:
    neck = small_model(windows=vitrail.WindowOptions(2, relative_grid=(2, 3)), neck_dim=8)
    groups, skipped = lab.choose_groups({"a": model, "sam": neck}, [-1, 0], None, ["mean"])
    assert [g.layers for g in groups] == [(-1, 0), (-1,)]
    assert skipped == [
        lab.Skipped("sam, layer 0", "the model has a neck, which reads the last block alone: use the last")
    ]


def test_every_registered_pool_by_default_and_a_reason_for_those_that_cannot() -> None:
    (group,), skipped = lab.choose_groups({"model": small_model()}, [-1], None, None)
    reasons = {s.name.removeprefix("model, pool "): s.reason for s in skipped}
    assert set(group.pools) | set(reasons) == set(POOLS)
    assert "reads the class token, and the backbone has none" in reasons["cls"]
    assert "not one vector" in reasons["none"]
    assert {"mean", "attention", "weighted"} <= set(group.pools)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pools": ["none"]}, r"pools has none, which fits no model: it returns shape \(8, 16\)"),
        ({"pools": ["meen"]}, "there is no pool 'meen': did you mean 'mean'"),
        ({"pools": []}, "pools must have at least one pool"),
        ({"pools": ["mean", "mean"]}, "pools must have each pool once, got 'mean' twice"),
        ({"pools": ["mean", "gap"]}, "pools must have each pool once, got 'mean' twice"),
        ({"pools": [vitrail.LinearHead]}, "a pool must be a class that extends .*AbstractPool"),
        ({"layers": [5]}, "layers has 5, which fits no model: the model has 2 blocks: use -2 to 1"),
        ({"layers": []}, "layers must have at least one layer"),
        (
            {"resolutions": [9]},
            r"resolutions has 9, which fits no model: patches of 4 x 4 do not divide it: use 8 or 12",
        ),
        ({"models": {}}, "models must have at least one model"),
        ({"minutes": 0.0}, "minutes must be a finite number above zero"),
        ({"token_budget": -1.0}, "token_budget must be finite and not negative"),
    ],
)
def test_what_cannot_be_compared_is_an_error_before_anything_is_loaded(
    options: dict[str, Any], message: str, model: vitrail.ViT
) -> None:
    def load(model: vitrail.ViT) -> images.Dataset:
        pytest.fail("images were loaded")

    with pytest.raises((ValueError, TypeError, vitrail.UnknownPartError), match=message):
        compare(options.pop("models", model), load, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 0}, "seeds must be positive"),
        ({"shots": (0,)}, "shots must be positive"),
        ({"shots": (1, 1)}, "shots must have each number once"),
        ({"learning_rates": ()}, "learning_rates must have at least one rate"),
        ({"learning_rates": (-1.0,)}, "learning_rates must be a finite number above zero"),
        ({"weight_decay": -1.0}, "weight_decay must be finite and not negative"),
    ],
)
def test_wrong_options_are_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lab.ProbeOptions(**options)


def test_models_must_see_the_same_images(model: vitrail.ViT, data: images.Dataset) -> None:
    given = iter([data, dataclasses.replace(data, test=data.test[1:])])
    with pytest.raises(ValueError, match="data must have the same images for all models, got others for b at 8x12"):
        compare({"a": model, "b": model}, lambda model: next(given), pools=["mean"])
    with pytest.raises(ValueError, match=r"data must have images of \(12, 12\) for model at 12, got \(8, 12\)"):
        compare(model, data, pools=["mean"], resolutions=[12])
    wrong = {"a": model, "b": small_model(image_size=(12, 12))}
    with pytest.raises(ValueError, match=r"data must have images of \(12, 12\) for b at 12, got \(8, 12\)"):
        compare(wrong, data, pools=["mean"], report=lambda progress: pytest.fail(f"{progress} ran"))
    wrong = {"a": model, "b": small_model(channels=4)}
    with pytest.raises(ValueError, match="model must have the channels of the images"):
        compare(wrong, data, pools=["mean"], report=lambda progress: pytest.fail(f"{progress} ran"))


def test_a_pool_that_fits_one_of_two_models_is_left_out_of_the_other() -> None:
    spec = POOLS.configure("attention", num_heads=3)
    models = {"a": small_model(), "b": small_model(size=vitrail.EncoderSize(dim=12, depth=1, num_heads=3, mlp_dim=16))}
    groups, skipped = lab.choose_groups(models, [-1], None, ["mean", spec])
    assert [list(group.pools) for group in groups] == [["mean"], ["mean", "attention(num_heads=3)"]]
    assert [each.name for each in skipped] == ["a, pool attention(num_heads=3)"]
    assert "divisible by num_heads" in skipped[0].reason


def test_results_without_their_record_are_not_taken_over(
    model: vitrail.ViT, data: images.Dataset, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"models": model, "data": data, "pools": ["mean"], "folder": tmp_path}
    compare(**given)
    for record in (*tmp_path.glob("cells/*/group.json"), tmp_path / "run.json"):
        kept = record.read_bytes()
        record.unlink()
        with pytest.raises(ValueError, match=f"has results without {record.name}, which says of what"):
            compare(**given)
        record.write_bytes(kept)
    compare(**given)


# Runs ------------------------------------------------------------------------------------------------------------


def test_a_pool_among_others_equals_the_pool_alone(model: vitrail.ViT, data: images.Dataset) -> None:
    options = dataclasses.replace(OPTIONS, shots=(1,))
    among = {row.pool: row for row in compare(model, data, pools=["cls", "mean", "lse"], options=options).rows}
    for name in ("mean", "lse"):
        (alone,) = compare(model, data, pools=[name], options=options).rows
        assert same(alone, among[name])
        assert alone.p_value is None


@final
class NoisyMean(vitrail.AbstractPool):
    """A mean that is noisy in training, and has no parameters."""

    out_dim: int = eqx.field(static=True)
    needs_class_token: ClassVar[bool] = False
    order_invariant: ClassVar[bool] = True

    def __init__(self, dim: int):
        self.out_dim = dim

    def __call__(self, tokens: vitrail.Tokens, *, key: Any = None) -> Any:
        mean = vitrail.MeanPool(self.out_dim)(tokens)
        return mean if key is None else mean + jax.random.normal(key, mean.shape)


def test_only_a_pool_that_neither_learns_nor_draws_is_computed_once(
    model: vitrail.ViT, data: images.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store(model, data) as stored:
        tokens = stored.get_layer(-1)
        for pool, settled in (("mean", True), ("top_k", True), ("gem", False), (NoisyMean, False)):
            readout = make_probe(model.config, pool, 2, key=jax.random.key(0))
            assert _probe.is_settled(readout, tokens.form, tokens.train[0]) == settled

        def logits() -> Any:
            trainer = _evaluate.Trainer(model, data, tokens, "mean_max", OPTIONS, lambda *_: None)
            which = [np.arange(40)] * 2
            trained = trainer.train("", [0, 1], which, [1e-3, 1e-2], 6, 8)
            return np.stack([[trainer.classify(probe) for probe in probes] for probes in trained.probes])

        once = logits()  # all heads side by side
        monkeypatch.setattr(_evaluate, "is_settled", lambda *_: False)
        np.testing.assert_allclose(once, logits(), rtol=1e-4, atol=1e-4)  # one readout after the other


def test_a_run_equals_a_plain_loop(model: vitrail.ViT, data: images.Dataset) -> None:
    """Against optax by hand, on the model's own tokens, with the pool and the head called as a user would."""
    steps, rate = 5, 3e-3
    order = draw_order(3, np.arange(40), steps, 8)
    readout = make_probe(model.config, "gem", 2, key=jax.random.key(7))
    with store(model, data) as stored:
        tokens = stored.get_layer(-1)
        features = compute_features(readout, tokens.train, tokens.form)
        probe = Probe(readout, Standard(features), tokens.form)
        trained = train_probes(
            [probe],
            [1e-3, rate],
            tokens.train,
            data.train.labels,
            order[None],
            weight_decay=0.0,
            seed=0,
            report=lambda *_: None,
        )
        assert trained.finite.all()
        logits = compute_logits(trained.probes[0][1], tokens.test, np.arange(20))

    pool, head = vitrail.GeMPool(16), readout.head
    run = eqx.filter_jit(lambda image: model.backbone(image))
    own = [
        run(data.preprocess.normalise(jnp.asarray(i))) for i in np.concatenate([data.train.images, data.test.images])
    ]
    pooled = np.stack([np.asarray(pool(t), np.float64) for t in own[:40]])
    mean = jnp.asarray(pooled.mean(axis=0), jnp.float32)
    factor = float(1 / np.sqrt(pooled.var(axis=0).mean()))
    # One step of warm-up in ten, rounded to none of five; the gradient is clipped to a norm of 1.
    schedule = optax.cosine_decay_schedule(rate, steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.0))

    def says(parts: Any, t: vitrail.Tokens) -> jax.Array:
        return parts[1]((parts[0](t) - mean) * factor)

    def loss(parts: Any, which: Any) -> jax.Array:
        terms = [-jax.nn.log_softmax(says(parts, own[int(i)]))[int(data.train.labels[i])] for i in which]
        return jnp.mean(jnp.stack(terms))

    parts: Any = (pool, head)
    state = optimizer.init(eqx.filter(parts, eqx.is_inexact_array))
    for which in order:
        gradient = eqx.filter_grad(loss)(parts, which)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(gradient, state, eqx.filter(parts, eqx.is_inexact_array))
        parts = eqx.apply_updates(parts, updates)
    expected = np.stack([np.asarray(says(parts, t)) for t in own[40:]])
    np.testing.assert_allclose(logits, expected, rtol=2e-3, atol=2e-3)
    assert np.std(expected) > 0.1


def test_an_order_is_that_of_its_seed_and_has_each_image_as_often() -> None:
    which = np.arange(100, 140)
    one, again, other = (draw_order(seed, which, 12, 8) for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert np.array_equal(np.sort(one[:5].ravel()), which)
    counts = np.unique(one, return_counts=True)[1]
    assert set(counts) == {2, 3}
    assert draw_order(0, which, 3, 128).shape == (3, 40)


def test_the_standard_folds_into_the_head() -> None:
    features = np.random.default_rng(0).normal(3, 20, (50, 6)).astype(np.float32)
    standard = Standard(features)
    head = vitrail.LinearHead(6, num_classes=4, key=jax.random.key(0))
    scale = float(standard.scale)
    weight = np.asarray(head.linear.weight, np.float64) * scale
    bias = np.asarray(head.linear.bias, np.float64) - weight @ np.asarray(standard.mean, np.float64)
    for x in features[:3]:
        np.testing.assert_allclose(head(standard(jnp.asarray(x))), weight @ x + bias, rtol=1e-4, atol=1e-4)
    assert math.isclose(scale, 1 / math.sqrt(features.astype(np.float64).var(axis=0).mean()), rel_tol=1e-5)
    assert float(Standard(np.ones((3, 2), np.float32)).scale) == 1.0


def test_under_pool_norm_each_pool_has_its_own_norm(data: images.Dataset) -> None:
    model = small_model(pool="cls", norm_order="pool_norm")
    with store(model, data, (0, -1)) as stored:
        tokens = stored.get_layer(-1)
        probe = make_probe(model.config, "cls_mean", 2, key=jax.random.key(0))
        assert probe.norm is not None
        assert probe.norm.weight.shape == (32,)
        made = compute_features(probe, tokens.test, tokens.form)
    np.testing.assert_allclose(made.mean(axis=1), np.zeros(len(made)), atol=1e-4)


# The search, and few images ----------------------------------------------------------------------------------------


def test_the_search_takes_the_rate_that_is_best_on_training_images_it_holds_out(
    model: vitrail.ViT, data: images.Dataset
) -> None:
    """The test images are not read: here they are noise. A rate that diverges is not taken."""
    options = dataclasses.replace(OPTIONS, steps=30, learning_rates=(1e-6, 1e-2, 1e30))
    noise = np.random.default_rng(1).integers(0, 255, data.test.images.shape).astype(np.uint8)
    blind = dataclasses.replace(data, test=dataclasses.replace(data.test, images=noise))
    for given in (data, blind):
        (row,) = compare(model, given, pools=["mean"], options=options).rows
        assert row.learning_rate == 1e-2


def test_classes_of_one_image_take_the_middle_rate(model: vitrail.ViT, data: images.Dataset) -> None:
    alone = dataclasses.replace(data, train=data.train[:2])
    options = dataclasses.replace(OPTIONS, learning_rates=(1e-3, 1e-2, 1e-1), shots=(1, 5))
    comparison = compare(model, alone, pools=["mean"], options=options)
    assert comparison.rows[0].learning_rate == 1e-2
    assert set(comparison.rows[0].few_shot) == {1}
    assert comparison.notes == ("not tested with 5 images of each class, because one has 1 to learn from",)


def test_few_shot_images_are_as_many_of_each_class(data: images.Dataset) -> None:
    labels = np.array([0, 1, 2, 2, 1, 0, 0, 1, 2, 2])
    one, again, other = (_evaluate.draw_images(labels, 3, 2, draw) for draw in (0, 0, 1))
    assert np.array_equal(np.bincount(labels[one]), [2, 2, 2])
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_more_images_of_each_class_classify_better(model: vitrail.ViT, data: images.Dataset) -> None:
    options = dataclasses.replace(OPTIONS, shots=(1, 10), learning_rates=(1e-2,), draws=4)
    (row,) = compare(model, data, pools=["mean"], options=options).rows
    assert [len(row.few_shot[shots]) for shots in (1, 10)] == [4, 4]
    assert np.mean(row.few_shot[1]) <= np.mean(row.few_shot[10])
    assert np.mean(row.few_shot[10]) > 0.8


def test_the_number_of_steps_follows_the_images_within_limits() -> None:
    options = lab.ProbeOptions()
    assert [options.count_steps(n) for n in (48, 4000, 60_000)] == [300, 625, 3000]
    assert [options.count_search_steps(n) for n in (48, 4000, 60_000)] == [300, 500, 500]
    assert lab.ProbeOptions(steps=7).count_steps(60_000) == 7


# Rows ------------------------------------------------------------------------------------------------------------


def test_rows_say_what_there_is(model: vitrail.ViT, data: images.Dataset) -> None:
    spec = POOLS.configure("attention", num_heads=2)
    sized = functools.partial(vitrail.GeMPool, power=2.0)
    comparison = compare(model, data, pools=["mean", "cls", spec, "cls_mean", vitrail.MeanPool, vitrail.MaxPool, sized])
    rows = {row.pool: row for row in comparison.rows}
    assert set(rows) == {
        "mean",
        "cls",
        "attention(num_heads=2)",
        "cls_mean",
        "MeanPool",
        "MaxPool",
        "GeMPool(power=2.0)",
    }
    assert [row.accuracy for row in comparison.rows] == sorted((r.accuracy for r in comparison.rows), reverse=True)
    mean = rows["mean"]
    assert mean.correct.shape == (2, 20)
    assert mean.accuracy == pytest.approx(mean.correct.mean())
    assert mean.spread == pytest.approx(np.std(mean.correct.mean(axis=1), ddof=1))
    share = (20 * mean.accuracy + 2) / 24
    assert mean.margin == pytest.approx(1.96 * np.sqrt(share * (1 - share) / 24 + mean.spread**2 / 2))
    assert same(rows["MeanPool"], dataclasses.replace(mean, pool="MeanPool"))
    assert mean.head_parameters == 2 * 16 + 2
    assert rows["cls_mean"].head_parameters == 2 * 32 + 2
    assert rows["attention(num_heads=2)"].pool_parameters == 12 * 16**2 + 12 * 16
    assert {name for name, row in rows.items() if row.needs_class_token} == {"cls", "cls_mean"}
    assert {n for n, row in rows.items() if row.knn_accuracy is None} == {
        "attention(num_heads=2)",
        "GeMPool(power=2.0)",
    }
    maps = rows["attention(num_heads=2)"].maps
    assert maps is not None
    assert maps.shape == (2, 2, 3)  # two classes, so two images, on a grid of 2 x 3
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), 1, rtol=1e-4)
    assert [int(data.test.labels[i]) for i in comparison.map_images] == [0, 1]
    assert np.array_equal(comparison.pictures, data.test.images[list(comparison.map_images)])  # type: ignore[arg-type]
    assert comparison.rows[0].p_value is None
    assert all(row.p_value is not None and 0 < row.p_value <= 1 for row in comparison.rows[1:])
    assert comparison.skipped == ()
    assert comparison.names == tuple(row.pool for row in comparison.rows)

    told = json.loads(comparison.to_json())
    lines = list(csv.DictReader(io.StringIO(comparison.to_csv())))
    for row, values, line in zip(comparison.rows, told["rows"], lines, strict=True):
        assert np.array_equal([[c == "1" for c in run] for run in values["correct"]], row.correct)
        assert values["pool"] == line["pool"] == row.pool
        assert values["maps"] is None if row.maps is None else np.array_equal(values["maps"], row.maps)
        assert float(line["accuracy"]) == pytest.approx(row.accuracy, abs=1e-6)
        assert float(line["accuracy_1"]) == pytest.approx(row.accuracies[1], abs=1e-6)
        assert int(line["pool_parameters"]) == row.pool_parameters
        assert (line["p_value"] == "") == (row.p_value is None)
    assert not re.search(r"\d\.\d{10}", json.dumps(told)), "no number has digits that mean nothing"


def test_the_conclusion_is_what_the_p_values_say() -> None:
    best, near, far = make_row("a", [1] * 10, 4.0), make_row("b", [1] * 9 + [0], 2.0), make_row("c", [0] * 10, 1.0)
    near, far = (dataclasses.replace(row, p_value=p) for row, p in ((near, 0.58), (far, 0.006199380061993801)))
    told = lab.Comparison((best, near), (), ()).conclusion
    assert told[1] == "No difference is certain: 10 test images do not tell the others from it."
    assert told[2] == "The fastest of those that may be as good is b: 1.95 times as fast."
    both = lab.Comparison((best, near, far), (), ())
    assert both.conclusion[1] == "It is certainly better than 1 of 2 others, but not than b."
    assert [row.pool for row in both.contenders] == ["a", "b"]
    alone = lab.Comparison((best, far), (), ())
    assert alone.conclusion[1:] == (
        "It is certainly better than all others.",
        "No other that may be as good is at least 10% faster.",
    )
    assert json.loads(both.to_json())["rows"][2]["p_value"] == 0.006199
    assert list(csv.DictReader(io.StringIO(both.to_csv())))[2]["p_value"] == "0.006199"
    assert len(lab.Comparison((best,), (), ()).conclusion) == 1


def test_equal_accuracies_are_a_tie() -> None:
    rows = [make_row("a", [1, 1, 1, 0], 1.0), make_row("b", [0, 1, 1, 1], 2.0), make_row("c", [0] * 4, 3.0)]
    rows[1:] = [dataclasses.replace(row, p_value=p) for row, p in zip(rows[1:], (1.0, 1e-9), strict=True)]
    comparison = lab.Comparison(tuple(rows), (), ())
    assert comparison.conclusion[:2] == (
        "There is a tie: a and b have the highest accuracy, 75.0% ± 33.5%.",
        "The first of them is certainly better than 1 of 2 others, but not than b.",
    )
    assert comparison.told_p_values == ("best", "tie", "<0.001")
    equal = lab.Comparison(tuple(rows[:2]), (), ())
    assert (
        equal.conclusion[1] == "No difference is certain: 4 test images do not tell the others from the first of them."
    )
    # A mean of runs is the same number, whichever of them were right.
    runs = [np.array(run, bool) for run in ([[1, 1, 0], [0, 0, 0], [1, 0, 0]], [[1, 0, 0], [1, 0, 0], [1, 0, 0]])]
    assert len({dataclasses.replace(rows[0], correct=run).accuracy for run in runs}) == 1


def test_the_front_has_what_nothing_beats() -> None:
    hits = [[1] * n + [0] * (10 - n) for n in range(11)]
    rows = tuple(
        make_row(str(i), hits[n], ms) for i, (n, ms) in enumerate([(9, 5.0), (8, 2.0), (8, 2.0), (7, 3.0), (5, 1.0)])
    )
    assert lab.Comparison(rows, (), ()).front == (True, True, True, False, True)


def test_one_readout_that_fails_does_not_take_the_others_along(
    model: vitrail.ViT, data: images.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate_cell = _bench.evaluate_cell

    def fails(*arguments: Any) -> Any:
        if "max" in arguments:
            raise FloatingPointError("the loss must stay finite")
        return evaluate_cell(*arguments)

    monkeypatch.setattr(_bench, "evaluate_cell", fails)
    comparison = compare(model, data, pools=["mean", "max"])
    assert [row.pool for row in comparison.rows] == ["mean"]
    failed = "model at 8x12, layer last, pool max"
    assert comparison.skipped == (lab.Skipped(failed, "FloatingPointError: the loss must stay finite"),)
    with pytest.raises(ValueError, match=f"all 1 readouts failed, the first is {failed}: Floating"):
        compare(model, data, pools=["max"])


# Time --------------------------------------------------------------------------------------------------------------


def test_a_short_time_leaves_out_what_does_not_fit_and_says_so(
    model: vitrail.ViT, data: images.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By measured times: here an image takes the backbone a second, and the pool max a minute."""
    options = dataclasses.replace(OPTIONS, shots=(1,), learning_rates=(1e-3, 1e-2, 1e-1))
    monkeypatch.setattr(
        _bench, "measure_backbone", lambda model, layer: _cost.Cost(1000.0, _cost.count_flops(model, layer), 1)
    )
    monkeypatch.setattr(
        _pace, "time_probe", lambda config, choice, *_: (0.0, *((60.0, 1e-3) if choice == "max" else (0.0, 0.0)))
    )
    monkeypatch.setattr(_plan, "_LEAST", 1)
    planned: dict[str, Any] = {"options": options, "folder": tmp_path, "minutes": 0.3}
    comparison = compare(model, data, pools=["mean", "max"], **planned)
    assert [row.pool for row in comparison.rows] == ["mean"]
    assert comparison.skipped == (lab.Skipped("model at 8x12, layer last, pool max", "the time is too short for it"),)
    (note,) = comparison.notes
    assert "few-shot tests are left out, there is one run of each readout, two learning rates are tried" in note
    assert "0.0625 of the images of each class are used" in note
    assert comparison.rows[0].correct.shape == (1, 2)
    assert comparison.rows[0].learning_rate in (1e-2, 1e-1)
    # A second call goes on with the options and the images of the first, and does what its own time allows.
    again = compare(model, data, pools=["mean", "max"], **planned)
    assert same(again.rows[0], comparison.rows[0])
    assert (again.notes, again.skipped) == (comparison.notes, comparison.skipped)
    longer = compare(model, data, pools=["mean", "max"], **planned | {"minutes": 1000})
    assert {row.pool: row.correct.shape for row in longer.rows} == {"mean": (1, 2), "max": (1, 2)}
    assert (longer.notes, longer.skipped) == (comparison.notes, ())
    monkeypatch.setattr(_pace, "time_probe", lambda *_: pytest.fail("what is finished is not measured"))
    assert len(compare(model, data, pools=["mean", "max"], **planned).rows) == 2
    with pytest.raises(ValueError, match=r"has results of a run with a limit of time \(the time is short, so few-shot"):
        compare(model, data, pools=["mean"], folder=tmp_path, options=options)


def test_a_time_that_was_too_short_can_be_longer(
    model: vitrail.ViT, data: images.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(_bench, "_is_over", lambda ends: ends is not None)
        patched.setattr(
            _bench, "measure_backbone", lambda model, layer: _cost.Cost(1000.0, _cost.count_flops(model, layer), 1)
        )
        with pytest.raises(ValueError, match=r"minutes must be enough for one readout, got 0\.01"):
            compare(model, data, pools=["mean"], folder=tmp_path, minutes=0.01)
    assert not list(tmp_path.iterdir())
    options = dataclasses.replace(OPTIONS, steps=7)
    assert len(compare(model, data, pools=["mean"], folder=tmp_path, options=options).rows) == 1
    assert lab.count_finished(tmp_path) == 1


@dataclasses.dataclass
class SlowBench:
    """Two groups whose images take a hundred seconds to load and a tenth of one to decode, by a clock of its own."""

    model: vitrail.ViT
    now: float = 0.0

    def load(self, group: lab.Group) -> Any:
        self.now += 100

        class Slow(np.ndarray):
            def __getitem__(pixels, which: Any) -> Any:
                chosen = super().__getitem__(which)
                self.now += 0.1 * len(chosen)
                return chosen

        train, test = (
            images.Examples(np.zeros((n, 8, 12, 3), np.uint8).view(Slow), np.zeros(n, int)) for n in (200, 400)
        )
        return self.model, dataclasses.replace(make_data(), train=train, test=test)

    def make_model(self, group: lab.Group) -> vitrail.ViT:
        return self.model

    def measure(self, group: lab.Group, model: vitrail.ViT, layer: int) -> _cost.Cost:
        return _cost.Cost(0.0, 1, 1)

    def is_finished(self, group: lab.Group, layer: int, pool: str) -> bool:
        return False


@pytest.mark.parametrize(("seconds", "share", "dropped"), [(280.0, 1.0, 0), (260.0, 0.5, 0), (150.0, 0.25, 1)])
def test_the_time_to_load_images_counts(
    seconds: float, share: float, dropped: int, model: vitrail.ViT, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the first group are loaded already: left are 60 s to decode them, and 160 s for those of the second.
    A quarter is the least of which a hundred test images are left."""
    bench = SlowBench(model)
    monkeypatch.setattr(time, "monotonic", lambda: bench.now)
    monkeypatch.setattr(_pace, "time_probe", lambda *_: (0.0, 0.0, 0.0))
    groups = lab.choose_groups({"m": model}, [-1], [(8, 12), (16, 24)], ["mean"])[0]
    ends = 100 + 1.6 + seconds  # sixteen are decoded
    plan = _plan.make_plan(groups, OPTIONS, None, ends, bench, lambda progress: None)
    assert (plan.share, len(plan.dropped)) == (share, dropped)


def test_images_are_loaded_once(model: vitrail.ViT, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[tuple[int, int]] = []

    def load(model: vitrail.ViT) -> images.Dataset:
        loaded.append(model.config.image_size)
        return make_data(model.config.image_size)

    monkeypatch.setattr(_pace, "time_probe", lambda *_: (0.0, 0.0, 0.0))
    compare(model, load, pools=["mean"], resolutions=[(8, 12), (16, 24)], minutes=600.0)
    assert loaded == [(8, 12), (16, 24)]


def test_a_long_time_leaves_out_nothing(model: vitrail.ViT, data: images.Dataset) -> None:
    comparison = compare(model, data, pools=["mean"], minutes=600.0)
    assert (comparison.notes, comparison.skipped) == ((), ())
    assert same(comparison.rows[0], compare(model, data, pools=["mean"]).rows[0])


# Folders -----------------------------------------------------------------------------------------------------------


def test_an_interrupted_comparison_loses_the_readout_at_hand_alone(
    model: vitrail.ViT, data: images.Dataset, tmp_path: Path
) -> None:
    def stop(progress: lab.LabProgress) -> None:
        if "pool max" in progress.name:
            raise KeyboardInterrupt

    pools = ["mean", "max", "sum"]
    with pytest.raises(KeyboardInterrupt):
        compare(model, data, pools=pools, folder=tmp_path, report=stop)
    told: list[lab.LabProgress] = []
    comparison = compare(model, data, pools=pools, folder=tmp_path, report=told.append)
    assert {p.name.split(", ")[2] for p in told if p.doing == "readout"} == {"pool max", "pool sum"}
    expected = {row.pool: row for row in compare(model, data, pools=pools).rows}
    assert all(same(row, expected[row.pool]) for row in comparison.rows)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda values: json.dumps(values)[:-9], "must be the JSON object"),
        (lambda values: json.dumps(values | {"correct": ["01"]}), r"correct must have shape \(2, 20\), got \(1, 2\)"),
        (lambda values: json.dumps(values | {"pool": "max"}), "it must be the result of"),
        (lambda values: json.dumps({"pool": "gem"}), "computes"),
    ],
)
def test_a_result_that_cannot_be_read_is_made_again(
    damage: Any, reason: str, model: vitrail.ViT, data: images.Dataset, tmp_path: Path
) -> None:
    first = compare(model, data, pools=["mean"], folder=tmp_path)
    (path,) = tmp_path.glob("cells/*/last-mean.json")
    path.write_text(damage(json.loads(path.read_text())))
    told = rf"{path} cannot be read as the result of mean, so the pool is trained again: .*{reason}"
    with pytest.warns(UserWarning, match=told):
        again = compare(model, data, pools=["mean"], folder=tmp_path)
    assert same(again.rows[0], first.rows[0])


@pytest.mark.parametrize("text", ["[]", "3", "", '{"model": ', "\xff", "[" * 100_000])
def test_a_record_of_the_run_that_is_none_is_named(
    text: str, model: vitrail.ViT, data: images.Dataset, tmp_path: Path
) -> None:
    (tmp_path / "run.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=rf"{tmp_path}/run.json must be the JSON object that vitrail wrote, got"):
        compare(model, data, pools=["mean"], folder=tmp_path)


KILLED = """
    import sys, time
    from test_lab import OPTIONS, make_data
    from helpers import make_row, small_model
    import vitrail

    def stop(progress):
        if progress.doing == "readout":
            print("training", flush=True)
            time.sleep(600)

    folder = sys.argv[1] if sys.argv[1:] else None
    vitrail.compare(
        small_model(), make_data(), pools=["mean"], options=OPTIONS, folder=folder, token_budget=0.0, report=stop
    )
"""


@pytest.mark.parametrize("in_folder", [True, False])
def test_tokens_of_a_killed_process_are_gone_after_the_next_run(
    in_folder: bool, data: images.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path if in_folder else tmp_path / "temporary"
    place.mkdir(exist_ok=True)
    path = os.pathsep.join((str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")))
    command = [sys.executable, "-c", textwrap.dedent(KILLED), *([str(tmp_path)] if in_folder else [])]
    environment = os.environ | {"PYTHONPATH": path, "TMPDIR": str(place)}
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(2)]
    try:
        for run in runs:
            assert run.stdout is not None
            assert run.stdout.readline() == "training\n"
        runs[0].terminate()
        assert runs[0].wait(60) == -signal.SIGTERM
        assert len(list(place.rglob("*.npy"))) == 4
        monkeypatch.setattr(tempfile, "tempdir", str(place))
        # This one holds its tokens in memory. The second process still runs.
        compare(small_model(), data, pools=["max"], folder=tmp_path if in_folder else None)
        assert len(list(place.rglob("*.npy"))) == 2
    finally:
        for run in runs:
            run.kill()
            run.communicate()
    compare(small_model(), data, pools=["max"], folder=tmp_path if in_folder else None)
    assert not list(place.rglob("*.npy"))
    assert {path.name for path in place.iterdir()} == ({"cells", "run.json"} if in_folder else set())


@pytest.mark.parametrize("what", ["model", "data", "options", "class"])
def test_a_folder_of_another_comparison_is_refused_and_stays_as_it_was(
    what: str, model: vitrail.ViT, data: images.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_pace, "time_probe", lambda *_: (0.0, 0.0, 0.0))

    def read_all() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    given: dict[str, Any] = {"models": model, "data": data, "pools": ["mean"], "folder": tmp_path}
    compare(**given)
    changed: dict[str, Any] = {
        "model": {"models": small_model(pool="cls_mean", num_registers=1, seed=5)},
        "data": {"data": dataclasses.replace(data, train=data.train[1:])},
        "options": {"options": dataclasses.replace(OPTIONS, steps=7)},
    }
    if what != "class":
        told = "options (steps: 6 there, 7 here)" if what == "options" else what
        told = (
            f"has the results of another run, which differs in {told}: pass a new folder, or the arguments of that run"
        )
        before = read_all()
        larger = make_data((16, 24))
        cut = slice(1, None) if what == "data" else slice(None)
        sizes = {size: dataclasses.replace(d, train=d.train[cut]) for size, d in (((8, 12), data), ((16, 24), larger))}
        for limit in (None, 600.0):  # another layer has no cost yet, and another group comes first
            question = given | changed[what] | {"minutes": limit, "layers": [0], "resolutions": [(16, 24), (8, 12)]}
            question |= {"data": lambda model: sizes[model.config.image_size]}
            with pytest.raises(ValueError, match=re.escape(told)):
                compare(**question)
            assert read_all() == before
        return
    one, other = (lambda dim, pool=pool: pool(dim) for pool in (vitrail.MeanPool, vitrail.MaxPool))
    one.__name__ = other.__name__ = "Own"
    compare(**(given | {"pools": [one]}))
    before = read_all()
    with pytest.raises(ValueError, match="has the result of another pool Own"):
        compare(**(given | {"pools": ["max", other]}))
    assert read_all() == before


# Figure and report -------------------------------------------------------------------------------------------------


class _Reader(html.parser.HTMLParser):
    """Collects what a page loads, and the texts of its table."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.cells: list[list[str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [str(value) for name, value in attrs if name in ("src", "href", "xlink:href", "data", "action")]
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.cells and self.cells[-1]:
            self.cells[-1][-1] += data.strip()


def test_the_figure_and_the_report_show_what_the_rows_say(
    model: vitrail.ViT, data: images.Dataset, tmp_path: Path
) -> None:
    comparison = compare(model, data, pools=["mean", "max", "top_k"], options=dataclasses.replace(OPTIONS, shots=(1,)))
    show.draw_comparison(comparison, tmp_path / "figure.svg")
    drawn = (tmp_path / "figure.svg").read_text()
    assert drawn.count("<image") == 2  # of the one pool that weighs patches, for two classes
    assert "#c0332b" not in drawn, "nothing is drawn in the colour of mistakes"
    lab.write_report(comparison, tmp_path / "report.html", about=["<images>"], commands=["vitrail train --pool 'a'"])
    page = (tmp_path / "report.html").read_text()
    reader = _Reader()
    reader.feed(page)
    assert all(value.startswith(("data:", "#")) for value in reader.loaded), "the page loads nothing"
    assert not re.search(r"url\((?!#)|@import|fetch\(", page)
    assert "&lt;images&gt;" in page
    assert "vitrail train --pool &#x27;a&#x27;" in page
    assert comparison.conclusion[0] in page
    heads, *lines = reader.cells
    assert heads[:6] == ["#", "pool", "accuracy, %", "±", "p", "k-NN, %"]
    # A row has the number by which the figure names it.
    assert [" ".join(line[:2]) for line in lines] == re.findall(r"<!-- (\d+ [\w()=]+) -->", drawn)[:3]
    assert [line[1] for line in lines] == [row.pool for row in comparison.rows]
    assert [line[4] for line in lines] == list(comparison.told_p_values)
    assert [line[2] for line in lines] == [f"{100 * row.accuracy:.2f}" for row in comparison.rows]
    assert [len(line) for line in lines] == [len(heads)] * 3
    assert "prefers-color-scheme: dark" in page
    assert not re.search("#22252b|#fbfaf7", page[page.index("<svg") : page.index("</svg>")]), "colours are the page's"


# Statistics ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_the_sign_flip_test_equals_counting_all_signs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    differences = rng.integers(-2, 4, 10) / 3
    observed = abs(sum(differences))
    sums = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=10)
    ]
    assert compute_sign_flip_p_value(differences) == pytest.approx(np.mean([s >= observed - 1e-9 for s in sums]))


def test_the_sign_flip_test_of_one_run_is_mcnemars() -> None:
    """Of wins and losses alone, it is the binomial test of a fair coin: here 12 to 28."""
    differences = np.array([1.0] * 12 + [-1.0] * 28 + [0.0] * 500)
    exact = 2 * sum(math.comb(40, k) for k in range(13)) / 2**40
    assert compute_sign_flip_p_value(differences) == pytest.approx(exact, rel=0.25)
    assert compute_sign_flip_p_value(np.zeros(9)) == 1.0
    # So large a difference stays certain after the correction for hundreds of tests. The bound is above the tail.
    large = compute_sign_flip_p_value(np.array([1.0] * 36 + [-1.0] * 4))
    exact = 2 * sum(math.comb(40, k) for k in range(5)) / 2**40
    assert exact <= large < 100 * exact < 1e-4


def test_holm_equals_the_example_by_hand() -> None:
    assert adjust_by_holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjust_by_holm([0.6, 0.5]) == [1.0, 1.0]
    assert adjust_by_holm([]) == []
