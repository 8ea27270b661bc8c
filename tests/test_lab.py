"""The pooling lab: one pass of the backbone, runs that depend on nothing but their seed, and honest statistics."""

import csv
import dataclasses
import io
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import small_model

import vitrail
from vitrail import POOLS, images, lab, show, train
from vitrail.lab import _compare, _probe, _tokens
from vitrail.lab._probe import Standard, compute_features, compute_logits, draw_order, train_probe
from vitrail.lab._statistics import adjust_by_holm, compute_sign_flip_p_value
from vitrail.lab._tokens import store_tokens

RECIPE = dataclasses.replace(lab.PROBE_RECIPE, epochs=2, batch_size=8)


def make_data() -> images.Dataset:
    """Two classes of small images that differ in brightness."""
    rng = np.random.default_rng(0)
    labels = np.tile(np.arange(2, dtype=np.int32), 30)
    noise = rng.integers(0, 120, (60, 8, 12, 3))
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


def compare(model: vitrail.ViT, data: images.Dataset, **options: Any) -> lab.Comparison:
    return vitrail.compare_pools(model, data, **({"recipe": RECIPE, "seeds": 2} | options))


def same(a: lab.PoolRow, b: lab.PoolRow) -> bool:
    """Whether two rows found the same, but for the time it took and the significance, which depends on the others."""
    maps = (a.maps is None and b.maps is None) or np.array_equal(a.maps, b.maps)  # type: ignore[arg-type]
    fields = ("pool", "pool_parameters", "head_parameters", "needs_class_token", "knn_accuracy")
    return maps and np.array_equal(a.correct, b.correct) and all(getattr(a, f) == getattr(b, f) for f in fields)


# Tokens ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [1.0, 0.0])
def test_what_is_kept_are_the_tokens_of_the_model(
    model: vitrail.ViT, data: images.Dataset, budget: float, tmp_path: Path
) -> None:
    told: list[lab.LabProgress] = []
    with store_tokens(model, data, budget, tmp_path, told.append) as stored:
        assert isinstance(stored.train, np.memmap) == (budget == 0)
        assert len(list(tmp_path.rglob("*.npy"))) == (0 if budget else 2)
        for part, examples in ((stored.train, data.train), (stored.test, data.test)):
            for index in (0, len(examples) - 1):
                expected = model.backbone(data.preprocess.normalise(jnp.asarray(examples.images[index])))
                tokens = stored.form.divide(jnp.asarray(part[index]))
                np.testing.assert_allclose(tokens.sequence, expected.sequence, rtol=1e-5, atol=1e-5)
                assert jax.tree.structure(tokens) == jax.tree.structure(expected)
    assert not list(tmp_path.iterdir())
    assert (told[-1].doing, told[-1].done, told[-1].total) == ("backbone", 60, 60)


def test_memory_and_file_give_the_same(model: vitrail.ViT, data: images.Dataset) -> None:
    pools = ["mean", "abmil"]
    one, other = (compare(model, data, pools=pools, token_budget=b) for b in (1.0, 0.0))
    assert all(same(a, b) for a, b in zip(one.rows, other.rows, strict=True))


