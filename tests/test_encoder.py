"""The encoder: every option against NumPy, scanned against unrolled, and what is random in training."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    assert_close,
    assert_trees_close,
    image_for,
    parameters,
    random_array,
    randomised,
    run,
    small_model,
    tokens_of,
)
from reference import (
    ROTATIONS,
    float64,
    np_attention,
    np_block,
    np_layer_norm,
    numpy_block_weights,
)

import vitrail
from vitrail import Encoder, EncoderOptions, EncoderSize
from vitrail.encoder import _attention as attention_module

KEY = jax.random.key(0)
SIZE = EncoderSize(dim=8, depth=3, num_heads=2, mlp_dim=10)
GRID, PREFIX = (3, 2), 1
TOKENS = tokens_of(random_array(PREFIX, 8), random_array(6, 8, seed=1), GRID)
X = TOKENS.sequence
ALL = EncoderOptions(
    qkv_bias=False, qk_norm=True, activation="swiglu", norm_eps=1e-3, pre_norm=True, layer_scale=0.1, scan=False
)
OPTIONS = {
    "default": EncoderOptions(),
    "qkv_bias": EncoderOptions(qkv_bias=False),
    "qk_norm": EncoderOptions(qk_norm=True, norm_eps=1e-2),
    "pre_norm": EncoderOptions(pre_norm=True),
    "layer_scale": EncoderOptions(layer_scale=0.1),
    **{name: EncoderOptions(activation=name) for name in ("swiglu", *vitrail.ACTIVATIONS) if name != "gelu"},
    "all": ALL,
}


def encoder(options: EncoderOptions, *, size: EncoderSize = SIZE, seed: int = 0) -> Encoder:
    """An encoder with random parameters."""
    return randomised(lambda: Encoder(size, options=options, init=vitrail.TRUNC_NORMAL, key=KEY), seed=seed)


def np_layers(encoder: Encoder, x: np.ndarray, turn: Any = None) -> list[tuple[np.ndarray, np.ndarray]]:
    """What leaves each block, and its attention weights."""
    options, layers = encoder.options, []
    if encoder.pre_norm is not None:
        x = np_layer_norm(x, float64(encoder.pre_norm.weight), float64(encoder.pre_norm.bias), options.norm_eps)
    for block in encoder.blocks:
        w = numpy_block_weights(block)
        normal = np_layer_norm(x, w["g1"], w["h1"], options.norm_eps)
        _, weights = np_attention(normal, w, SIZE.num_heads, options.norm_eps, turn)
        x = np_block(x, w, SIZE.num_heads, options.norm_eps, options.activation, turn)
        layers.append((x, weights))
    return layers


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_equals_its_numpy_formula(name: str) -> None:
    model = encoder(OPTIONS[name])
    out = run(model, X)
    expected = np_layers(model, float64(X))[-1][0]
    assert_close(out, expected, tolerance=2e-5)


@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "default"])
def test_every_option_changes_something(name: str) -> None:
    """Of the function, or of the parameters: no option is ignored."""
    default, other = encoder(OPTIONS["default"]), encoder(OPTIONS[name])
    if parameters(default).keys() == parameters(other).keys():
        difference = run(default, X) - run(other, X)
        assert np.abs(difference).max() > 1e-4


@pytest.mark.parametrize("rule", ["axial", "dinov3"])
@pytest.mark.parametrize("scan", [True, False])
def test_rotary_positions_reach_every_block(rule: Any, scan: bool) -> None:
    model = encoder(EncoderOptions(scan=scan, qk_norm=True))
    rotation = vitrail.RotaryPosition(8, head_dim=4, rule=rule).rotation(TOKENS)
    layers = np_layers(model, float64(X), turn=lambda x: ROTATIONS[rule](x, GRID, PREFIX, base=100.0))
    assert_close(run(model, X, rotation=rotation), layers[-1][0], tolerance=2e-5)
    weights = run(model.attention, X, rotation=rotation)
    assert_close(weights, np.stack([w for _, w in layers]), tolerance=2e-5)


@pytest.mark.parametrize("name", ["default", "all"])
def test_outputs_and_attention_equal_numpy_in_every_block(name: str) -> None:
    model = encoder(OPTIONS[name])
    layers = np_layers(model, float64(X))
    assert_close(run(model.outputs, X), np.stack([x for x, _ in layers]), tolerance=2e-5)
    weights = run(model.attention, X)
    assert weights.shape == (3, 2, 7, 7)
    assert_close(weights, np.stack([w for _, w in layers]), tolerance=2e-5)
    assert_close(weights.sum(-1), np.ones((3, 2, 7)))
    assert float(weights.min()) >= 0


def value_and_gradient(options: EncoderOptions) -> tuple[Any, dict[str, Any]]:
    loss = eqx.filter_value_and_grad(lambda m: jnp.vdot(m(X), random_array(7, 8, seed=3)))
    value, gradient = eqx.filter_jit(loss)(encoder(options))
    return value, parameters(gradient)


def assert_same(found: tuple[Any, dict[str, Any]], expected: tuple[Any, dict[str, Any]]) -> None:
    assert_close(found[0], expected[0], tolerance=2e-5)
    for path, array in expected[1].items():
        assert_close(found[1][path], array, tolerance=5e-5)


def test_scanned_unrolled_and_rematerialised_agree_in_value_and_gradient() -> None:
    every = dataclasses.replace(ALL, qkv_bias=True)
    reference = dataclasses.replace(every, scan=True)
    expected = value_and_gradient(reference)
    assert expected[1].keys() == parameters(encoder(reference)).keys()
    for path, gradient in expected[1].items():
        assert jnp.isfinite(gradient).all(), path
        # Of every block: a block that the loop skipped would have a gradient of zero.
        flat = gradient.reshape(3, -1) if path.startswith(".stack") else gradient[None]
        assert jnp.any(flat != 0, axis=1).all(), path
    for scan, remat in ((True, "attention"), (True, "blocks"), (False, "products"), (False, "blocks")):
        assert_same(value_and_gradient(dataclasses.replace(every, scan=scan, remat=remat)), expected)


def test_the_less_is_kept_the_more_products_the_backward_pass_computes_again() -> None:
    def products(remat: Any) -> int:
        params, static = eqx.partition(encoder(EncoderOptions(remat=remat)), eqx.is_array)
        jaxpr = jax.make_jaxpr(jax.grad(lambda p: eqx.combine(p, static)(X).sum()))(params)
        return sum(equation.primitive.name == "dot_general" for equation in equations(jaxpr.jaxpr))

    # A block has six products, and two more for the gradient of each. Scores are computed again in any case; then
    # qkv, the projection and the first of the MLP; then what the attention gathers.
    assert products("products") == 6 + 12 + 1
    assert products("attention") == 6 + 12 + 1 + 3
    assert products("blocks") == 6 + 12 + 1 + 3 + 1


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])  # of 7 tokens
def test_attention_in_chunks_is_the_same_in_value_and_gradient(chunk: int) -> None:
    assert_same(value_and_gradient(EncoderOptions(attention_chunk=chunk)), value_and_gradient(EncoderOptions()))


def test_attention_of_many_tokens_in_halves_is_the_same_in_value_and_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = value_and_gradient(EncoderOptions())
    queries = list[int]()
    whole = attention_module._gather

    def spy(q: Any, *rest: Any) -> Any:
        queries.append(q.shape[1])
        return whole(q, *rest)

    monkeypatch.setattr(attention_module, "_gather", spy)
    monkeypatch.setattr(attention_module, "_MANY", 6)  # of 7 tokens
    found = value_and_gradient(EncoderOptions())
    assert set(queries) == ({3, 4} if jax.default_backend() == "cpu" else {7})
    assert_same(found, expected)


def half_tokens(dim: int) -> jax.Array:
    return random_array(7, dim).astype(jnp.bfloat16)


@pytest.mark.parametrize("changes", [{}, {"qk_norm": True}, {"scan": False, "remat": "blocks"}])
def test_fused_attention_is_the_same_up_to_half_precision(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU the kernel of cuDNN; elsewhere JAX's own form of the same function stands in for it."""
    size = EncoderSize(dim=32, depth=3, num_heads=2, mlp_dim=40)
    several = jnp.stack([half_tokens(32), -half_tokens(32)])

    def output_and_gradient(tokens: jax.Array, options: EncoderOptions) -> tuple[np.ndarray, np.ndarray]:
        def loss(encoder: Encoder) -> Any:
            out = jax.vmap(lambda tokens: encoder(tokens))(tokens).astype(jnp.float32)
            return jnp.vdot(out, random_array(2, 7, 32, seed=3)), out

        (_, out), gradient = eqx.filter_value_and_grad(loss, has_aux=True)(encoder(options, size=size))
        return np.ravel(out), np.concatenate([np.ravel(array) for array in parameters(gradient).values()])

    exact = output_and_gradient(jax.tree.map(lambda a: a.astype(jnp.float32), several), EncoderOptions(**changes))
    if jax.default_backend() != "gpu":
        attend = jax.nn.dot_product_attention

        def stand_in(q: Any, k: Any, v: Any, *, mask: Any, implementation: str) -> Any:
            assert implementation == "cudnn"
            return attend(q, k, v, mask=mask, implementation="xla")

        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    with jax.numpy_dtype_promotion("standard"):  # which JAX's own form counts on
        fused = output_and_gradient(several, EncoderOptions(fused_attention=True, **changes))
    for found, expected in zip(fused, exact, strict=True):
        assert np.linalg.norm(found - expected) < 0.02 * np.linalg.norm(expected)


