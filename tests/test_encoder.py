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
    randomise,
    run,
    small_model,
    tokens_of,
)
from reference import (
    ROTATIONS,
    float64,
    np_attention,
    np_block,
    np_norm,
    np_relative_bias,
    numpy_block_weights,
)

import vitrail
from vitrail import Dropout, Encoder, EncoderOptions, EncoderSize, Execution

KEY = jax.random.key(0)
SIZE = EncoderSize(dim=8, depth=3, num_heads=2, mlp_dim=10)
GRID, PREFIX = (3, 2), 1
TOKENS = tokens_of(random_array(PREFIX, 8), random_array(6, 8, seed=1), GRID)
X = TOKENS.sequence
ALL = EncoderOptions(
    qkv_bias=False,
    bias=False,
    qk_norm=True,
    activation="swiglu",
    norm="rms",
    norm_eps=1e-3,
    pre_norm=True,
    post_norm=True,
    attention_norm=True,
    mlp_norm=True,
    layer_scale=0.1,
)
OPTIONS = {
    "default": EncoderOptions(),
    "qkv_bias": EncoderOptions(qkv_bias=False),
    "qk_norm": EncoderOptions(qk_norm=True, norm_eps=1e-2),
    "bias": EncoderOptions(bias=False),
    "rms": EncoderOptions(norm="rms", norm_eps=1e-2, qk_norm=True, pre_norm=True),
    "pre_norm": EncoderOptions(pre_norm=True),
    "post_norm": EncoderOptions(post_norm=True),
    "attention_norm": EncoderOptions(attention_norm=True, norm_eps=1e-2),
    "mlp_norm": EncoderOptions(mlp_norm=True, norm_eps=1e-2),
    "layer_scale": EncoderOptions(layer_scale=0.1),
    **{name: EncoderOptions(activation=name) for name in ("swiglu", *vitrail.ACTIVATIONS) if name != "gelu"},
    "all": ALL,
}


def encoder(options: EncoderOptions, *, size: EncoderSize = SIZE, seed: int = 0) -> Encoder:
    """An encoder with random parameters."""
    return randomise(lambda: Encoder(size, options=options, init=vitrail.TRUNC_NORMAL, key=KEY), seed=seed)


def np_layers(encoder: Encoder, x: np.ndarray, turn: Any = None) -> list[tuple[np.ndarray, np.ndarray]]:
    """What leaves each block, and its attention weights."""
    options, layers = encoder.options, []
    if encoder.pre_norm is not None:
        named = {"g": float64(encoder.pre_norm.weight)}
        named |= {"h": float64(encoder.pre_norm.bias)} if isinstance(encoder.pre_norm, vitrail.LayerNorm) else {}
        x = np_norm(x, named, "", options.norm_eps)
    for block in encoder.blocks:
        w = numpy_block_weights(block)
        normal = x if options.post_norm else np_norm(x, w, "1", options.norm_eps)
        _, weights = np_attention(normal, w, SIZE.num_heads, options.norm_eps, turn)
        x = np_block(x, w, SIZE.num_heads, options.norm_eps, options.activation, turn, post_norm=options.post_norm)
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
    model = encoder(EncoderOptions(qk_norm=True))
    execution = Execution(scan=scan)
    rotation = vitrail.RotaryPosition(head_dim=4, rule=rule).in_attention(TOKENS)
    layers = np_layers(model, float64(X), turn=lambda x: ROTATIONS[rule](x, GRID, PREFIX, base=100.0))
    assert_close(run(model, X, position=rotation, execution=execution), layers[-1][0], tolerance=2e-5)
    found = run(model.activations, X, at=("attention_weights",), position=rotation, execution=execution)
    assert_close(found["attention_weights"], np.stack([w for _, w in layers]), tolerance=2e-5)


def differentiate(model: Encoder, execution: Execution) -> tuple[Any, Any]:
    return eqx.filter_value_and_grad(lambda m: jnp.vdot(m(X, execution=execution), random_array(7, 8, seed=3)))(model)


