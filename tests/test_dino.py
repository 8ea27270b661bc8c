"""DINO: its losses by loops in float64, its forward by its parts, student and teacher, and several crops."""

import dataclasses
import math
from pathlib import Path
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_cases import TOLERANCE
from helpers import assert_close, assert_trees_close, parameters, random_array, run, small_config
from safetensors.numpy import save_file
from system_cases import compare, load_system_cases

import vitrail
from vitrail import systems
from vitrail.testing import randomise

HEAD = vitrail.HEADS.configure("projection", hidden_dim=10, bottleneck_dim=6)
PATCH_HEAD = vitrail.HEADS.configure("projection", hidden_dim=7, bottleneck_dim=5, layers=2)


def config(**changes: Any) -> vitrail.DINOConfig:
    image = small_config(pool="cls", head="none", num_classes=None, num_registers=1)
    return vitrail.DINOConfig(
        **{"image": image, "num_prototypes": 9, "head": HEAD, "patch_head": PATCH_HEAD, "mask_token": True} | changes
    )


@pytest.fixture(scope="module")
def network() -> vitrail.DINO:
    return randomise(lambda: config(num_patch_prototypes=11).build(key=jax.random.key(0)))


def softmax(x: np.ndarray) -> np.ndarray:
    exponentials = np.exp(x - x.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def wide(x: Any) -> np.ndarray:
    return np.asarray(x, np.float64)


# The head --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("scaled", [True, False])
def test_scores_are_cosines_with_the_prototypes_times_their_scales(layers: int, scaled: bool) -> None:
    head = randomise(
        lambda: vitrail.ProjectionHead(
            16, num_classes=9, layers=layers, hidden_dim=10, bottleneck_dim=6, scaled=scaled, key=jax.random.key(0)
        )
    )
    x = random_array(4, 16)
    assert len(head.hidden) == layers - 1
    assert (head.scales is None) == (not scaled)
    for row, found in zip(wide(x), head(x), strict=True):
        for layer in head.hidden:
            row = wide(layer.weight) @ row + wide(layer.bias)
            row = np.array([v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in row])
        z = wide(head.bottleneck.weight) @ row + wide(head.bottleneck.bias)
        cosines = [z @ v / math.sqrt(z @ z) / math.sqrt(v @ v) for v in wide(head.directions)]
        assert_close(found, np.array(cosines) * (1 if head.scales is None else wide(head.scales)))


def test_a_bottleneck_of_zeros_has_a_gradient() -> None:
    head = vitrail.ProjectionHead(4, num_classes=3, hidden_dim=5, bottleneck_dim=2, key=jax.random.key(0))
    gradient = eqx.filter_grad(lambda head: jnp.sum(head(jnp.zeros(4))))(head)
    assert np.array_equal(head(jnp.zeros(4)), np.zeros(3))
    assert all(np.isfinite(array).all() for array in parameters(gradient).values())


def test_fresh_prototypes_are_drawn_as_pytorch_draws_a_linear_layer() -> None:
    head = vitrail.ProjectionHead(8, num_classes=4000, hidden_dim=5, bottleneck_dim=16, key=jax.random.key(0))
    directions = wide(head.directions)
    assert np.abs(directions).max() <= 0.25  # uniform between -1 and 1 over the root of the width
    assert directions.std() == pytest.approx(0.25 / math.sqrt(3), rel=0.01)
    assert np.array_equal(head.scales, np.ones(4000))


# What the teacher's scores go through ------------------------------------------------------------------------------


def test_centring_subtracts_the_centre_before_it_sharpens() -> None:
    scores, centre = random_array(2, 3, 5), random_array(5, seed=1)
    found = systems.centre_scores(scores, centre, temperature=0.07)
    assert_close(found, softmax((wide(scores) - wide(centre)) / 0.07))


def test_the_centre_moves_towards_the_mean_of_the_rows_that_count() -> None:
    scores, centre = random_array(2, 3, 5), random_array(5, seed=1)
    mean = wide(scores).reshape(6, 5).mean(axis=0)
    assert_close(systems.update_centre(centre, scores), 0.9 * wide(centre) + 0.1 * mean)
    mask = jnp.asarray([[True, False, True], [False, False, True]])
    mean = (wide(scores)[0, 0] + wide(scores)[0, 2] + wide(scores)[1, 2]) / 3
    found = systems.update_centre(centre, scores, momentum=0.25, mask=mask)
    assert_close(found, 0.25 * wide(centre) + 0.75 * mean)
    assert np.array_equal(systems.update_centre(centre, scores, mask=jnp.zeros((2, 3), bool)), centre)


def by_sinkhorn(scores: np.ndarray, temperature: float, iterations: int) -> np.ndarray:
    """Rows are images: columns brought to one over their number, then rows to one over theirs."""
    shares = np.exp(scores / temperature)
    for _ in range(iterations):
        shares /= shares.sum(axis=0) * shares.shape[1]
        shares /= shares.sum(axis=1, keepdims=True) * shares.shape[0]
    return shares * shares.shape[0]


@pytest.mark.parametrize("iterations", [1, 3])
def test_sinkhorn_knopp_divides_columns_and_rows_in_turn(iterations: int) -> None:
    scores = random_array(2, 4, 5)
    found = systems.sinkhorn_knopp(scores, temperature=0.3, iterations=iterations)
    assert_close(found, by_sinkhorn(wide(scores).reshape(8, 5), 0.3, iterations).reshape(2, 4, 5))
    mask = jnp.asarray(np.random.default_rng(0).random((2, 4)) < 0.6)
    found = systems.sinkhorn_knopp(scores, temperature=0.3, iterations=iterations, mask=mask)
    assert_close(found[mask], by_sinkhorn(wide(scores[mask]), 0.3, iterations))
    assert not np.any(found[~mask])


def test_sinkhorn_knopp_uses_prototypes_alike_and_does_not_overflow() -> None:
    scores = 100 * random_array(40, 5)
    found = systems.sinkhorn_knopp(scores, temperature=0.04, iterations=300)
    assert np.isfinite(found).all()
    assert_close(found.sum(axis=1), np.ones(40))
    soft = systems.sinkhorn_knopp(random_array(40, 5), temperature=0.5, iterations=100)
    assert_close(soft.sum(axis=0), np.full(5, 8.0), tolerance=1e-4)
    nothing = systems.sinkhorn_knopp(scores, temperature=0.1, mask=jnp.zeros(40, bool))
    assert np.array_equal(nothing, np.zeros((40, 5)))


# Losses ----------------------------------------------------------------------------------------------------------


def test_the_loss_of_dino_is_the_mean_over_pairs_of_other_crops() -> None:
    student, teacher = random_array(5, 3, 7), systems.centre_scores(random_array(2, 3, 7), jnp.zeros(7), temperature=1)
    terms: list[float] = []
    for t in range(2):
        for s in range(5):
            if s != t:
                logarithms = np.log(softmax(wide(student[s]) / 0.1))
                terms.append(float(-(wide(teacher[t]) * logarithms).sum(axis=-1).mean()))
    assert len(terms) == 8
    assert_close(systems.dino_loss(student, teacher), np.mean(terms))


@pytest.mark.parametrize(("students", "teachers"), [(1, 1), (1, 2), (0, 1)])
def test_the_loss_of_dino_needs_another_crop(students: int, teachers: int) -> None:
    with pytest.raises(ValueError, match=rf"student must have the crops of the teacher .*, got {students} crops"):
        systems.dino_loss(jnp.zeros((students, 3, 7)), jnp.zeros((teachers, 3, 7)))


def test_the_loss_of_ibot_is_the_mean_over_images_of_the_mean_over_hidden_patches() -> None:
    hidden = np.array([[True, False, True, True], [False] * 4, [False, True, False, False]])
    student = random_array(3, 4, 7)
    teacher = systems.centre_scores(random_array(3, 4, 7, seed=1), jnp.zeros(7), temperature=0.5)
    images: list[float] = []
    for i in range(3):
        terms = [
            -(wide(teacher[i, p]) * np.log(softmax(wide(student[i, p]) / 0.2))).sum() for p in range(4) if hidden[i, p]
        ]
        images.append(sum(terms) / max(len(terms), 1))
    assert_close(systems.ibot_loss(student, teacher, jnp.asarray(hidden), temperature=0.2), np.mean(images))

    places, valid = jax.vmap(lambda row: systems.pick_hidden(row, 3))(jnp.asarray(hidden))
    assert np.array_equal(valid, [[True] * 3, [False] * 3, [True, False, False]])
    picked = [jnp.take_along_axis(array, places[..., None], axis=1) for array in (student, teacher)]
    assert_close(systems.ibot_loss(*picked, valid, temperature=0.2), np.mean(images))


def test_koleo_is_the_logarithm_of_the_distance_to_the_nearest() -> None:
    x = random_array(6, 4)
    unit = wide(x) / np.linalg.norm(wide(x), axis=1, keepdims=True)
    nearest = [min(math.dist(unit[i], unit[j]) for j in range(6) if j != i) for i in range(6)]
    assert_close(systems.koleo_loss(x), -np.mean(np.log(nearest)))
    with pytest.raises(ValueError, match="embeddings must be at least two, got 1"):
        systems.koleo_loss(x[:1])
    twins = jnp.concatenate([x[:2], x[:2]])
    assert np.isfinite(jax.grad(systems.koleo_loss)(twins)).all()


def test_no_gradient_reaches_the_teacher() -> None:
    def compute(scores: jax.Array) -> jax.Array:
        shares = systems.centre_scores(scores, jnp.zeros(5), temperature=0.1)
        even = systems.sinkhorn_knopp(scores, temperature=0.1)
        hidden = jnp.ones((2, 3), bool)
        student = random_array(2, 3, 5, seed=3)
        centre = systems.update_centre(jnp.zeros(5), scores)
        losses = [systems.dino_loss(student, shares), systems.ibot_loss(student, even, hidden)]
        return sum(losses, jnp.sum(centre)) + systems.dino_loss(student, jax.nn.softmax(scores, axis=-1))

    assert not np.any(jax.grad(compute)(random_array(2, 3, 5)))


# The network -----------------------------------------------------------------------------------------------------


def test_the_network_is_its_image_model_and_its_heads(network: vitrail.DINO) -> None:
    image = random_array(8, 12, 3)
    output = run(network, image)
    tokens = run(network.image.backbone, image)
    assert_close(output.embedding, tokens.class_token)
    assert_close(output.embedding, run(network.image, image))
    assert_close(output.patches, tokens.patches)
    assert_close(output.scores, run(network.head, tokens.class_token))
    assert output.scores.shape == (9,)
    assert_close(run(network.score_patches, tokens.patches), run(network.patch_head, tokens.patches))
    assert run(network.score_patches, tokens.patches).shape == (6, 11)


def test_patches_are_scored_by_the_one_head_if_there_is_no_other() -> None:
    network = randomise(lambda: config(patch_head=None).build(key=jax.random.key(0)))
    assert network.patch_head is None
    patches = random_array(6, 16)
    assert_close(run(network.score_patches, patches), run(network.head, patches))


def test_a_hidden_patch_is_the_mask_token_at_its_position(network: vitrail.DINO) -> None:
    image, hidden = random_array(8, 12, 3), np.array([True, False, False, True, True, False])
    backbone = network.image.backbone
    embedded = run(backbone.embed, image)
    rows = np.array(embedded.patches)
    for i in np.flatnonzero(hidden):
        rows[i] = network.mask_token + backbone.position.patches.reshape(-1, 16)[i]
    expected = run(backbone.encode, dataclasses.replace(embedded, patches=jnp.asarray(rows)))
    output = run(network, image, hidden=hidden)
    assert_close(output.patches, expected.patches)
    assert_close(output.embedding, expected.class_token)
    unseen = np.array(image)
    unseen[:4, :4] = 7.0  # the pixels of a hidden patch
    assert_close(run(network, jnp.asarray(unseen), hidden=hidden).scores, output.scores)


def test_hidden_patches_need_a_mask_token_and_one_value_each(network: vitrail.DINO) -> None:
    image = random_array(8, 12, 3)
    with pytest.raises(ValueError, match=r"hidden must have one value for each of the 6 patches, got shape \(5,\)"):
        network(image, hidden=np.ones(5, bool))
    plain = config(mask_token=False).build(key=jax.random.key(0))
    with pytest.raises(ValueError, match="hidden needs a mask token, got a DINO without one"):
        plain(image, hidden=np.ones(6, bool))


def test_half_precision_computes_the_heads_too(network: vitrail.DINO) -> None:
    image = random_array(8, 12, 3)
    half = network.with_execution(vitrail.Execution(compute_dtype="bfloat16"))
    output = run(half, image)
    assert (output.scores.dtype, output.embedding.dtype) == (jnp.float32, jnp.bfloat16)
    assert_close(output.scores, run(network, image).scores, tolerance=0.1)
    assert half.with_dropout(vitrail.Dropout(0.5)).image.backbone.dropout.rate == 0.5
    assert not np.array_equal(
        run(half.with_dropout(vitrail.Dropout(0.5)), image, key=jax.random.key(0)).scores, output.scores
    )


@final
class DroppingHead(vitrail.AbstractHead):
    """Drops half of the scores of a head in training."""

    inner: vitrail.AbstractHead
    dim: int = eqx.field(static=True)
    out_dim: int = eqx.field(static=True)

    def __init__(self, inner: vitrail.AbstractHead) -> None:
        self.inner = inner
        self.dim = inner.dim
        self.out_dim = inner.out_dim

    def __call__(self, x: Any, *, key: Any = None) -> Any:
        return eqx.nn.Dropout(0.5)(self.inner(x), key=key, inference=key is None)


def test_what_a_head_drops_in_training_is_dropped(network: vitrail.DINO) -> None:
    dropping = eqx.tree_at(lambda n: (n.head, n.patch_head), network, replace_fn=DroppingHead)
    image, key = random_array(8, 12, 3), jax.random.key(0)
    plain, dropped = run(dropping, image), run(dropping, image, key=key)
    assert not np.any(plain.scores == 0)
    assert 0 < np.sum(dropped.scores == 0) < dropped.scores.size
    assert_close(dropped.embedding, plain.embedding)
    scores, fewer = dropping.score_patches(plain.patches), dropping.score_patches(plain.patches, key=key)
    assert_close(fewer, np.where(fewer == 0, 0, 2 * wide(scores)))
    assert 0 < np.sum(fewer == 0) < fewer.size


def test_several_crops_are_each_alone_and_positions_learn_from_small_ones(network: vitrail.DINO) -> None:
    large, small = random_array(2, 3, 8, 12, 3), random_array(2, 3, 8, 8, 3, seed=1)
    hidden = jnp.asarray(np.random.default_rng(0).random((2, 3, 6)) < 0.4)
    output = run(systems.apply_to_crops, network, large, hidden=hidden)
    alone = run(network, large[1, 2], hidden=hidden[1, 2])
    assert output.scores.shape == (2, 3, 9)
    assert_trees_close(jax.tree.map(lambda array: array[1, 2], output), alone)
    output = run(systems.apply_to_crops, network, small)
    assert_close(output.scores[0, 1], run(network.resized((8, 8)), small[0, 1]).scores)
    assert network.resized(8).config.image.image_size == (8, 8)

    @eqx.filter_jit
    @eqx.filter_grad
    def differentiate(network: vitrail.DINO) -> jax.Array:
        return jnp.sum(systems.apply_to_crops(network, small, key=jax.random.key(0)).scores ** 2)

    gradient: Any = differentiate(network)
    assert np.all(np.any(np.asarray(gradient.image.backbone.position.patches) != 0, axis=-1))


def test_the_teacher_is_the_running_mean_of_the_student() -> None:
    teacher, student = (randomise(lambda: config().build(key=jax.random.key(0)), seed=seed) for seed in (0, 1))
    student = student.with_dropout(vitrail.Dropout(drop_path=0.3))
    moved = systems.update_teacher(teacher, student, 0.75)
    assert jax.tree.structure(moved) == jax.tree.structure(teacher)
    ours, theirs, both = parameters(teacher), parameters(student), parameters(moved)
    for name, array in both.items():
        assert_close(array, 0.75 * wide(ours[name]) + 0.25 * wide(theirs[name]))
    assert_trees_close(systems.update_teacher(jax.device_get(teacher), jax.device_get(student), 0.75), moved)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), teacher)
    moved = systems.update_teacher(half, student, jnp.asarray(0.75, jnp.float32))
    for name, array in parameters(moved).items():
        assert array.dtype == jnp.bfloat16
        assert_close(array, 0.75 * wide(parameters(half)[name]) + 0.25 * wide(theirs[name]), tolerance=0.01)
    other = config(num_prototypes=8).build(key=jax.random.key(0))
    with pytest.raises(ValueError, match=r"teacher and student must have the same arrays, got others for 'head\.dir"):
        systems.update_teacher(teacher, other, 0.5)