def test_fused_attention_says_what_it_needs() -> None:
    options = EncoderOptions(fused_attention=True)
    wide = EncoderSize(dim=16, depth=1, num_heads=2, mlp_dim=8)
    half = half_tokens(16)
    with pytest.raises(ValueError, match=r"heads as wide as a multiple of 8 .* but a width of 4 in float32 came: give"):
        encoder(options)(X)
    with pytest.raises(ValueError, match=r"in bfloat16, but a width of 4 in bfloat16 came"):
        encoder(options)(half_tokens(8))
    if jax.default_backend() != "gpu":
        with pytest.raises(ValueError, match=r"fused_attention needs an NVIDIA GPU, but JAX runs on cpu: give"):
            encoder(options, size=wide)(half)
    with pytest.raises(ValueError, match=r"fused_attention needs compute_dtype='bfloat16', got 'float32'"):
        vitrail.vit("Ti/16", encoder=options, num_classes=2, key=KEY)
    with pytest.raises(ValueError, match="fused_attention must be False with attention_chunk=4, but True came"):
        EncoderOptions(fused_attention=True, attention_chunk=4)
    windows = vitrail.WindowOptions(2, relative_grid=(3, 3))
    with pytest.raises(ValueError, match="fused_attention must be False with relative positions, but True came"):
        EncoderOptions(fused_attention=True, windows=windows)