def test_a_file_of_tokens_that_has_no_room_is_an_error(
    model: vitrail.ViT, data: images.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(_tokens.shutil, "disk_usage", lambda place: usage)
    with pytest.raises(OSError, match=r"the tokens need .* GiB, got 0.0 free in .*token_budget"):
        compare(model, data, pools=["mean"], token_budget=0.0)


def test_the_backbone_runs_once_and_not_at_all_where_nothing_is_missing(
    model: vitrail.ViT, data: images.Dataset, tmp_path: Path
) -> None:
    told: list[lab.LabProgress] = []
    compare(model, data, pools=["mean", "max", "gem"], folder=tmp_path, report=told.append)
    assert sum(p.doing == "backbone" for p in told) == 2  # one batch of each part
    told.clear()
    compare(model, data, pools=["mean", "max", "gem"], folder=tmp_path, report=told.append)
    assert told == []


# Runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mean", "attention", "lse"])
def test_a_pool_among_others_equals_the_pool_alone(name: str, model: vitrail.ViT, data: images.Dataset) -> None:
    alone = compare(model, data, pools=[name]).rows[0]
    (among,) = [row for row in compare(model, data, pools=["cls", name, "weighted"]).rows if row.pool == name]
    assert same(alone, among)
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
    noisy: Any = _probe.make_probe(model, "mean", 2, key=jax.random.key(0))
    noisy = eqx.tree_at(lambda p: p.pool, noisy, NoisyMean(16))
    with store_tokens(model, data, 1.0, None, lambda progress: None) as stored:
        assert not _probe._is_settled(noisy, stored)
        for name, settled in (("mean", True), ("top_k", True), ("gem", False), ("weighted", False)):
            probe = _probe.make_probe(model, name, 2, key=jax.random.key(0))
            assert _probe._is_settled(probe, stored) == settled
        order = draw_order(0, len(data.train), RECIPE)

        def logits() -> Any:
            trained = train_probe(
                model, "mean_max", stored, data.train.labels, 2, RECIPE, 0, order, lambda progress: None
            )
            return compute_logits(*trained, stored.test, stored.form)

        once = logits()
        monkeypatch.setattr(_probe, "_is_settled", lambda probe, stored: False)
        np.testing.assert_allclose(once, logits(), rtol=1e-4, atol=1e-4)


def test_a_run_equals_a_plain_loop(model: vitrail.ViT, data: images.Dataset) -> None:
    """Against optax by hand, on the model's own tokens, with the pool and the head called as a user would."""
    recipe = dataclasses.replace(RECIPE, epochs=1, warmup=0.0, weight_decay=0.0, clip_norm=1e9)
    order = draw_order(3, len(data.train), recipe)
    with store_tokens(model, data, 1.0, None, lambda progress: None) as stored:
        probe, standard = train_probe(
            model, "gem", stored, data.train.labels, 2, recipe, 3, order, lambda progress: None
        )
        logits = compute_logits(probe, standard, stored.test, stored.form)

    probe_key, _ = jax.random.split(jax.random.key(3))
    _, head_key = jax.random.split(probe_key)
    pool = vitrail.GeMPool(16)
    head = vitrail.LinearHead(16, num_classes=2, key=head_key)
    run = eqx.filter_jit(lambda image: model.backbone(image))
    tokens = [
        run(data.preprocess.normalise(jnp.asarray(i))) for i in np.concatenate([data.train.images, data.test.images])
    ]
    features = np.stack([np.asarray(pool(t), np.float64) for t in tokens[:40]])
    mean = jnp.asarray(features.mean(axis=0), jnp.float32)
    factor = float(1 / np.sqrt(features.var(axis=0).mean()))
    optimizer = optax.adamw(optax.cosine_decay_schedule(recipe.learning_rate, 5), weight_decay=0.0)

    def says(parts: Any, t: vitrail.Tokens) -> jax.Array:
        return parts[1]((parts[0](t) - mean) * factor)

    def loss(parts: Any, which: Any) -> jax.Array:
        terms = []
        for i in which:
            terms.append(-jax.nn.log_softmax(says(parts, tokens[int(i)]))[int(data.train.labels[i])])
        return jnp.mean(jnp.stack(terms))

    parts: Any = (pool, head)
    state = optimizer.init(eqx.filter(parts, eqx.is_inexact_array))
    for which in order:
        gradient = eqx.filter_grad(loss)(parts, which)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(gradient, state, eqx.filter(parts, eqx.is_inexact_array))
        parts = eqx.apply_updates(parts, updates)
    expected = np.stack([np.asarray(says(parts, t)) for t in tokens[40:]])
    np.testing.assert_allclose(logits, expected, rtol=2e-3, atol=2e-3)
    assert np.std(expected) > 0.1


def test_the_order_is_that_of_the_seed() -> None:
    one, same_seed, other = (np.stack(draw_order(seed, 40, RECIPE)) for seed in (1, 1, 2))
    assert np.array_equal(one, same_seed)
    assert not np.array_equal(one, other)
    assert np.array_equal(np.sort(one[:5].ravel()), np.arange(40))


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
    with store_tokens(model, data, 1.0, None, lambda progress: None) as stored:
        probe = _probe.make_probe(model, "cls_mean", 2, key=jax.random.key(0))
        assert probe.norm is not None
        assert probe.norm.weight.shape == (32,)
        made = compute_features(probe, stored.test, stored.form)
    np.testing.assert_allclose(made.mean(axis=1), np.zeros(len(made)), atol=1e-4)
    assert compare(model, data, pools=["cls_mean", "mean"]).rows


def test_features_do_not_depend_on_the_batches(
    model: vitrail.ViT, data: images.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = _probe.make_probe(model, "attention", 2, key=jax.random.key(0))
    with store_tokens(model, data, 1.0, None, lambda progress: None) as stored:
        whole = compute_features(probe, stored.train, stored.form)
        monkeypatch.setattr(_probe, "_BATCH", 7)
        np.testing.assert_allclose(compute_features(probe, stored.train, stored.form), whole, rtol=1e-5, atol=1e-5)


# Rows ------------------------------------------------------------------------------------------------------------


def test_rows_say_what_there_is(model: vitrail.ViT, data: images.Dataset) -> None:
    spec = POOLS.configure("attention", num_heads=2)
    comparison = compare(model, data, pools=["mean", "cls", spec, "cls_mean", "gap"])
    rows = {row.pool: row for row in comparison.rows}
    assert set(rows) == {"mean", "cls", "attention(num_heads=2)", "cls_mean", "gap"}
    assert [row.accuracy for row in comparison.rows] == sorted((r.accuracy for r in comparison.rows), reverse=True)
    assert rows["mean"].correct.shape == (2, 20)
    assert rows["mean"].accuracy == pytest.approx(rows["mean"].correct.mean())
    assert rows["mean"].spread == pytest.approx(np.std(rows["mean"].correct.mean(axis=1), ddof=1))
    assert same(rows["gap"], dataclasses.replace(rows["mean"], pool="gap"))
    assert rows["mean"].head_parameters == 2 * 16 + 2
    assert rows["cls_mean"].head_parameters == 2 * 32 + 2
    assert rows["attention(num_heads=2)"].pool_parameters == 12 * 16**2 + 12 * 16
    assert {name for name, row in rows.items() if row.needs_class_token} == {"cls", "cls_mean"}
    assert {name for name, row in rows.items() if row.knn_accuracy is None} == {"attention(num_heads=2)"}
    assert all(row.microseconds > 0 for row in rows.values())
    maps = rows["attention(num_heads=2)"].maps
    assert maps is not None
    assert maps.shape == (2, 2, 3)  # two classes, so two images, on a grid of 2 x 3
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), 1, rtol=1e-5)
    assert [int(data.test.labels[i]) for i in comparison.map_images] == [0, 1]
    assert comparison.rows[0].p_value is None
    assert all(row.p_value is not None and 0 < row.p_value <= 1 for row in comparison.rows[1:])
    assert comparison.skipped == ()


