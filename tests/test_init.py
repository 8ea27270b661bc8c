"""The statistics of freshly drawn weights."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import final_norm, prefix_of, small_config

import vitrail

DIM, HIDDEN, CLASSES = 64, 128, 100


def built(**changes: Any) -> Any:
    """A model wide enough for statistics."""
    config = small_config(
        image_size=(32, 32),
        size=vitrail.EncoderSize(dim=DIM, depth=2, num_heads=2, mlp_dim=HIDDEN),
        num_classes=CLASSES,
        class_token=True,
        num_registers=40,
        **changes,
    )
    return eqx.filter_jit(config.build)(key=jax.random.key(0))


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    """One model of each scheme."""
    return {name: built(init=name) for name in vitrail.INITS}


def matrices(model: Any) -> dict[str, np.ndarray]:
    """The weights of the model by kind: `(draws, out, in)`, each draw its own."""
    blocks = model.backbone.encoder.stack
    q, k, v = np.split(np.asarray(blocks.attention.qkv.weight), 3, axis=1)
    return {
        "patch": np.asarray(model.backbone.patch.weight)[None].reshape(1, DIM, -1),
        "q": q,
        "k": k,
        "v": v,
        "project": np.asarray(blocks.attention.project.weight),
        "hidden": np.asarray(blocks.mlp.hidden.weight),
        "out": np.asarray(blocks.mlp.out.weight),
        "position": np.asarray(model.backbone.position.patches)[None],
        "head": np.asarray(model.readout.head.linear.weight)[None],
    }


def assert_deviation(array: np.ndarray, expected: float) -> None:
    """Mean zero and the deviation, within five standard errors of either."""
    count = array.size
    assert abs(array.mean()) < 5 * expected / count**0.5
    assert abs(array.std() / expected - 1) < 5 / (2 * count) ** 0.5


def test_trunc_normal_has_deviation_0_02_everywhere(models: dict[str, Any]) -> None:
    # A cut at two deviations instead of at +-2 would give 0.0176, which is 12 % off; the check takes 5.5 % at most.
    model = models["trunc_normal"]
    for kind, draws in matrices(model).items():
        for draw in draws:
            assert draw.size >= 3000, kind
            assert_deviation(draw, 0.02)
    everything = np.concatenate([draws.ravel() for draws in matrices(model).values()])
    assert_deviation(everything, 0.02)
    assert np.abs(everything).max() > 4 * 0.02  # tails of a normal, not cut at two deviations
    assert_deviation(np.asarray(prefix_of(model.backbone)[:1]), 0.02)
    assert_deviation(np.asarray(prefix_of(model.backbone)[1:]), 1e-6)
    assert not np.asarray(model.backbone.encoder.stack.mlp.hidden.bias).any()
    assert not np.asarray(model.backbone.encoder.stack.mlp.out.bias).any()


def test_trunc_normal_is_normal(models: dict[str, Any]) -> None:
    everything = np.concatenate([draws.ravel() for draws in matrices(models["trunc_normal"]).values()]) / 0.02
    for bound, share in ((1.0, 0.68269), (2.0, 0.95450), (3.0, 0.99730)):
        standard_error = (share * (1 - share) / everything.size) ** 0.5
        assert abs((np.abs(everything) < bound).mean() - share) < 5 * standard_error


def test_trunc_normal_has_no_outliers() -> None:
    # A truncated normal by the inverse of erf returns its lower bound, -2, once in 2**23 draws.
    initializer = vitrail.TRUNC_NORMAL.mlp
    draws = np.asarray(initializer(jax.random.key(2), (8_000, 1_000), np.dtype("float32")))
    assert np.abs(draws).max() < 6 * 0.02
    assert_deviation(draws, 0.02)


def test_the_gate_and_the_value_of_swiglu_are_drawn_each_on_its_own() -> None:
    model = built(init="big_vision", encoder=vitrail.EncoderOptions(activation="swiglu"))
    weight = np.asarray(model.backbone.encoder.stack.mlp.hidden.weight)
    mlp_dim = weight.shape[1] // 2
    limit = (6 / (mlp_dim + weight.shape[2])) ** 0.5
    for half in (weight[:, :mlp_dim], weight[:, mlp_dim:]):
        assert 0.98 * limit < np.abs(half).max() <= limit
    assert not np.array_equal(weight[:, :mlp_dim], weight[:, mlp_dim:])


def test_big_vision_draws_each_kind_by_its_own_rule(models: dict[str, Any]) -> None:
    model = models["big_vision"]
    drawn = matrices(model)
    fan_in = 4 * 4 * 3
    assert_deviation(drawn["patch"], fan_in**-0.5)
    assert_deviation(drawn["position"], DIM**-0.5)
    assert_deviation(drawn["head"], DIM**-0.5)
    limits = {
        # Xavier of each (dim, dim) matrix: of the fused (3 dim, dim) one it would be sqrt(6 / (4 dim)).
        **dict.fromkeys(("q", "k", "v", "project"), (6 / (DIM + DIM)) ** 0.5),
        **dict.fromkeys(("hidden", "out"), (6 / (DIM + HIDDEN)) ** 0.5),
    }
    for kind, limit in limits.items():
        for draw in drawn[kind]:
            assert 0.99 * limit < np.abs(draw).max() <= limit, kind
            assert_deviation(draw, limit / 3**0.5)
    assert not np.asarray(prefix_of(model.backbone)[0]).any()
    assert_deviation(np.asarray(prefix_of(model.backbone)[1:]), 1e-6)
    for layer in (model.backbone.encoder.stack.mlp.hidden, model.backbone.encoder.stack.mlp.out):
        assert_deviation(np.asarray(layer.bias), 1e-6)


@pytest.mark.parametrize("name", list(vitrail.INITS))
def test_other_biases_are_zero_and_scales_of_norms_one(models: dict[str, Any], name: str) -> None:
    model = models[name]
    blocks = model.backbone.encoder.stack
    for bias in (
        model.backbone.patch.bias,
        model.readout.head.linear.bias,
        blocks.attention.qkv.bias,
        blocks.attention.project.bias,
    ):
        assert not np.asarray(bias).any()
    for norm in (final_norm(model), blocks.norm1, blocks.norm2):
        assert (np.asarray(norm.weight) == 1).all()
        assert not np.asarray(norm.bias).any()


@pytest.mark.parametrize("name", list(vitrail.INITS))
def test_no_two_matrices_are_drawn_alike(models: dict[str, Any], name: str) -> None:
    drawn = matrices(models[name])
    square = [draw for kind in ("q", "k", "v", "project") for draw in drawn[kind]]
    assert len(square) == 8
    for i, first in enumerate(square):
        for second in square[:i]:
            assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.1
    for kind in ("hidden", "out"):
        assert abs(np.corrcoef(drawn[kind][0].ravel(), drawn[kind][1].ravel())[0, 1]) < 0.1


def test_zero_head_is_zero_and_all_logits_with_it() -> None:
    config = small_config(head=vitrail.HEADS.configure("linear", zero=True), init="big_vision")
    model: Any = eqx.filter_jit(config.build)(key=jax.random.key(0))
    assert not np.asarray(model.readout.head.linear.weight).any()
    image = jax.random.normal(jax.random.key(1), (8, 12, 3))
    assert not np.asarray(eqx.filter_jit(model)(image)).any()


def test_conv_stem_is_drawn_by_the_scheme() -> None:
    for init, deviations in ((vitrail.TRUNC_NORMAL, [0.02] * 3), (vitrail.BIG_VISION, [27**-0.5, 288**-0.5, 64**-0.5])):
        stem = vitrail.ConvStemPatchEmbed(64, patch_size=(4, 4), channels=3, init=init, key=jax.random.key(0))
        for array, deviation in zip((*stem.kernels, stem.project.weight), deviations, strict=True):
            assert_deviation(np.asarray(array), deviation)


def test_all_parameters_are_float32(models: dict[str, Any]) -> None:
    for model in models.values():
        assert {leaf.dtype.name for leaf in jax.tree.leaves(model)} == {"float32"}


_JAX: dict[str, Any] = {
    "trunc_normal": {"attention": jax.nn.initializers.normal(0.02), "position": jax.nn.initializers.normal(0.02)},
    "big_vision": {
        "patch": jax.nn.initializers.lecun_normal(in_axis=-1, out_axis=-2),
        "attention": jax.nn.initializers.xavier_uniform(in_axis=-1, out_axis=-2),
        "mlp_bias": jax.nn.initializers.normal(1e-6),
    },
}


@pytest.mark.parametrize("kind", ["threefry2x32", "rbg"])
@pytest.mark.parametrize("partitionable", [True, False])
@pytest.mark.parametrize(("scheme", "part"), [(scheme, part) for scheme, parts in _JAX.items() for part in parts])
def test_weights_are_those_of_jax(scheme: Any, part: str, partitionable: bool, kind: str):
    key = jax.random.key(7, impl=kind)
    with jax.threefry_partitionable(partitionable):
        expected = np.asarray(_JAX[scheme][part](key, (35, 129), jnp.dtype(jnp.float32)))
        found = np.asarray(getattr(vitrail.INITS[scheme], part)(key, (35, 129), jnp.dtype(jnp.float32)))
        layer = vitrail.Linear(129, 35, weight_init=_JAX[scheme][part], key=key)
        first = _JAX[scheme][part](jax.random.split(key)[0], (35, 129), jnp.dtype(jnp.float32))
    assert np.array_equal(np.asarray(layer.weight), np.asarray(first))
    if scheme == "trunc_normal":
        assert np.array_equal(found, expected)
    assert np.abs(found - expected).max() <= 3e-7 * np.abs(expected).max()