def test_chunks_of_attention_are_checked() -> None:
    with pytest.raises(ValueError, match="attention_chunk must be"):
        EncoderOptions(attention_chunk=0)
    with pytest.raises(ValueError, match="attention_chunk must be None with relative positions, but 4 came"):
        EncoderOptions(attention_chunk=4, windows=vitrail.WindowOptions(2, relative_grid=(3, 3)))


def test_blocks_are_a_view_of_the_stack() -> None:
    model = encoder(EncoderOptions())
    blocks = model.blocks
    assert len(blocks) == 3
    assert len(list(blocks)) == 3
    for index in range(3):
        for view in (blocks[index], blocks[index - 3], blocks[:][index], list(blocks)[index]):
            assert np.array_equal(view.mlp.hidden.weight, model.stack.mlp.hidden.weight[index])
            assert np.array_equal(view.norm1.bias, model.stack.norm1.bias[index])
    assert [len(blocks[s]) for s in (slice(1, None), slice(0, 0), slice(None, None, -1))] == [2, 0, 3]
    for wrong in (3, -4):
        with pytest.raises(IndexError, match=rf"there is no block {wrong}: the encoder has 3"):
            blocks[wrong]


def test_blocks_one_after_the_other_are_the_encoder() -> None:
    model = encoder(EncoderOptions())

    def composed(x: jax.Array) -> jax.Array:
        for block in model.blocks:
            x = block(x)
        return x

    assert_close(run(composed, X), run(model, X))