def test_labels_say_what_each_parameter_is(network: vitrail.DINO) -> None:
    labels = vitrail.parameter_labels(network)
    assert labels.mask_token.kind == "token"
    assert (labels.head.directions.kind, labels.head.scales.kind) == ("matrix", "other")
    assert labels.head.bottleneck.bias.kind == "bias"


def test_a_step_of_training_lowers_the_loss_of_the_next(network: vitrail.DINO) -> None:
    """All parts together, compiled: crops of two sizes, hidden patches, both heads, KoLeo, and the teacher's mean."""
    large, small = random_array(2, 4, 8, 12, 3), random_array(3, 4, 4, 8, 3, seed=1)
    hidden = jnp.asarray(np.random.default_rng(0).random((2, 4, 6)) < 0.4)

    def compute(student: vitrail.DINO, teacher: vitrail.DINO) -> jax.Array:
        seen = systems.apply_to_crops(teacher, large)
        target = systems.sinkhorn_knopp(seen.scores, temperature=0.07)
        patches = systems.sinkhorn_knopp(teacher.score_patches(seen.patches), temperature=0.07, mask=hidden)
        outputs = systems.apply_to_crops(student, large, hidden=hidden)
        scores = jnp.concatenate([outputs.scores, systems.apply_to_crops(student, small).scores])
        spread = jnp.mean(jax.vmap(systems.koleo_loss)(outputs.embedding))
        masked = systems.ibot_loss(student.score_patches(outputs.patches), patches, hidden)
        return systems.dino_loss(scores, target) + masked + 0.1 * spread

    @eqx.filter_jit
    def step(student: vitrail.DINO, teacher: vitrail.DINO) -> tuple[jax.Array, vitrail.DINO, vitrail.DINO]:
        loss, gradient = eqx.filter_value_and_grad(compute)(student, teacher)
        student = eqx.apply_updates(student, jax.tree.map(lambda g: -0.01 * g, gradient))
        return loss, student, systems.update_teacher(teacher, student, 0.99)

    student = teacher = network
    losses: list[float] = []
    for _ in range(8):
        loss, student, teacher = step(student, teacher)
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    assert np.isfinite(losses).all()