compiled = eqx.filter_jit(differentiate)


def value_and_gradient(
    options: EncoderOptions, execution: Execution = Execution(), *, run: Any = compiled
) -> tuple[Any, dict[str, Any]]:
    value, gradient = run(encoder(options), execution)
    return value, parameters(gradient)


def assert_same(found: tuple[Any, dict[str, Any]], expected: tuple[Any, dict[str, Any]]) -> None:
    assert_close(found[0], expected[0], tolerance=2e-5)
    for path, array in expected[1].items():
        assert_close(found[1][path], array, tolerance=5e-5)


@pytest.mark.versions
def test_scanned_unrolled_and_rematerialised_agree_in_value_and_gradient() -> None:
    options = dataclasses.replace(ALL, qkv_bias=True)
    expected = value_and_gradient(options)
    assert expected[1].keys() == parameters(encoder(options)).keys()
    for path, gradient in expected[1].items():
        assert jnp.isfinite(gradient).all(), path
        # Of every block: a block that the loop skipped would have a gradient of zero.
        flat = gradient.reshape(3, -1) if path.startswith(".stack") else gradient[None]
        assert jnp.any(flat != 0, axis=1).all(), path
    for scan, remat in ((True, "attention"), (True, "blocks"), (False, "products"), (False, "blocks")):
        assert_same(value_and_gradient(options, Execution(scan=scan, remat=remat)), expected)


def test_the_less_is_kept_the_more_products_the_backward_pass_computes_again() -> None:
    def products(remat: Any) -> int:
        params, static = eqx.partition(encoder(EncoderOptions()), eqx.is_array)
        execution = Execution(remat=remat)
        jaxpr = jax.make_jaxpr(jax.grad(lambda p: eqx.combine(p, static)(X, execution=execution).sum()))(params)
        return sum(equation.primitive.name == "dot_general" for equation in equations(jaxpr.jaxpr))

    # A block has six products, and two more for the gradient of each. Scores are computed again in any case; then
    # qkv, the projection and the first of the MLP; then what the attention gathers, on a CPU from scores in the order
    # of the queries, where its derivative has them in the order of the tokens.
    assert products("products") == 6 + 12 + 1
    assert products("attention") == 6 + 12 + 1 + 3
    assert products("blocks") == 6 + 12 + 1 + 3 + (2 if jax.default_backend() == "cpu" else 1)


@pytest.mark.parametrize("attention", ["plain", 1, 3, 7, 100])  # of 7 tokens
def test_every_strategy_of_attention_is_the_same_in_value_and_gradient(attention: Any) -> None:
    options = EncoderOptions()
    assert_same(value_and_gradient(options, Execution(attention=attention)), value_and_gradient(options))


def test_attention_of_many_tokens_is_computed_in_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = value_and_gradient(EncoderOptions())
    monkeypatch.setattr("vitrail.nn._attend._MANY", 6)  # of 7 tokens
    assert_same(value_and_gradient(EncoderOptions(), run=eqx.filter_jit(differentiate)), expected)
    jaxpr = jax.make_jaxpr(encoder(EncoderOptions()))(X)
    queries = {e.outvars[0].aval.shape[1] for e in equations(jaxpr.jaxpr) if e.primitive.name == "exp"}
    assert queries == ({3, 4} if jax.default_backend() == "cpu" else {7})