def test_every_array_of_the_stack_has_a_leading_axis_over_depth() -> None:
    assert {leaf.shape[0] for leaf in jax.tree.leaves(encoder(ALL).stack)} == {3}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\).*1.0 came"),
        ({"dropout": -0.1}, "dropout must be"),
        ({"drop_path": 1.5}, "drop_path must be"),
        ({"norm_eps": 0.0}, "norm_eps must be a finite number above zero"),
        ({"norm_eps": -1e-6}, "norm_eps must be a finite number above zero"),
        ({"activation": "gelo"}, "activation"),
        ({"scan": "yes"}, "scan"),
    ],
)
def test_wrong_options_are_errors_that_name_them(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        EncoderOptions(**wrong)


@pytest.mark.parametrize("name", ["dim", "depth", "num_heads", "mlp_dim"])
@pytest.mark.parametrize("value", [0, -1])
def test_wrong_sizes_are_errors_that_name_them(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name} must be positive, but {value} came"):
        dataclasses.replace(SIZE, **{name: value})


def test_width_that_does_not_divide_into_heads_says_which_number_of_heads_would() -> None:
    with pytest.raises(ValueError, match=r"dim=8 and num_heads=3 came.*nearest number of heads that fits is [24]"):
        encoder(EncoderOptions(), size=dataclasses.replace(SIZE, num_heads=3))


# What is random in training --------------------------------------------------------------------------------------


def marked(options: EncoderOptions) -> Encoder:
    """An encoder whose branch j adds one to channel j and nothing else: attention is branch 2i of block i, MLP 2i+1."""
    model = jax.tree.map(jnp.zeros_like, encoder(options))
    ones = jnp.eye(8)[:6].reshape(3, 2, 8)
    return eqx.tree_at(
        lambda m: (m.stack.attention.project.bias, m.stack.mlp.out.bias), model, (ones[:, 0], ones[:, 1])
    )


@pytest.mark.parametrize("scan", [True, False])
def test_stochastic_depth_drops_branches_at_rates_that_grow_linearly_from_zero(scan: bool) -> None:
    model, draws = marked(EncoderOptions(drop_path=0.5, scan=scan)), 2000
    tokens = jnp.zeros((7, 8))
    keys = jax.random.split(jax.random.key(1), draws)
    added = np.asarray(run(jax.vmap(lambda k: model(tokens, key=k)), keys))
    assert (added == added[:, :1]).all()  # a branch is dropped for all tokens of an example together
    for branch in range(6):
        rate = (0.0, 0.25, 0.5)[branch // 2]
        values = added[:, 0, branch]
        kept = values != 0
        np.testing.assert_allclose(values[kept], 1 / (1 - rate), rtol=1e-6)
        assert abs(kept.mean() - (1 - rate)) <= 5 * (rate * (1 - rate) / draws) ** 0.5
        assert abs(values.mean() - 1) < 5 * (rate / (1 - rate) / draws) ** 0.5 + 1e-6  # the expectation is preserved
    # Branches are dropped independently of each other.
    correlations = np.corrcoef((added[:, 0, 2:6] != 0).T)
    assert np.abs(correlations - np.eye(4)).max() < 5 / draws**0.5
    assert_close(run(model, tokens)[:, :6], np.ones((7, 6)))  # and without a key none is


def test_dropout_acts_on_the_embedding_on_branches_and_inside_the_mlp() -> None:
    rate, draws = 0.25, 400
    keys = jax.random.split(jax.random.key(2), draws)
    options = EncoderOptions(dropout=rate, activation="relu")
    ones = jnp.ones((7, 8))

    def kept(model: Encoder, value: Any) -> np.ndarray:
        values = np.asarray(run(jax.vmap(lambda k: model(ones, key=k)), keys))
        share = (values != 0).mean()
        if value is not None:
            np.testing.assert_allclose(values[values != 0], value, rtol=1e-6)
        return share

    error = 5 * (rate * (1 - rate) / (draws * 56)) ** 0.5
    silent = jax.tree.map(jnp.zeros_like, encoder(options, size=EncoderSize(dim=8, depth=1, num_heads=2, mlp_dim=8)))
    assert abs(kept(silent, 1 / (1 - rate)) - (1 - rate)) < error
    # Tokens at zero, so that only one branch is seen: one after the attention, two within and after the MLP.
    ones = jax.tree.map(jnp.zeros_like, ones)
    attention = eqx.tree_at(lambda m: m.stack.attention.project.bias, silent, jnp.ones((1, 8)))
    assert abs(kept(attention, 1 / (1 - rate)) - (1 - rate)) < error
    mlp = eqx.tree_at(
        lambda m: (m.stack.mlp.hidden.bias, m.stack.mlp.out.weight), silent, (jnp.ones((1, 8)), jnp.eye(8)[None])
    )
    assert abs(kept(mlp, (1 - rate) ** -2) - (1 - rate) ** 2) < error
    assert_close(run(mlp, ones), np.ones((7, 8)))


def test_without_a_key_dropout_and_stochastic_depth_are_the_identity() -> None:
    quiet, noisy = encoder(EncoderOptions()), encoder(EncoderOptions(dropout=0.5, drop_path=0.5))
    assert np.array_equal(run(noisy, X), run(quiet, X))
    first, again, other = (run(noisy, X, key=jax.random.key(s)) for s in (0, 0, 1))
    assert np.array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


def test_dropout_differs_between_blocks_and_between_draws_of_a_block() -> None:
    model = marked(EncoderOptions(dropout=0.5))
    bias = jnp.ones((3, 8))
    model = eqx.tree_at(lambda m: (m.stack.attention.project.bias, m.stack.mlp.out.bias), model, (bias, 10 * bias))
    tokens = jnp.zeros((7, 8))
    outputs = np.asarray(run(lambda m, k: m(tokens, key=k), model, jax.random.key(4)))
    # Each element counts 2 for a kept attention branch and 20 for a kept MLP: all of 0..3 of either occur.
    attention, mlp = np.round(outputs % 20 / 2), np.round(outputs // 20)
    assert set(attention.ravel()) == {0, 1, 2, 3}
    assert set(mlp.ravel()) == {0, 1, 2, 3}
    assert abs(np.corrcoef(attention.ravel(), mlp.ravel())[0, 1]) < 5 / 56**0.5


# Precision and compilation ---------------------------------------------------------------------------------------


def equations(jaxpr: Any) -> Iterator[Any]:
    """All equations, those of inner programs too."""
    for equation in jaxpr.eqns:
        yield equation
        for parameter in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr")
        ):
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


@pytest.mark.parametrize("qk_norm", [False, True])
def test_softmax_and_norms_are_computed_in_float32_under_bfloat16(qk_norm: bool) -> None:
    model = small_model(compute_dtype="bfloat16", encoder=EncoderOptions(qk_norm=qk_norm))
    jaxpr = jax.make_jaxpr(model)(image_for(model))
    found = {"exp": 0, "rsqrt": 0, "dot_general": 0}
    for equation in equations(jaxpr.jaxpr):
        name = equation.primitive.name
        if name in ("exp", "rsqrt", "sqrt"):
            found["exp" if name == "exp" else "rsqrt"] += 1
            assert equation.invars[0].aval.dtype == jnp.float32, name
        if name == "dot_general":  # and the matrix products are in bfloat16
            found[name] += 1
            assert equation.invars[0].aval.dtype == jnp.bfloat16
            assert equation.invars[1].aval.dtype == jnp.bfloat16
    assert all(found.values()), found


def test_training_in_bfloat16_with_everything_random_is_finite() -> None:
    options = EncoderOptions(dropout=0.1, drop_path=0.2, layer_scale=0.1, qk_norm=True, activation="swiglu")
    model = small_model(compute_dtype="bfloat16", encoder=options, position="rope", class_token=True)
    gradient = run(eqx.filter_grad(lambda m, x, k: m(x, key=k).sum()), model, image_for(model), KEY)
    assert parameters(gradient).keys() == parameters(model).keys()
    for path, array in parameters(gradient).items():
        assert jnp.isfinite(array).all(), path
        assert array.dtype == jnp.float32


def test_attention_weights_sum_to_one_under_bfloat16() -> None:
    model = small_model(compute_dtype="bfloat16")
    weights = run(model.backbone.attention, image_for(model))
    np.testing.assert_allclose(weights.astype(jnp.float32).sum(-1), 1, atol=0.02)


def compiled_instructions(depth: int, *, scan: bool) -> int:
    """How many instructions the compiled encoder has."""
    size = dataclasses.replace(SIZE, depth=depth)
    model = encoder(EncoderOptions(scan=scan), size=size)
    params, static = eqx.partition(model, eqx.is_array)
    compiled = jax.jit(lambda p, t: eqx.combine(p, static)(t)).lower(params, X).compile()
    return sum(" = " in line for line in compiled.as_text().splitlines())


def test_the_compiled_program_does_not_grow_with_depth_when_scanned() -> None:
    counts = [compiled_instructions(depth, scan=True) for depth in (6, 12, 24, 48)]
    assert max(counts) <= 1.02 * min(counts), counts
    assert compiled_instructions(6, scan=False) > 1.5 * counts[0]


def test_it_compiles_once_for_each_shape() -> None:
    traces = 0

    @eqx.filter_jit
    def forward(model: Encoder, tokens: jax.Array) -> jax.Array:
        nonlocal traces
        traces += 1
        return model(tokens)

    for seed in range(3):
        forward(encoder(EncoderOptions(), seed=seed), jax.tree.map(lambda x, s=seed: x + s, X))
    assert traces == 1
    forward(encoder(EncoderOptions()), X[:5])
    assert traces == 2


def test_an_ensemble_of_encoders_is_a_vmap() -> None:
    two = jax.tree.map(lambda a, b: jnp.stack([a, b]), encoder(EncoderOptions()), encoder(EncoderOptions(), seed=1))
    out = run(eqx.filter_vmap(lambda m: m(X)), two)
    expected = [run(encoder(EncoderOptions(), seed=s), X) for s in (0, 1)]
    assert_trees_close(out, jnp.stack(expected))