# The configuration -----------------------------------------------------------------------------------------------


def test_a_configuration_is_json_and_a_file_holds_the_model(network: vitrail.DINO, tmp_path: Path) -> None:
    assert vitrail.DINOConfig.from_json(network.config.to_json()) == network.config
    vitrail.save(network, tmp_path / "dino.safetensors")
    read = vitrail.weights.read_model(tmp_path / "dino.safetensors")
    assert_trees_close(read, network, tolerance=0)
    assert jax.tree.structure(read) == jax.tree.structure(network)


def test_an_image_model_with_a_head_is_refused() -> None:
    with pytest.raises(ValueError, match=r"image must have the head 'none', .* got linear"):
        vitrail.DINOConfig(image=small_config(pool="cls"))
    vitrail.DINOConfig(image=small_config(pool="cls", head=vitrail.PartSpec("none"), num_classes=None))
    with pytest.raises(ValueError, match="num_patch_prototypes needs a patch_head, got 5 and None"):
        config(patch_head=None, num_patch_prototypes=5)


def test_a_fresh_network_has_a_mask_token_of_zeros() -> None:
    assert np.array_equal(config().build(key=jax.random.key(0)).mask_token, np.zeros(16))


# Checkpoints of Meta ---------------------------------------------------------------------------------------------

