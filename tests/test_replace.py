"""Surgery: what is named is new, what is not stays the same arrays, and the configuration says what there is."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, builtins, final_norm, image_for, parameters, prefix_of, run, small_config, small_model

import vitrail
from vitrail import HEADS, POOLS, POSITIONS

KEY = jax.random.key(7)
NAMES = builtins(POOLS)


def same_arrays(a: Any, b: Any) -> bool:
    """Whether two trees hold the very same arrays."""
    leaves, others = jax.tree.leaves(a), jax.tree.leaves(b)
    return len(leaves) == len(others) and all(x is y for x, y in zip(leaves, others, strict=True))


def is_what_its_configuration_builds(model: vitrail.ViT) -> bool:
    """Whether the configuration, through JSON, builds a model of this structure, these shapes and dtypes."""
    config = vitrail.ViTConfig.from_json(model.config.to_json())
    built = eqx.filter_eval_shape(config.build, key=KEY)
    return bool(eqx.tree_equal(built, eqx.filter_eval_shape(lambda: model)))


def part_of(model: vitrail.ViT, name: str) -> Any:
    """A part of a model by its name; `prefix` for class token and registers, `norm` for the final norm."""
    if name == "prefix":
        return model.backbone.class_token, model.backbone.registers
    if name == "norm":
        return final_norm(model)
    return getattr(model.readout if name in ("pool", "head") else model.backbone, name)


@pytest.mark.parametrize(
    ("name", "norm_order"),
    [(name, order) for name in NAMES for order in ("norm_pool", "pool_norm")]
    + [(a, "norm_pool") for a in POOLS.aliases],
)
def test_every_pool_goes_on_a_model_that_is_there(name: str, norm_order: Any) -> None:
    model = small_model(num_registers=1)
    replaced = vitrail.replace(model, pool=name, norm_order=norm_order, key=KEY)
    assert type(replaced.readout.pool) is POOLS[name]
    assert (replaced.config.pool, replaced.config.norm_order) == (name, norm_order)
    assert is_what_its_configuration_builds(replaced)
    for part in ("patch", "encoder"):
        assert same_arrays(part_of(replaced, part), part_of(model, part))
    wide = replaced.readout.pool.out_dim != model.readout.pool.out_dim
    assert same_arrays(replaced.readout.head, model.readout.head) != wide
    assert same_arrays(final_norm(replaced), final_norm(model)) == (not wide or norm_order == "norm_pool")
    assert prefix_of(replaced.backbone).shape[0] == 1 + replaced.readout.pool.needs_class_token
    # The numbers of every pool in a model are in test_pools.py.
    logits = eqx.filter_eval_shape(replaced, image_for(replaced))
    assert logits.shape == ((len(prefix_of(replaced.backbone)) + 6, 5) if name == "none" else (5,))


@pytest.mark.parametrize("name", NAMES)
def test_every_pool_goes_and_the_old_model_is_back(name: str) -> None:
    model = small_model(num_registers=2, position=POSITIONS.configure("learned"))
    there = vitrail.replace(model, pool=name, key=KEY)
    back = vitrail.replace(there, pool="mean", key=KEY)
    assert back.config == model.config
    for part in ("patch", "encoder", "norm"):
        assert same_arrays(part_of(back, part), part_of(model, part))
    # Rows were put before those of the registers and taken away again.
    assert np.array_equal(prefix_of(back.backbone), prefix_of(model.backbone))
    assert eqx.tree_equal(back.backbone.position, model.backbone.position)


def test_nothing_named_nothing_new() -> None:
    model = small_model(pool="cls", num_registers=1)
    replaced = vitrail.replace(model, key=KEY)
    assert same_arrays(replaced, model)
    assert replaced.config == model.config


def test_the_old_model_stays_as_it_is() -> None:
    model = small_model()
    image, before = image_for(model), parameters(model)
    logits = run(model, image)
    vitrail.replace(model, pool="cls", num_classes=9, position="sincos2d", norm_order="pool_norm", key=KEY)
    assert all(parameters(model)[name] is leaf for name, leaf in before.items())
    assert model.config == small_config()
    assert np.array_equal(run(model, image), logits)


@pytest.mark.parametrize("position", ["learned", POSITIONS.configure("learned", covers_prefix=False), "rope", "none"])
def test_a_class_token_comes_before_the_registers_with_its_row_and_goes_with_it(position: Any) -> None:
    model = small_model(num_registers=2, position=position)
    read = vitrail.replace(model, pool="cls", key=KEY)
    assert prefix_of(read.backbone).shape == (3, 16)
    assert np.array_equal(prefix_of(read.backbone)[1:], prefix_of(model.backbone))
    if position == "learned":
        assert np.array_equal(prefix_of(read.backbone.position)[1:], prefix_of(model.backbone.position))  # type: ignore[attr-defined]
        assert np.array_equal(read.backbone.position.patches, model.backbone.position.patches)  # type: ignore[attr-defined]
        assert 0.005 < float(jnp.std(prefix_of(read.backbone.position)[0])) < 0.04  # type: ignore[attr-defined]  # drawn, by 0.02
    else:
        assert same_arrays(read.backbone.position, model.backbone.position)
    tokens = run(read.backbone, image_for(read))
    assert (tokens.num_prefix, tokens.class_token is not None) == (3, True)
    tokens = run(vitrail.replace(read, pool="mean", key=KEY).backbone, image_for(read))
    assert (tokens.num_prefix, tokens.class_token is not None) == (2, False)


def test_a_class_token_that_was_asked_for_stays() -> None:
    model = small_model(pool="cls", class_token=True)
    replaced = vitrail.replace(model, pool="mean", key=KEY)
    assert replaced.backbone.class_token is model.backbone.class_token
    assert same_arrays(replaced.backbone.position, model.backbone.position)

    auto = small_model(pool="cls")
    assert prefix_of(vitrail.replace(auto, pool="mean", key=KEY).backbone).shape[0] == 0
    kept = vitrail.replace(auto, pool="mean", class_token=True, key=KEY)
    assert kept.backbone.class_token is auto.backbone.class_token
    assert kept.config.class_token is True
    assert prefix_of(vitrail.replace(kept, class_token=None, key=KEY).backbone).shape[0] == 0


def test_the_same_tokens_reach_the_new_pool() -> None:
    model = small_model(class_token=True)
    image = image_for(model)
    tokens = run(model.backbone, image)
    replaced = vitrail.replace(model, pool="cls_mean", head="none", num_classes=None, key=KEY)
    expected = np.concatenate([tokens.class_token, np.asarray(tokens.patches, np.float64).mean(axis=0)])
    np.testing.assert_allclose(run(replaced, image), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_the_number_of_classes_changes_with_a_new_head(head: str) -> None:
    model = small_model(head=head)
    replaced = vitrail.replace(model, num_classes=9, key=KEY)
    assert run(replaced, image_for(replaced)).shape == (9,)
    assert replaced.config == dataclasses.replace(model.config, num_classes=9)
    for part in ("patch", "prefix", "position", "encoder", "norm", "pool"):
        assert same_arrays(part_of(replaced, part), part_of(model, part))
    assert same_arrays(vitrail.replace(model, num_classes=5, key=KEY), model)


def test_the_names_of_classes_and_the_preprocessing_are_changed_without_a_key() -> None:
    preprocess = vitrail.Preprocess("squash", "bilinear", (0.5,) * 3, (0.5,) * 3)
    model = small_model()
    named = vitrail.replace(model, classes=tuple("abcde"), preprocess=preprocess)
    assert (named.config.classes, named.config.preprocess) == (tuple("abcde"), preprocess)
    assert same_arrays(named, model)
    kept = vitrail.replace(named, pool="max", head="mlp", key=KEY)
    assert (kept.config.classes, kept.config.preprocess) == (tuple("abcde"), preprocess)
    fewer = vitrail.replace(named, num_classes=3, key=KEY)
    assert (fewer.config.classes, fewer.config.preprocess) == (None, preprocess)
    assert vitrail.replace(named, num_classes=2, classes=("x", "y"), key=KEY).config.classes == ("x", "y")
    assert vitrail.replace(named, classes=None, preprocess=None).config == model.config


def test_names_alone_change_nothing_else_of_a_model_that_was_taken_apart() -> None:
    model = small_model(pool="cls")
    model = eqx.tree_at(lambda m: m.readout.pool, model, vitrail.MeanPool(16))
    named = vitrail.replace(model, classes=tuple("abcde"))
    assert same_arrays(named, model)
    np.testing.assert_array_equal(run(named, image_for(model)), run(model, image_for(model)))


def test_new_weights_need_a_key() -> None:
    model = small_model()
    assert same_arrays(vitrail.replace(model, pool="max"), model)
    with pytest.raises(ValueError, match=r"need a key for new weights, got None for 'readout\.head\.linear\."):
        vitrail.replace(model, num_classes=3)
    with pytest.raises(ValueError, match=r"got None for 'backbone\.class_token', 'backbone\.position\.class_token'"):
        vitrail.replace(model, pool="cls")
    with pytest.raises(ValueError, match=r"got None for .* and \d+ more: pass key=jax.random.key\(0\)"):
        vitrail.replace(model, pool="cait")


def test_heads_and_positions_are_replaced_by_name_spec_and_class() -> None:
    model = small_model()
    mlp = vitrail.replace(model, head=HEADS.configure("mlp", hidden_dim=7), key=KEY)
    assert mlp.readout.head.hidden.weight.shape == (7, 16)  # type: ignore[attr-defined]
    assert same_arrays(mlp.backbone.encoder, model.backbone.encoder)
    rope = vitrail.replace(model, position="rope", key=KEY)
    assert isinstance(rope.backbone.position, vitrail.RotaryPosition)
    assert same_arrays(rope.readout.head, model.readout.head)
    both = vitrail.replace(model, position=vitrail.LearnedPosition, pool="cls", key=KEY)
    assert prefix_of(both.backbone.position).shape == (1, 16)  # type: ignore[attr-defined]
    features = vitrail.replace(model, head="none", num_classes=None, key=KEY)
    assert run(features, image_for(model)).shape == (16,)
    assert run(vitrail.replace(features, head="linear", num_classes=3, key=KEY), image_for(model)).shape == (3,)


def test_new_weights_follow_the_key_and_the_scheme_of_the_model() -> None:
    model = small_model(init="big_vision")
    one, same, other = (
        vitrail.replace(model, pool="attention", num_classes=6, key=jax.random.key(k)) for k in (1, 1, 2)
    )
    assert eqx.tree_equal(one, same)
    assert not np.array_equal(one.readout.pool.queries, other.readout.pool.queries)  # type: ignore[attr-defined]
    assert not np.array_equal(one.readout.head.linear.weight, other.readout.head.linear.weight)  # type: ignore[attr-defined]
    # Xavier, uniform: at most sqrt(6 / (1 + 16)) for one query.
    assert 0.3 < float(jnp.abs(one.readout.pool.queries).max()) < (6 / 17) ** 0.5  # type: ignore[attr-defined]
    normal = vitrail.replace(small_model(), pool="attention", key=KEY)
    assert float(jnp.abs(normal.readout.pool.queries).max()) < 0.1  # type: ignore[attr-defined]


def test_the_weighted_pool_gets_the_grid_of_the_model_and_follows_it() -> None:
    model = vitrail.replace(small_model(), pool="weighted", key=KEY)
    assert model.readout.pool.scores.shape == model.config.grid == (2, 3)  # type: ignore[attr-defined]
    larger = model.resized((16, 16))
    assert jnp.isfinite(run(larger, image_for(larger))).all()


@pytest.mark.parametrize("name", ["attention", "cls_mean", "cls", "gem"])
def test_jit_and_gradients_work_on_a_replaced_model(name: str) -> None:
    model = vitrail.replace(small_model(), pool=name, key=KEY)
    image = image_for(model)
    assert jnp.isfinite(run(model, image)).all()
    gradient = run(eqx.filter_grad(lambda m: jax.nn.logsumexp(m(image))), model)
    assert all(jnp.isfinite(leaf).all() for leaf in parameters(gradient).values())
    if parameters(model.readout.pool):
        assert any(jnp.any(leaf != 0) for leaf in parameters(gradient.readout.pool).values())
    compiled = eqx.filter_jit(vitrail.replace)(small_model(), pool=name, key=KEY)
    assert compiled.config == model.config


@pytest.mark.parametrize(
    ("built", "changes", "message"),
    [
        (
            {"class_token": False},
            {"pool": "cls"},
            r"the pool 'cls' reads the class token, got class_token=False: use class_token=None",
        ),
        ({"pool": "cls"}, {"class_token": False}, r"the pool 'cls' reads the class token, got class_token=False"),
        ({}, {"head": "none"}, r"num_classes must be None for the head 'none', got 5"),
        ({}, {"num_classes": None}, r"num_classes must be a positive whole number.*head='none'"),
        ({"head": "none", "num_classes": None}, {"num_classes": 3}, r"num_classes must be None for the head 'none'"),
        ({}, {"num_classes": 0}, r"num_classes must be a positive whole number.*got 0"),
        ({}, {"pool": POOLS.configure("attention", num_heads=3)}, r"dim must be divisible by num_heads"),
        ({}, {"pool": "meen"}, r"there is no pool 'meen': did you mean 'mean'"),
        ({}, {"pool": vitrail.PartSpec("mean", (("power", 2),))}, r"the pool 'mean' has no option 'power'"),
        ({}, {"pool": vitrail.LinearHead}, r"a pool must be a class that extends vitrail.AbstractPool"),
    ],
)
def test_what_cannot_be_done_is_an_error_that_says_why(
    built: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises((ValueError, TypeError, KeyError), match=message):
        vitrail.replace(small_model(**built), **changes, key=KEY)


@pytest.mark.parametrize("wrong", [{"num_classes": "all"}, {"norm_order": "pool-norm"}, {"class_token": "yes"}])
def test_words_that_are_no_choice_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=next(iter(wrong))):
        vitrail.replace(small_model(), **wrong, key=KEY)


def test_a_position_without_prefix_rows_stays() -> None:
    factorized = small_model(position="factorized")
    assert same_arrays(vitrail.replace(factorized, pool="cls", key=KEY).backbone.position, factorized.backbone.position)


IMAGENET = vitrail.Preprocess("squash", "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
MIXES: dict[tuple[str, int], list[list[float]]] = {
    ("repeat", 1): [[1, 1, 1]],
    ("repeat", 2): [[1.5, 0, 0], [0, 1.5, 0]],
    ("repeat", 4): [[0.75, 0, 0], [0, 0.75, 0], [0, 0, 0.75], [0.75, 0, 0]],
    ("average", 1): [[1, 1, 1]],
    ("average", 4): [[0.25] * 3] * 4,
    ("zero", 5): [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]],
}
MEANS = {
    ("repeat", 1): (0.449,),
    ("repeat", 2): (0.485, 0.456),
    ("repeat", 4): (0.485, 0.456, 0.406, 0.485),
    ("average", 1): (0.449,),
    ("average", 4): (0.449,) * 4,
    ("zero", 5): (0.485, 0.456, 0.406, 0.449, 0.449),
}


@pytest.mark.parametrize("patch", ["conv", "conv_stem"])
@pytest.mark.parametrize(("rule", "channels"), MIXES)
def test_a_model_reads_other_channels_as_the_rule_mixes_them(patch: str, rule: Any, channels: int) -> None:
    model = small_model(patch=patch, preprocess=IMAGENET)
    replaced = vitrail.replace(model, channels=channels, channel_rule=rule)
    image = image_for(replaced)
    assert image.shape[-1] == channels
    mixed = np.asarray(image, np.float64) @ np.asarray(MIXES[rule, channels], np.float64)
    assert_close(run(replaced, image), run(model, jnp.asarray(mixed, jnp.float32)))
    assert replaced.config.preprocess is not None
    assert replaced.config.preprocess.mean == pytest.approx(MEANS[rule, channels])
    assert is_what_its_configuration_builds(replaced)
    assert same_arrays(replaced.backbone.encoder, model.backbone.encoder)
    assert same_arrays(replaced.readout, model.readout)


def test_channels_and_other_parts_are_replaced_at_once() -> None:
    infrared = vitrail.Preprocess("squash", "bicubic", (0.1, 0.2, 0.3, 0.4), (0.5,) * 4)
    replaced = vitrail.replace(small_model(), channels=4, preprocess=infrared, pool="cls", num_classes=3, key=KEY)
    assert replaced.config.preprocess == infrared
    assert run(replaced, image_for(replaced)).shape == (3,)
    assert is_what_its_configuration_builds(replaced)
    same = small_model()
    assert same_arrays(vitrail.replace(same, channels=3, channel_rule="average"), same)


LEARNED = [POSITIONS.configure("learned", covers_prefix=covers) for covers in (True, "class", False)]


@pytest.mark.parametrize("pool", ["mean", "cls"])
@pytest.mark.parametrize("position", [*LEARNED, *(name for name in builtins(POSITIONS) if name != "learned")])
def test_registers_are_added_and_dropped(position: Any, pool: str) -> None:
    model = small_model(num_registers=2, position=position, pool=pool)
    image = image_for(model)
    more = vitrail.replace(model, num_registers=5, key=KEY)
    assert is_what_its_configuration_builds(more)
    assert more.backbone.registers is not None
    assert np.array_equal(more.backbone.registers[:2], model.backbone.registers)  # type: ignore[arg-type]
    assert 1e-7 < float(jnp.std(more.backbone.registers[2:])) < 0.1
    assert same_arrays(more.readout, model.readout)
    assert run(more, image).shape == run(model, image).shape

    assert jax.tree.all(jax.tree.map(np.array_equal, vitrail.replace(more, num_registers=2), model))
    one = vitrail.replace(model, num_registers=1)
    assert is_what_its_configuration_builds(one)
    before = model.backbone.embed(image)
    assert before.registers is not None
    assert_close(
        run(one.backbone, image).sequence,
        run(model.backbone.encode, dataclasses.replace(before, registers=before.registers[:1])).sequence,
    )
    none = vitrail.replace(model, num_registers=0)
    assert none.backbone.registers is None
    assert is_what_its_configuration_builds(none)
    assert_close(
        run(none.backbone, image).sequence,
        run(model.backbone.encode, dataclasses.replace(before, registers=None)).sequence,
    )


def test_registers_come_with_a_new_position() -> None:
    replaced = vitrail.replace(small_model(), num_registers=3, position="learned", key=KEY)
    assert is_what_its_configuration_builds(replaced)
    assert replaced.backbone.position.registers.shape == (3, 16)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 0}, "channels must be positive, got 0"),
        ({"channels": True}, "channels must be positive, got True"),
        ({"channels": 1, "channel_rule": "zero"}, "channel_rule='zero' keeps the 3 channels of the model"),
        ({"channel_rule": "average"}, "channel_rule='average' has no effect without channels: pass channels too"),
        (
            {"channel_rule": "mean", "channels": 4},
            "channel_rule .* must be 'repeat', 'average' or 'zero', got .*'mean'",
        ),
        ({"channels": 4, "preprocess": IMAGENET}, "preprocess must have the channels of the model, 4, got 3"),
        ({"num_registers": -1}, "num_registers must be at least 0, got -1"),
        ({"num_registers": True}, "num_registers must be at least 0, got True"),
        ({"num_registers": 3}, r"need a key for new weights, got None for 'backbone\.registers'"),
    ],
)
def test_wrong_channels_and_registers_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        vitrail.replace(small_model(), **changes)