def test_every_registered_pool_by_default_and_a_reason_for_those_that_cannot(data: images.Dataset) -> None:
    choices, skipped = _compare._choose(small_model(), None)
    reasons = {s.pool: s.reason for s in skipped}
    assert set(choices) | set(reasons) == set(POOLS)
    assert "reads the class token, and the backbone has none" in reasons["cls"]
    assert "not one vector" in reasons["none"]
    assert {"mean", "attention", "weighted"} <= set(choices)
    assert {s.pool for s in _compare._choose(small_model(class_token=True), None)[1]} == {"none"}


def test_one_pool_that_fails_does_not_take_the_others_along(
    data: images.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate_pool = _compare._evaluate_pool

    def fails(*arguments: Any) -> Any:
        if "max" in arguments:
            raise FloatingPointError("the loss must stay finite")
        return evaluate_pool(*arguments)

    monkeypatch.setattr(_compare, "_evaluate_pool", fails)
    monkeypatch.setattr(_compare, "POOLS", {name: POOLS[name] for name in ("mean", "max", "sum")})
    comparison = compare(small_model(), data, seeds=1)
    assert {row.pool for row in comparison.rows} == {"mean", "sum"}
    assert comparison.skipped == (lab.SkippedPool("max", "FloatingPointError: the loss must stay finite"),)
    with pytest.raises(FloatingPointError):
        compare(small_model(), data, pools=["mean", "max"], seeds=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pools": ["none"]}, r"pools has 'none', which cannot be compared on this model: it returns shape \(8, 16\)"),
        ({"pools": ["meen"]}, "there is no pool 'meen': did you mean 'mean'"),
        ({"pools": []}, "pools must have at least one pool"),
        ({"pools": ["mean", "mean"]}, "pools must have each pool once, got 'mean' twice"),
        ({"seeds": 0}, "seeds must be positive"),
        ({"token_budget": -1.0}, "token_budget must be finite and not negative"),
        ({"recipe": train.Recipe()}, "recipe must have no augmentation"),
        ({"recipe": train.RECIPES["mae"]}, "recipe must have no augmentation and no transforms"),
    ],
)
def test_what_cannot_be_compared_is_an_error_before_anything_runs(
    options: dict[str, Any], message: str, model: vitrail.ViT, data: images.Dataset
) -> None:
    told: list[lab.LabProgress] = []
    with pytest.raises((ValueError, KeyError), match=message):
        compare(model, data, report=told.append, **options)
    assert told == []