SYSTEM_CASES = {name: case for name, case in load_system_cases().items() if name.startswith("Meta DINO")}


def test_what_a_run_needs_alone_is_ignored_and_said(tmp_path: Path) -> None:
    case = SYSTEM_CASES["Meta DINO, the teacher of a run"]
    path = case.publish(tmp_path)
    card = vitrail.model_card(path, **case.options)
    assert (card.layout, card.kind, card.missing, card.unknown) == ("dino", "dino", (), ())
    assert {name.partition(".")[0] for name in card.ignored} == {"student", "dino_loss"}
    model: vitrail.DINO = vitrail.load(path, **case.options)
    assert (model.config.num_prototypes, model.config.patch_head, model.mask_token) == (20, None, None)
    assert np.array_equal(model.head.directions, case.tensors()["teacher.head.last_layer.weight_v"])
    student: vitrail.DINO = vitrail.load(path, prefix="student.module.", **case.options)
    assert np.array_equal(student.head.directions, case.tensors()["student.module.head.last_layer.weight_v"])
    image = vitrail.load(path, part="image", **case.options)
    assert image.config.position == vitrail.POSITIONS.configure("learned", covers_prefix=True, resize="dinov2_offset")
    with pytest.raises(ValueError, match="model must have"):
        vitrail.save(model, tmp_path / "folder", layout="timm")


