"""The step of training: what it changes and what it does not, the mean of the weights, parts of a batch, objectives."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, parameters, small_config

import vitrail
from vitrail import images, systems, train
from vitrail.testing import ContractError, check_objective

SIZE = vitrail.EncoderSize(dim=16, depth=2, num_heads=2, mlp_dim=24)
PLAIN = train.Recipe(
    learning_rate=1e-2, batch_size=8, warmup=0.0, schedule="constant", augmentation=images.Augmentation()
)
PREPROCESS = images.Preprocess("cover", "bicubic", (0.5,) * 3, (0.25,) * 3)
TEXT = vitrail.TextConfig(size=vitrail.EncoderSize(16, 1, 2, 24), vocabulary=11, context=5, embed_dim=7, end_of_text=10)


@pytest.fixture(scope="module")
def model() -> vitrail.ViT:
    return eqx.filter_jit(small_config(size=SIZE).build)(key=jax.random.key(0))


def make_batch(seed: int = 0, number: int = 8) -> Mapping[str, Any]:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (number, 8, 12, 3), dtype=np.uint8)
    return {"image": pixels, "label": rng.integers(0, 5, number), "text": rng.integers(0, 11, (number, 5), np.int32)}


def make_training(name: str = "classify", recipe: train.Recipe = PLAIN, steps: int = 40, **options: Any) -> Any:
    choice = train.OBJECTIVES.configure(name, **options)
    context = train.ObjectiveContext(preprocess=PREPROCESS)
    return train.Training(train.OBJECTIVES.build(choice, context, key=jax.random.key(0)), recipe, steps)


def take_steps(training: Any, model: Any, number: int) -> Any:
    prepared = training.objective.prepare(model, key=jax.random.key(1))
    state = training.start(prepared, key=jax.random.key(2))
    for seed in range(number):
        batch = training.objective.add_inputs(prepared, make_batch(seed), seed=seed)
        state, metrics = training.step(state, {name: jnp.asarray(array) for name, array in batch.items()})
        assert all(np.isfinite(value) for value in metrics.values())
    return state


OBJECTIVES: Mapping[str, Mapping[str, Any]] = {
    "classify": {"smoothing": 0.1, "mixup": 0.8, "cutmix": 1.0},
    "probe": {},
    "mae": {"decoder_dim": 8, "decoder_depth": 1, "decoder_heads": 2},
    "dino": {"prototypes": 8, "hidden_dim": 8, "bottleneck_dim": 4, "small_crops": 1, "ibot": 1.0, "koleo": 0.1},
    "clip": {},
}


def make_system(model: vitrail.ViT, name: str) -> Any:
    if name != "clip":
        return model
    image = vitrail.replace(model, num_classes=7, key=jax.random.key(3)).config
    return vitrail.ImageTextConfig(image=image, text=TEXT).build(key=jax.random.key(0))


@pytest.mark.parametrize("name", train.OBJECTIVES)
def test_a_run_in_two_parts_equals_the_run_to_the_bit(model: vitrail.ViT, name: str):
    """The state is all that there is: it goes through NumPy, as through a file."""
    recipe = dataclasses.replace(PLAIN, average=0.9, learning_rate=1e-3)
    training = make_training(name, recipe, **OBJECTIVES[name])
    prepared = training.objective.prepare(make_system(model, name), key=jax.random.key(1))

    def run(state: train.TrainState, seeds: range) -> train.TrainState:
        for seed in seeds:
            batch = training.objective.add_inputs(prepared, make_batch(seed), seed=seed)
            wanted = {key: jnp.asarray(batch[key]) for key in (*training.objective.inputs, "hidden") if key in batch}
            state, metrics = training.step(state, wanted)
            assert all(np.isfinite(value) for value in metrics.values()), metrics
        return state

    whole = run(training.start(prepared, key=jax.random.key(2)), range(5))
    state = run(training.start(prepared, key=jax.random.key(2)), range(2))
    arrays, rest = eqx.partition(state, eqx.is_array)
    stored = jax.tree.map(
        lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else np.asarray(x), arrays
    )
    stored = eqx.tree_at(lambda tree: tree.key, stored, jax.random.wrap_key_data(stored.key))
    again = run(eqx.combine(jax.tree.map(jnp.asarray, stored), rest), range(2, 5))
    ours, theirs = (jax.tree.leaves(eqx.filter(each, eqx.is_inexact_array)) for each in (again, whole))
    assert len(ours) == len(theirs)
    assert all(np.array_equal(*pair) for pair in zip(ours, theirs, strict=True))
    assert int(again.step) == 5
    before, after = parameters(prepared), parameters(again.model)
    assert any(not np.array_equal(after[name], array) for name, array in before.items())


def test_parts_of_a_batch_add_up_to_the_step(model: vitrail.ViT):
    whole, parts = (
        take_steps(make_training(recipe=dataclasses.replace(PLAIN, optimiser="sgd", accumulate=n)), model, 2).model
        for n in (1, 4)
    )
    for name, array in parameters(whole).items():
        assert_close(parameters(parts)[name], array, tolerance=1e-5)
    with pytest.raises(ValueError, match="accumulate must be 1 for the objective CLIPObjective"):
        make_training("clip", dataclasses.replace(PLAIN, accumulate=2))
    with pytest.raises(ValueError, match="accumulate must divide batch_size=8, got 3"):
        dataclasses.replace(PLAIN, accumulate=3)


def test_the_mean_of_the_weights_is_that_of_the_steps(model: vitrail.ViT):
    training = make_training(recipe=dataclasses.replace(PLAIN, average=0.3))
    state = training.start(model, key=jax.random.key(2))
    mean = {name: np.asarray(array, np.float64) for name, array in parameters(model).items()}
    for seed in range(6):
        batch = {name: jnp.asarray(array) for name, array in make_batch(seed).items()}
        state, _ = training.step(state, batch)
        share = min(0.3, (1 + seed) / (10 + seed))
        mean = {name: share * mean[name] + (1 - share) * np.asarray(x) for name, x in parameters(state.model).items()}
    for name, array in parameters(training.choose_model(state)).items():
        assert_close(array, mean[name], tolerance=1e-6)


@pytest.mark.parametrize(
    ("recipe", "moves"),
    [
        ({"train": ("readout",)}, lambda name: name.startswith(".readout")),
        ({"train": ("readout.head", "position")}, lambda name: "readout.head" in name or "position" in name),
        ({"freeze": ("backbone.patch", "mlp")}, lambda name: ".patch." not in name and "mlp" not in name),
        ({"train": ("backbone",), "freeze": ("encoder",)}, lambda name: "backbone" in name and "encoder" not in name),
    ],
)
def test_what_is_not_trained_stays_to_the_bit(model: vitrail.ViT, recipe: Any, moves: Any):
    training = make_training(recipe=dataclasses.replace(PLAIN, weight_decay=0.5, **recipe))
    state = take_steps(training, model, 2)
    before = parameters(model)
    changed = {name for name, array in parameters(state.model).items() if not np.array_equal(array, before[name])}
    assert changed == {name for name in before if moves(name)}
    moments = [leaf.size for leaf in jax.tree.leaves(state.optimiser) if leaf.ndim]
    assert sum(moments) == 2 * sum(before[name].size for name in changed)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"train": ("redout",)}, "train and freeze must name parts of the model, got 'redout': it has backbone"),
        ({"freeze": ("backbone", "readout")}, "something must be trained, got"),
    ],
)
def test_parts_that_are_not_there_are_named(model: vitrail.ViT, recipe: Any, message: str):
    with pytest.raises(ValueError, match=message):
        make_training(recipe=dataclasses.replace(PLAIN, **recipe)).start(model, key=jax.random.key(0))


def test_learning_rates_fall_towards_the_image(model: vitrail.ViT):
    steps = []
    for decay in (1.0, 0.5):
        recipe = dataclasses.replace(PLAIN, optimiser="sgd", layer_decay=decay, weight_decay=0.0, clip_norm=None)
        moved = parameters(take_steps(make_training(recipe=recipe), model, 1).model)
        steps.append({name: np.asarray(moved[name]) - np.asarray(x) for name, x in parameters(model).items()})
    plain, scaled = steps
    first, last = 0.5**3, 1.0
    assert_close(scaled[".backbone.patch.weight"], first * plain[".backbone.patch.weight"], tolerance=1e-2)
    assert_close(scaled[".readout.head.linear.weight"], last * plain[".readout.head.linear.weight"], tolerance=1e-2)
    name = next(name for name in plain if name.endswith("mlp.out.weight"))
    for block, factor in enumerate((0.25, 0.5)):
        assert_close(scaled[name][block], factor * plain[name][block], tolerance=1e-2)


def test_the_learning_rate_rises_and_falls():
    recipe = train.Recipe(learning_rate=2.0, warmup=0.25, batch_size=128, scale_learning_rate=True)
    for schedule, end in (("cosine", 0.0), ("linear", 0.0), ("constant", 1.0)):
        rate = train.make_schedule(dataclasses.replace(recipe, schedule=schedule), 40)
        values = np.array([float(rate(step)) for step in range(41)])
        assert_close(values[:11], np.arange(11) / 10, tolerance=1e-6)
        assert values[40] == pytest.approx(end, abs=1e-6)
    assert float(train.make_schedule(recipe, 40)(25)) == pytest.approx(0.5)


def test_contrasts_equal_their_sums():
    logits = np.random.default_rng(0).normal(size=(6, 6))
    exp = np.exp(logits)
    softmax = -np.mean([np.log(exp[i, i] / exp[i].sum()) + np.log(exp[i, i] / exp[:, i].sum()) for i in range(6)]) / 2
    signs = np.where(np.eye(6), 1, -1)
    sigmoid = sum(np.log1p(np.exp(-signs * logits)).ravel()) / 6
    assert float(train.contrast(jnp.asarray(logits, jnp.float32))) == pytest.approx(softmax, rel=1e-6)
    assert float(train.contrast_pairs(jnp.asarray(logits, jnp.float32))) == pytest.approx(sigmoid, rel=1e-6)


def test_cross_entropies_equal_their_sums():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(4, 3)), np.array([0, 2, 1, 1])
    targets = 0.9 * np.eye(3)[labels] + 0.1 / 3
    given = jnp.asarray(logits, jnp.float32), train.make_targets(jnp.asarray(labels), 3, 0.1)
    softmax = -np.mean(np.sum(targets * (logits - np.log(np.exp(logits).sum(1, keepdims=True))), axis=1))
    chance = 1 / (1 + np.exp(-logits))
    sigmoid = -np.mean(np.sum(targets * np.log(chance) + (1 - targets) * np.log(1 - chance), axis=1))
    assert float(train.cross_entropy(*given)) == pytest.approx(softmax, rel=1e-6)
    assert float(train.cross_entropy(*given, "sigmoid")) == pytest.approx(sigmoid, rel=1e-6)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_a_mixture_has_the_target_of_its_pixels(mixup: float, cutmix: float):
    """A model that returns the mean of each image, whose images are of one colour each, returns the mixture."""

    class Mean(eqx.Module):
        def __call__(self, image: jax.Array, *, key: Any = None) -> jax.Array:
            return jnp.log(jnp.maximum(jnp.mean(image, axis=(0, 1)), 1e-12))

    colours = np.eye(3)[np.array([0, 1, 2, 0, 1, 1])]
    pixels = jnp.asarray(np.broadcast_to(255 * colours[:, None, None], (6, 10, 14, 3)))
    identity = images.Preprocess("cover", "bicubic", (0.0,) * 3, (1.0,) * 3)
    objective = train.ClassifyObjective(preprocess=identity, mixup=mixup, cutmix=cutmix)
    batch = {"image": pixels, "label": jnp.asarray(np.argmax(colours, axis=1))}
    shares = set()
    for seed in range(4):
        loss, _ = objective(Mean(), batch, carried=(), progress=jnp.zeros(()), key=jax.random.key(seed))
        # Where the shares of the pixels are the targets, the loss is their entropy: the least that there is.
        found, _ = objective._mix(pixels / 255, key=jax.random.split(jax.random.key(seed))[0])
        parts = np.asarray(found).mean(axis=(1, 2))
        entropy = -np.mean(np.sum(parts * np.log(np.maximum(parts, 1e-30)), axis=1))
        assert float(loss) == pytest.approx(entropy, abs=1e-5)
        shares.add(round(float(parts[0, 0]), 4))
    assert len(shares) > 1


def test_the_teacher_follows_the_student(model: vitrail.ViT):
    training = make_training("dino", **OBJECTIVES["dino"] | {"momentum": 0.9})
    prepared = training.objective.prepare(model, key=jax.random.key(1))
    state = training.start(prepared, key=jax.random.key(2))
    cut = images.MultiCrop(image_size=(8, 12), patch_size=(4, 4), num_small=1)
    pictures = [images.to_picture(image, 3) for image in make_batch()["image"]]
    crops = [cut(picture, random=np.random.default_rng(seed)) for seed, picture in enumerate(pictures)]
    batch = {name: np.stack([each[name] for each in crops]) for name in ("large", "small")}
    batch = training.objective.add_inputs(prepared, batch, seed=0)
    state, _ = training.step(state, {name: jnp.asarray(array) for name, array in batch.items()})
    teacher, student, before = (parameters(each) for each in (state.carried["teacher"], state.model, prepared))
    for name, array in before.items():
        expected = 0.9 * np.asarray(array, np.float64) + 0.1 * np.asarray(student[name])
        assert_close(teacher[name], expected, tolerance=1e-6)
    assert isinstance(state.model, systems.DINO)
    assert training.choose_model(state) is state.carried["teacher"]
    averaged = make_training("dino", recipe=dataclasses.replace(PLAIN, average=0.9), **OBJECTIVES["dino"])
    state = averaged.start(prepared, key=jax.random.key(2))
    zeros = dataclasses.replace(state, average=jax.tree.map(jnp.zeros_like, state.average))
    assert not any(array.any() for array in parameters(averaged.choose_model(zeros)).values())


def test_a_report_can_end_a_run(model: vitrail.ViT):
    examples = images.Examples(make_batch(number=40)["image"], make_batch(number=40)["label"])
    data = images.Dataset("noise", examples, examples, tuple("abcde"), PREPROCESS)
    kept: list[vitrail.ViT] = []

    def report(progress: train.Progress) -> None:
        if progress.step == 20:
            kept.append(jax.tree.map(lambda x: jnp.array(x) if eqx.is_array(x) else x, progress.state.model))
            raise train.StopTraining

    recipe = dataclasses.replace(PLAIN, epochs=10)
    ended = train.fit(model, data, recipe, key=jax.random.key(0), report=report)
    for name, array in parameters(ended).items():
        assert np.array_equal(array, parameters(kept[0])[name])


def test_recipes_are_written_and_read():
    for recipe in train.RECIPES.values():
        assert train.Recipe.from_json(recipe.to_json()) == recipe


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_keep_the_contract(name: str):
    check_objective(train.OBJECTIVES.configure(name, **OBJECTIVES[name]))


@final
class Counting(train.AbstractObjective):
    """The mean of a linear readout, wrong in one thing."""

    inputs = ("image",)
    wrong: str = eqx.field(static=True)

    def __init__(self, *, wrong: str = ""):
        self.wrong = wrong

    def prepare(self, model: Any, *, key: Any) -> Any:
        return jax.tree.map(lambda x: x + 1 if eqx.is_array(x) else x, model) if self.wrong == "arrays" else model

    def start(self, model: Any) -> Any:
        return jnp.zeros((), jnp.int32)

    def __call__(self, model: Any, batch: Any, *, carried: Any, progress: Any, key: Any) -> Any:
        images = batch["image"] / 255
        if self.wrong == "input":
            images = images * batch["label"].mean()
        logits = jax.vmap(model)(jax.lax.stop_gradient(images))
        loss = jnp.mean(jnp.square(logits))
        if self.wrong == "slope":
            loss = 2 * loss - jax.lax.stop_gradient(loss)
        elif self.wrong == "gradient":
            loss = jax.lax.stop_gradient(loss)
        elif self.wrong == "mean":
            loss = loss * len(images)
        elif self.wrong == "finite":
            loss = loss / progress
        carried = carried + jnp.float32(1) if self.wrong == "carried" else carried + 1
        return loss, train.Outcome({"count": loss}, carried)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("arrays", "prepare must keep the arrays of the model, but changes .* of the backbone"),
        ("input", "it cannot be called: KeyError: 'label'"),
        ("slope", "the loss must rise along its gradient by its square"),
        ("gradient", "the gradient must reach an array of the model, got zeros only"),
        ("mean", "is_mean is true, but the loss of a batch is"),
        ("finite", "loss must be finite, got (inf|nan) at progress 0.0"),
        ("carried", "what a call returns as carried must have the structure, shapes and dtypes"),
    ],
)
def test_a_wrong_objective_is_told_what_is_wrong(wrong: str, message: str):
    with jax.numpy_dtype_promotion("standard"), pytest.raises(ContractError, match=message):
        check_objective(functools.partial(Counting, wrong=wrong))


def test_a_right_objective_of_ones_own():
    check_objective(Counting)


def test_a_recipe_says_how_a_model_is_computed_in_training(model: vitrail.ViT):
    """The loss in bfloat16 is that of float32 but for rounding, and the arrays stay in float32."""
    losses = []
    for dtype in ("float32", "bfloat16"):
        recipe = dataclasses.replace(PLAIN, compute_dtype=dtype, dropout=vitrail.Dropout(rate=0.0))
        training = make_training(recipe=recipe)
        state = training.start(training.objective.prepare(model, key=jax.random.key(1)), key=jax.random.key(2))
        batch = {name: jnp.asarray(array) for name, array in make_batch().items()}
        state, metrics = training.step(state, batch)
        assert state.model.backbone.execution.compute_dtype == dtype
        assert {array.dtype for array in parameters(state.model).values()} == {np.dtype(np.float32)}
        losses.append(float(metrics["loss"]))
    assert losses[0] != losses[1]
    assert abs(losses[0] - losses[1]) < 2e-2 * losses[0]
    drop = dataclasses.replace(PLAIN, dropout=vitrail.Dropout(rate=0.5))
    dropped = [take_steps(make_training(recipe=recipe), model, 1) for recipe in (PLAIN, drop)]
    assert not np.array_equal(dropped[0].model.readout.head.linear.weight, dropped[1].model.readout.head.linear.weight)
    assert train.Recipe.from_json(drop.to_json()) == drop
    with pytest.raises(ValueError, match="compute_dtype and dropout of a recipe need a ViT or a system, got a Linear"):
        make_training(recipe=drop).start(model.readout.head.linear, key=jax.random.key(0))


@final
class Returning(train.AbstractObjective):
    """Returns what a function makes of its loss."""

    make: Any = eqx.field(static=True)

    def __init__(self, make: Any):
        self.make = make

    def prepare(self, model: Any, *, key: Any) -> Any:
        return model

    def __call__(self, model: Any, batch: Any, *, carried: Any, progress: Any, key: Any) -> Any:
        return self.make(jnp.mean(jnp.square(jax.vmap(model)(batch["image"] / 255))))


NONE = train.Outcome({})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: (x[None], NONE), r"return the loss as .* got an array of float32 and shape \(1,\): take its mean"),
        (lambda x: (x.astype(jnp.int32), NONE), "return the loss as .* got an array of int32 and shape"),
        (lambda x: (x > 0, NONE), "got an array of bool"),
        (lambda x: (jax.lax.complex(x, x), NONE), "got an array of complex64"),
        (lambda x: (0.5, NONE), "got the float 0.5"),
        (lambda x: (np.float32(1), NONE), "got the float32 1.0"),
        (lambda x: (None, NONE), "return the loss as .* got None"),
        (lambda x: x, "must return two values, the loss and an Outcome, got a float32 array"),
        (lambda x: None, "must return two values, the loss and an Outcome, got None"),
        (lambda x: (x, NONE, x), "got 3 values"),
        (lambda x: [x, NONE], "got a list"),
        (lambda x: (x, {"a": x}), r"an Outcome after the loss, got a dict .*: write vitrail.train.Outcome\(metrics\)"),
        (lambda x: (NONE, x), "an Outcome after the loss, got a float32 array"),
        (lambda x: (x, train.Outcome({"a": 3.0})), "metrics of .*Outcome.* got the float 3.0 as item 'a'"),
        (lambda x: (x, train.Outcome({"a": x[None]})), r"shape \(1,\) as item 'a'"),
        (lambda x: (x, train.Outcome({"loss": x})), "metrics of other names than 'loss'"),
        (lambda x: (x, train.Outcome({}, x)), "must return the carried values with the structure, shapes and dtypes"),
    ],
)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_what_an_objective_returns_is_said_in_words(model: vitrail.ViT, make: Any, message: str, accumulate: int):
    if accumulate == 2 and "carried" in message:
        return  # nothing is carried between parts
    training = train.Training(Returning(make), dataclasses.replace(PLAIN, accumulate=accumulate), 10)
    state = training.start(model, key=jax.random.key(0))
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        training.step(state, {"image": jnp.asarray(make_batch()["image"])})
    assert "_differentiate" not in str(caught.value).splitlines()[0]


@pytest.mark.parametrize(
    ("finish", "message"),
    [
        (lambda model, carried: model, "finish of .* must return the model and the carried values"),
        (lambda model, carried: (model, jnp.zeros(())), "the carried values of finish with the structure"),
        (lambda model, carried: (model.readout, carried), "the model of finish with the structure"),
        (
            lambda model, carried: (jax.tree.map(lambda x: x.astype(jnp.bfloat16), model), carried),
            r"was float32\[.*\] and is bfloat16",
        ),
    ],
)
def test_what_finish_returns_is_said_in_words(model: vitrail.ViT, finish: Any, message: str):
    class Finishing(train.AbstractObjective):
        def prepare(self, model: Any, *, key: Any) -> Any:
            return model

        def __call__(self, model: Any, batch: Any, *, carried: Any, progress: Any, key: Any) -> Any:
            return jnp.mean(jax.vmap(model)(batch["image"] / 255)), NONE

        def finish(self, model: Any, carried: Any, *, progress: Any) -> Any:
            return finish(model, carried)

    training = train.Training(Finishing(), PLAIN, 10)
    state = training.start(model, key=jax.random.key(0))
    with pytest.raises((TypeError, ValueError), match=message):
        training.step(state, {"image": jnp.asarray(make_batch()["image"])})


def test_what_is_carried_is_not_lost_between_parts(model: vitrail.ViT):
    training = train.Training(Counting(), dataclasses.replace(PLAIN, accumulate=2), 10)
    state = training.start(model, key=jax.random.key(0))
    with pytest.raises(ValueError, match="accumulate must be 1 for the objective Counting, which carries arrays"):
        training.step(state, {"image": jnp.asarray(make_batch()["image"])})


@pytest.mark.parametrize("inputs", ["image", ["image"], (), ("image", 1), None])
def test_inputs_of_an_objective_are_a_tuple_of_names(inputs: Any):
    class Own(train.AbstractObjective):
        def prepare(self, model: Any, *, key: Any) -> Any:
            return model

        def __call__(self, model: Any, batch: Any, *, carried: Any, progress: Any, key: Any) -> Any:
            raise NotImplementedError

    Own.inputs = inputs
    with pytest.raises(
        TypeError, match=r"inputs of Own must be a tuple of names of arrays, as \('image', 'label'\), got"
    ):
        Own()
    Own.inputs, Own.is_mean = ("image",), "no"  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(TypeError, match="is_mean of Own must be True or False, got the string 'no'"):
        Own()