def test_a_class_token_that_the_backbone_has_not_is_an_error(data: images.Dataset) -> None:
    with pytest.raises(
        ValueError, match=r"'cls', which cannot be compared .*: it reads the class token, and the backbone has none"
    ):
        compare(small_model(), data, pools=["cls"])


@pytest.mark.parametrize("pools", [["mean"], None])
def test_tokens_that_are_not_finite_are_an_error(
    pools: list[str] | None, model: vitrail.ViT, data: images.Dataset
) -> None:
    bias = jnp.full_like(model.backbone.norm.bias, jnp.nan)
    broken = eqx.tree_at(lambda m: m.backbone.norm.bias, model, bias)
    message = r"the tokens of the training images must be finite, got NaN or infinity for 40 of 40 images, .* image 0:"
    with pytest.raises(FloatingPointError, match=message):
        compare(broken, data, pools=pools)


# Files -----------------------------------------------------------------------------------------------------------


def test_an_interruption_loses_no_finished_pool(model: vitrail.ViT, data: images.Dataset, tmp_path: Path) -> None:
    def interrupt(progress: lab.LabProgress) -> None:
        if progress.name.startswith("gem"):
            raise KeyboardInterrupt

    pools = ["mean", "max", "gem", "cls"]
    with pytest.raises(KeyboardInterrupt):
        compare(model, data, pools=pools, folder=tmp_path, report=interrupt, token_budget=0.0)
    assert sorted(path.name for path in (tmp_path / "pools").iterdir()) == ["max.json", "mean.json"]
    assert not list(tmp_path.rglob("*.npy"))
    told: list[lab.LabProgress] = []
    again = compare(model, data, pools=pools, folder=tmp_path, report=told.append)
    assert {p.name.split(",")[0] for p in told if p.doing == "pool"} == {"gem", "cls"}
    whole = compare(model, data, pools=pools)
    assert all(same(a, b) for a, b in zip(again.rows, whole.rows, strict=True))
    assert [row.p_value for row in again.rows] == [row.p_value for row in whole.rows]


def shorten_runs(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"correct": [run[:3] for run in row["correct"]]}