def test_a_new_name_of_pytorch_for_normalised_weights_is_known(tmp_path: Path) -> None:
    case = SYSTEM_CASES["Meta DINOv2, one head for patches"]
    tensors = {
        name.replace("weight_g", "parametrizations.weight.original0").replace(
            "weight_v", "parametrizations.weight.original1"
        ): array
        for name, array in case.tensors().items()
    }
    assert tensors.keys() != case.tensors().keys()
    save_file(tensors, tmp_path / "model.safetensors")
    found = compare(case, tmp_path / "model.safetensors")
    assert max(found.values()) <= TOLERANCE


def test_a_file_that_is_not_whole_is_one_error(tmp_path: Path) -> None:
    case = SYSTEM_CASES["Meta DINO, the teacher of a run"]
    tensors, path = case.tensors(), tmp_path / "model.safetensors"
    start = "teacher.head."
    for change, message in (
        ({f"{start}mlp.1.running_mean": np.zeros(10, np.float32)}, r"batch normalisation .*: pass part='image'"),
        ({f"{start}mlp.2.weight": None}, r"lacks 'head\.mlp\.2\.weight' for 'head\.hidden\.1\.weight'"),
        ({f"{start}mlp.0.weight": np.zeros((10, 15), np.float32)}, r"has 'head\.mlp\.0\.weight' as F32\[10, 15\]"),
        ({f"{start}mlp.{10**12}.weight": np.zeros((2, 2), np.float32)}, r"does not fit 'head\.hidden\.2\.weight'"),
        ({f"{start}last_layer.weight_g": None}, r"lacks 'head\.last_layer\.weight_g'.*for 'head\.scales'"),
        ({f"{start}last_layer.weight_v": np.zeros(3, np.float32)}, r"'head\.last_layer\.weight_v' with 2 axes"),
        (
            {f"{start}surprise": np.zeros(3, np.float32)},
            r"has tensors that the model has no place for: 'head\.surprise'",
        ),
    ):
        changed = {name: array for name, array in (tensors | change).items() if array is not None}
        save_file(changed, path)
        with pytest.raises(vitrail.CheckpointError, match=message):
            vitrail.load(path, **case.options)
        alone = vitrail.load(path, part="image", **case.options)
        assert type(alone) is vitrail.ViT