@pytest.mark.parametrize("attention", ["auto", 3])
@pytest.mark.parametrize("shared", [True, False])
def test_a_bias_of_the_scores_equals_numpy(attention: Any, shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitrail.nn._attend._MANY", 6)  # "auto" computes halves of 7 tokens
    model = encoder(EncoderOptions())
    position = randomise(lambda: vitrail.RelativeBiasPosition(grid=GRID, num_heads=2, depth=SIZE.depth, shared=shared))
    found = run(model, X, position=position.in_attention(TOKENS), execution=Execution(attention=attention))
    x = float64(X)
    for i, block in enumerate(model.blocks):
        tables = [float64(table if shared else table[i]) for table in (position.patches, position.prefix)]
        bias = np_relative_bias(*tables, GRID, PREFIX)
        x = np_block(x, numpy_block_weights(block), SIZE.num_heads, 1e-6, "gelu", bias=bias)
    assert_close(found, x, tolerance=2e-5)


@pytest.mark.parametrize("attention", ["auto", "plain", 3])
def test_a_causal_mask_equals_numpy(attention: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each token looks at itself and at those before it, as in a text tower."""
    monkeypatch.setattr("vitrail.nn._attend._MANY", 6)
    model = encoder(EncoderOptions())
    mask = jnp.tril(jnp.ones((7, 7), bool))
    found = run(model, X, mask=mask, execution=Execution(attention=attention))
    x = float64(X)
    for block in model.blocks:  # the last of each prefix sees all of it
        w = numpy_block_weights(block)
        x = np.stack([np_block(x[:end], w, SIZE.num_heads, 1e-6, "gelu")[-1] for end in range(1, 8)])
    assert_close(found, x, tolerance=2e-5)


def test_a_token_that_looks_at_nothing_spoils_no_other() -> None:
    """As the padding before a text does under a causal mask."""
    model = encoder(EncoderOptions())
    mask = np.tril(np.ones((7, 7), bool)) & (np.arange(7) >= 2)

    def loss(x: jax.Array) -> Any:
        out = model(x, mask=jnp.asarray(mask))
        return jnp.vdot(out[2:], random_array(5, 8, seed=3)), out

    (_, out), gradient = run(jax.value_and_grad(loss, has_aux=True), X)
    alone = run(model, X[2:], mask=jnp.tril(jnp.ones((5, 5), bool)))
    assert_close(out[2:], alone, tolerance=2e-5)
    assert np.isfinite(out).all()
    assert np.isfinite(gradient).all()
    assert not np.any(gradient[:2])


def half_tokens(dim: int) -> jax.Array:
    return random_array(7, dim).astype(jnp.bfloat16)


@pytest.mark.parametrize(
    ("options", "execution"),
    [({}, {}), ({"qk_norm": True}, {}), ({}, {"scan": False, "remat": "blocks"})],
    ids=["default", "qk_norm", "unrolled"],
)
@pytest.mark.parametrize("masks", ["none", "tokens", "queries and tokens"])
def test_attention_by_cudnn_is_the_same_up_to_half_precision(
    options: dict[str, Any], execution: dict[str, Any], masks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU the kernel of cuDNN; elsewhere JAX's own form of the same function stands in for it."""
    size = EncoderSize(dim=32, depth=2, num_heads=2, mlp_dim=40)
    several = jnp.stack([half_tokens(32), -half_tokens(32)])
    kept = jnp.arange(7) != 2
    mask = {"none": None, "tokens": kept, "queries and tokens": kept[None] & jnp.tril(jnp.ones((7, 7), bool))}[masks]
    counted = kept[:, None] if masks == "tokens" else True

    def output_and_gradient(tokens: jax.Array, execution: Execution) -> tuple[np.ndarray, np.ndarray]:
        def loss(encoder: Encoder) -> Any:
            out = jax.vmap(lambda tokens: encoder(tokens, mask=mask, execution=execution))(tokens)
            out = jnp.where(counted, out.astype(jnp.float32), 0)
            return jnp.vdot(out, random_array(2, 7, 32, seed=3)), out

        model = encoder(EncoderOptions(**options), size=size)
        (_, out), gradient = eqx.filter_jit(eqx.filter_value_and_grad(loss, has_aux=True))(model)
        return np.ravel(out), np.concatenate([np.ravel(array) for array in parameters(gradient).values()])

    exact = output_and_gradient(several.astype(jnp.float32), Execution(**execution))
    if jax.default_backend() != "gpu":
        attend = jax.nn.dot_product_attention

        def stand_in(q: Any, k: Any, v: Any, bias: Any, mask: Any, *, implementation: str) -> Any:
            assert implementation == "cudnn"
            return attend(q, k, v, bias, mask, implementation="xla")

        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    with jax.numpy_dtype_promotion("standard"):  # which JAX's own form counts on
        fused = output_and_gradient(several, Execution(compute_dtype="bfloat16", attention="cudnn", **execution))
    for found, expected in zip(fused, exact, strict=True):
        assert np.linalg.norm(found - expected) < 0.02 * np.linalg.norm(expected)


def test_attention_by_cudnn_says_what_it_needs() -> None:
    execution = Execution(compute_dtype="bfloat16", attention="cudnn")
    wide = EncoderSize(dim=16, depth=1, num_heads=2, mlp_dim=8)
    model = encoder(EncoderOptions())
    with pytest.raises(
        ValueError, match=r"bfloat16 and heads .* a multiple of 8 .*, got float32 and a width of 4: use"
    ):
        model(X, execution=execution)
    with pytest.raises(ValueError, match=r"bfloat16 and heads .* got bfloat16 and a width of 4"):
        model(half_tokens(8), execution=execution)
    if jax.default_backend() != "gpu":
        with pytest.raises(ValueError, match=r"attention='cudnn' needs an NVIDIA GPU, got the backend 'cpu': use"):
            encoder(EncoderOptions(), size=wide)(half_tokens(16), execution=execution)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"attention": 0}, "attention must be positive"),
        ({"attention": True}, "attention must be positive"),
        ({"attention": "flash"}, "attention"),
        ({"attention": "cudnn"}, "attention='cudnn' needs compute_dtype='bfloat16', got 'float32'"),
        ({"compute_dtype": "float16"}, "compute_dtype"),
        ({"scan": "yes"}, "scan"),
        ({"remat": "all"}, "remat"),
    ],
)
def test_a_wrong_execution_is_an_error_that_names_it(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        Execution(**wrong)


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
        ({"norm_eps": 0.0}, "norm_eps must be a finite number above zero"),
        ({"norm_eps": -1e-6}, "norm_eps must be a finite number above zero"),
        ({"activation": "gelo"}, "activation"),
    ],
)
def test_wrong_options_are_errors_that_name_them(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        EncoderOptions(**wrong)


@pytest.mark.parametrize("wrong", [{"rate": 1.0}, {"rate": -0.1}, {"drop_path": 1.5}])
def test_a_wrong_dropout_is_an_error_that_names_it(wrong: dict[str, float]) -> None:
    (name, value), *_ = wrong.items()
    with pytest.raises(ValueError, match=rf"{name} must be in \[0, 1\), got {value}"):
        Dropout(**wrong)


@pytest.mark.parametrize("name", ["dim", "depth", "num_heads", "mlp_dim"])
@pytest.mark.parametrize("value", [0, -1])
def test_wrong_sizes_are_errors_that_name_them(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name} must be positive, got {value}: pass"):
        dataclasses.replace(SIZE, **{name: value})


def test_width_that_does_not_divide_into_heads_says_which_number_of_heads_would() -> None:
    with pytest.raises(ValueError, match=r"dim=8 and num_heads=3: each head.*use [24] heads"):
        encoder(EncoderOptions(), size=dataclasses.replace(SIZE, num_heads=3))


# What is random in training --------------------------------------------------------------------------------------


def marked() -> Encoder:
    """An encoder whose branch j adds one to channel j and nothing else: attention is branch 2i of block i, MLP 2i+1."""
    model = jax.tree.map(jnp.zeros_like, encoder(EncoderOptions()))
    ones = jnp.eye(8)[:6].reshape(3, 2, 8)
    return eqx.tree_at(
        lambda m: (m.stack.attention.project.bias, m.stack.mlp.out.bias), model, (ones[:, 0], ones[:, 1])
    )


@pytest.mark.parametrize("scan", [True, False])
def test_stochastic_depth_drops_branches_at_rates_that_grow_linearly_from_zero(scan: bool) -> None:
    model, draws, dropout = marked(), 2000, Dropout(drop_path=0.5)
    tokens = jnp.zeros((7, 8))
    keys = jax.random.split(jax.random.key(1), draws)
    execution = Execution(scan=scan)
    added = np.asarray(run(jax.vmap(lambda k: model(tokens, execution=execution, dropout=dropout, key=k)), keys))
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
    assert_close(run(model, tokens, dropout=dropout)[:, :6], np.ones((7, 6)))  # and without a key none is


def test_dropout_acts_on_the_embedding_on_branches_and_inside_the_mlp() -> None:
    rate, draws = 0.25, 400
    keys = jax.random.split(jax.random.key(2), draws)
    options, dropout = EncoderOptions(activation="relu"), Dropout(rate)
    ones = jnp.ones((7, 8))

    def kept(model: Encoder, value: Any) -> np.ndarray:
        values = np.asarray(run(jax.vmap(lambda k: model(ones, dropout=dropout, key=k)), keys))
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
    assert_close(run(mlp, ones, dropout=dropout), np.ones((7, 8)))


def test_without_a_key_dropout_and_stochastic_depth_are_the_identity() -> None:
    model, dropout = encoder(EncoderOptions()), Dropout(0.5, 0.5)
    assert np.array_equal(run(model, X, dropout=dropout), run(model, X))
    first, again, other = (run(model, X, dropout=dropout, key=jax.random.key(s)) for s in (0, 0, 1))
    assert np.array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


def test_dropout_differs_between_blocks_and_between_draws_of_a_block() -> None:
    model = marked()
    bias = jnp.ones((3, 8))
    model = eqx.tree_at(lambda m: (m.stack.attention.project.bias, m.stack.mlp.out.bias), model, (bias, 10 * bias))
    tokens = jnp.zeros((7, 8))
    outputs = np.asarray(run(model, tokens, dropout=Dropout(0.5), key=jax.random.key(4)))
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
    model = small_model(execution=Execution(compute_dtype="bfloat16"), encoder=EncoderOptions(qk_norm=qk_norm))
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
    options = EncoderOptions(layer_scale=0.1, qk_norm=True, activation="swiglu")
    model = small_model(
        execution=Execution(compute_dtype="bfloat16"),
        dropout=Dropout(0.1, 0.2),
        encoder=options,
        position="rope",
        class_token=True,
    )
    gradient = run(eqx.filter_grad(lambda m, x, k: m(x, key=k).sum()), model, image_for(model), KEY)
    assert parameters(gradient).keys() == parameters(model).keys()
    for path, array in parameters(gradient).items():
        assert jnp.isfinite(array).all(), path
        assert array.dtype == jnp.float32


def test_attention_weights_sum_to_one_under_bfloat16() -> None:
    model = small_model(execution=Execution(compute_dtype="bfloat16"))
    weights = run(model.backbone.activations, image_for(model), at=("attention_weights",))["attention_weights"]
    assert weights.dtype == jnp.float32
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)


def compiled_instructions(depth: int, *, scan: bool) -> int:
    """How many instructions the compiled encoder has."""
    size = dataclasses.replace(SIZE, depth=depth)
    model, execution = encoder(EncoderOptions(), size=size), Execution(scan=scan)
    params, static = eqx.partition(model, eqx.is_array)
    compiled = jax.jit(lambda p, t: eqx.combine(p, static)(t, execution=execution)).lower(params, X).compile()
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


def test_each_block_gets_its_own_rotation() -> None:
    model = small_model(position="rope_mixed")
    tokens = model.backbone.embed(image_for(model))
    rotation = model.backbone.position.in_attention(tokens)
    assert rotation is not None
    assert rotation.per_block
    x = tokens.sequence
    for i, block in enumerate(model.blocks):
        x = run(block, x, position=vitrail.Rotation(_angles(rotation)[i], num_prefix=0, interleaved=True))
    assert_close(run(model.backbone.encoder, tokens.sequence, position=rotation), x)


def _angles(rotation: vitrail.Rotation) -> jax.Array:
    """The angles by block, head, token and pair, up to whole turns."""
    return jnp.arctan2(rotation.sin, rotation.cos)