def change_first_hit(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"correct": [f"2{run[1:]}" for run in row["correct"]]}


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda row: json.dumps(row)[:-9], "must be the JSON object that vitrail wrote, got an error"),
        (lambda row: "[]", "must be the JSON object that vitrail wrote, got a value of the type list"),
        (lambda row: "[" * 100_000, "must be the JSON object that vitrail wrote, got an error"),
        (lambda row: "{}", "'correct'"),
        (lambda row: json.dumps(row | {"pool": "mean"}), "pool must be 'abmil', got 'mean'"),
        (lambda row: json.dumps(row | {"more": 1}), "has no argument more"),
        (lambda row: json.dumps(shorten_runs(row)), r"correct must have shape \(2, 20\), got \(2, 3\)"),
        (
            lambda row: json.dumps(row | {"correct": row["correct"][:1]}),
            r"correct must have shape \(2, 20\), got \(1, 20\)",
        ),
        (lambda row: json.dumps(change_first_hit(row)), "correct must be strings of 0 and 1"),
        (lambda row: json.dumps(row | {"maps": row["maps"][:1]}), r"maps must have shape \(2, 2, 3\), got \(1, 2, 3\)"),
    ],
)
def test_a_damaged_result_is_done_again(
    damage: Callable[[dict[str, Any]], str], reason: str, model: vitrail.ViT, data: images.Dataset, tmp_path: Path
) -> None:
    first = compare(model, data, pools=["abmil"], folder=tmp_path)
    path = tmp_path / "pools" / "abmil.json"
    path.write_text(damage(json.loads(path.read_text())))
    told = rf"{path} cannot be read as the result of abmil, so the pool is trained again: .*{reason}"
    with pytest.warns(UserWarning, match=told) as caught:
        again = compare(model, data, pools=["abmil"], folder=tmp_path)
    assert [warning.filename for warning in caught] == [__file__]  # not into vitrail or jaxtyping
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
    import numpy as np
    from test_lab import RECIPE, make_data
    from helpers import small_model
    import vitrail

    def stop(progress):
        if progress.doing == "pool":
            print("training", flush=True)
            time.sleep(600)

    folder = sys.argv[1] if sys.argv[1:] else None
    vitrail.compare_pools(
        small_model(), make_data(), pools=["mean"], recipe=RECIPE, folder=folder, token_budget=0.0, report=stop
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
        compare(small_model(), data, pools=["max"], folder=tmp_path if in_folder else None, seeds=3)
        assert len(list(place.rglob("*.npy"))) == 2
    finally:
        for run in runs:
            run.kill()
            run.communicate()
    compare(small_model(), data, pools=["max"], folder=tmp_path if in_folder else None, seeds=3)
    assert not list(place.rglob("*.npy"))
    assert {path.name for path in place.iterdir()} == ({"pools", "run.json"} if in_folder else set())


@pytest.mark.parametrize("what", ["model", "data", "recipe", "seeds"])
def test_a_folder_of_another_comparison_is_refused(
    what: str, model: vitrail.ViT, data: images.Dataset, tmp_path: Path
) -> None:
    compare(model, data, pools=["mean"], folder=tmp_path)
    changed: dict[str, Any] = {
        "model": {"model": small_model(pool="cls_mean", num_registers=1, seed=5)},
        "data": {"data": dataclasses.replace(data, train=data.train[1:])},
        "recipe": {"recipe": dataclasses.replace(RECIPE, epochs=3)},
        "seeds": {"seeds": 1},
    }[what]
    with pytest.raises(ValueError, match=rf"must have this run, got one with another {what} \("):
        compare(**({"model": model, "data": data, "pools": ["mean"], "folder": tmp_path} | changed))


def test_json_and_csv_say_what_the_rows_say(model: vitrail.ViT, data: images.Dataset) -> None:
    comparison = compare(model, data, pools=["mean", "abmil"])
    told = json.loads(comparison.to_json())
    for row, values in zip(comparison.rows, told["rows"], strict=True):
        assert np.array_equal([[c == "1" for c in run] for run in values["correct"]], row.correct)
        assert (values["pool"], values["accuracy"], values["p_value"]) == (row.pool, row.accuracy, row.p_value)
        assert values["maps"] is None if row.maps is None else np.array_equal(values["maps"], row.maps)
    lines = list(csv.DictReader(io.StringIO(comparison.to_csv())))
    for row, line in zip(comparison.rows, lines, strict=True):
        assert line["pool"] == row.pool
        assert float(line["accuracy"]) == pytest.approx(row.accuracy, abs=1e-6)
        assert float(line["accuracy_1"]) == pytest.approx(row.accuracies[1], abs=1e-6)
        assert int(line["pool_parameters"]) == row.pool_parameters
        assert (line["p_value"] == "") == (row.p_value is None)


@pytest.mark.parametrize("pools", [["mean"], ["mean", "max", "abmil", "top_k"]])
def test_the_figure_is_drawn(pools: list[str], model: vitrail.ViT, data: images.Dataset, tmp_path: Path) -> None:
    show.draw_comparison(compare(model, data, pools=pools, seeds=1), data, tmp_path / "figure.svg")
    drawn = (tmp_path / "figure.svg").read_text()
    assert drawn.count("<image") == 2 * len({"abmil", "top_k"} & set(pools))


@pytest.mark.parametrize(("epochs", "batch_size", "steps"), [(2, 8, 10), (19, 8, 95), (20, 8, 100), (100, 41, 97)])
def test_too_few_images_for_the_recipe_are_noted(
    epochs: int, batch_size: int, steps: int, model: vitrail.ViT, data: images.Dataset
) -> None:
    recipe = dataclasses.replace(RECIPE, epochs=epochs, batch_size=batch_size)
    told: list[lab.LabProgress] = []
    comparison = compare(model, data, pools=["mean"], seeds=1, recipe=recipe, report=told.append)
    assert told[-1].total == steps
    assert len(comparison.notes) == (steps < 100)
    assert json.loads(comparison.to_json())["notes"] == list(comparison.notes)
    for note in comparison.notes:
        assert f"40 images give {steps} steps, and 100 are needed" in note
        enough = int(note.partition("epochs=")[2])
        assert (enough - 1) * 40 < 100 * batch_size <= enough * 40


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
    assert compute_sign_flip_p_value(np.ones(200)) == pytest.approx(1 / 10_001)


def test_holm_equals_the_example_by_hand() -> None:
    assert adjust_by_holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjust_by_holm([0.6, 0.5]) == [1.0, 1.0]
    assert adjust_by_holm([]) == []
