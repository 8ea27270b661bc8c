"""The layers that the parts share, and the checks of plain arguments."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, random_array, randomise
from reference import ACTIVATIONS, float64, np_layer_norm

import vitrail

KEY = jax.random.key(0)


@pytest.mark.parametrize("name", list(vitrail.ACTIVATIONS))
def test_activations_equal_their_formulas(name: Any) -> None:
    assert vitrail.ACTIVATIONS.keys() == ACTIVATIONS.keys()
    x = jnp.linspace(-6, 6, 97)
    assert_close(vitrail.ACTIVATIONS[name](x), ACTIVATIONS[name](float64(x)), tolerance=3e-6)


def test_gelu_computes_bfloat16_in_float32() -> None:
    # 1 + erf(x) is a difference of nearly equal numbers where x is negative.
    x = jnp.linspace(-3.5, 3, 27).astype(jnp.bfloat16)
    y = vitrail.ACTIVATIONS["gelu"](x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(float64(y), ACTIVATIONS["gelu"](float64(x)), rtol=2**-8)


def test_the_derivative_of_gelu_is_that_of_jax() -> None:
    x = jnp.linspace(-6, 6, 97)
    ours, theirs = vitrail.ACTIVATIONS["gelu"], lambda x: jax.nn.gelu(x, approximate=False)
    assert_close(jax.vmap(jax.grad(ours))(x), jax.vmap(jax.grad(theirs))(x), tolerance=3e-6)


def test_activations_differ_from_each_other() -> None:
    x = jnp.linspace(-3, 3, 13)
    values = [np.asarray(activation(x)) for activation in vitrail.ACTIVATIONS.values()]
    for i, first in enumerate(values):
        assert all(np.abs(first - second).max() > 1e-4 for second in values[:i])


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5)])
def test_linear_is_a_matrix_product_of_the_last_axis(shape: tuple[int, ...]) -> None:
    layer = randomise(lambda: vitrail.Linear(5, 4, weight_init=jax.nn.initializers.normal(), key=KEY))
    x = random_array(*shape)
    assert layer.bias is not None
    assert layer.weight.shape == (4, 5)
    assert_close(layer(x), float64(x) @ float64(layer.weight).T + float64(layer.bias))


def test_linear_without_a_bias() -> None:
    layer = vitrail.Linear(5, 4, weight_init=jax.nn.initializers.normal(), bias_init=None, key=KEY)
    x = random_array(5)
    assert layer.bias is None
    assert_close(layer(x), float64(layer.weight) @ float64(x))


@pytest.mark.parametrize("eps", [1e-6, 1e-2])
def test_layer_norm_equals_its_formula(eps: float) -> None:
    layer = randomise(lambda: vitrail.LayerNorm(7, eps=eps))
    x = 3 * random_array(4, 7) + 2
    assert_close(layer(x), np_layer_norm(float64(x), float64(layer.weight), float64(layer.bias), eps))


def test_layer_norm_of_large_numbers_does_not_cancel() -> None:
    # The variance as mean(x^2) - mean(x)^2 would lose all digits here.
    x = random_array(3, 16) + 1000
    assert_close(vitrail.LayerNorm(16, eps=1e-6)(x), np_layer_norm(float64(x), 1, 0, 1e-6), tolerance=2e-4)


def test_layer_norm_computes_bfloat16_in_float32() -> None:
    x = (random_array(4, 256) + 30).astype(jnp.bfloat16)
    layer = vitrail.LayerNorm(256, eps=1e-6)
    normal = layer(x)
    assert normal.dtype == jnp.bfloat16
    # Rounding the result costs at most half a unit in bfloat16's eighth digit; computing in bfloat16 costs far more.
    expected = np_layer_norm(float64(x), 1, 0, 1e-6)
    np.testing.assert_allclose(float64(normal), expected, rtol=2**-8, atol=1e-6)


def test_layer_norm_refuses_another_width() -> None:
    with pytest.raises(TypeError, match=r"^x of vitrail.LayerNorm.__call__\(\) must have shape "):
        vitrail.LayerNorm(7, eps=1e-6)(jnp.ones((3, 6)))


def test_the_hook_of_jaxtyping_and_beartype_is_on() -> None:
    """Every call of the package is checked, private functions and constructors too."""
    layer = vitrail.Linear(5, 4, weight_init=jax.nn.initializers.normal(), key=KEY)
    with pytest.raises(TypeError, match=r"^x of vitrail.Linear.__call__\(\) must have shape .*5\), got \(6,\)"):
        layer(jnp.ones(6))
    with pytest.raises(TypeError, match=r"^x of .* must be a JAX floating-point array .*, got dtype int32"):
        layer(jnp.ones(5, jnp.int32))
    with pytest.raises(TypeError, match=r"^dim of vitrail.MeanPool\(\) must be an int, got the string '12'"):
        vitrail.MeanPool("12")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^dim of vitrail.EncoderSize\(\) must be an int, got the float 8.0"):
        vitrail.EncoderSize(dim=8.0, depth=1, num_heads=1, mlp_dim=8)  # type: ignore[arg-type]


def test_whole_numbers_are_taken_where_the_signature_says_float() -> None:
    """A type checker takes an int for a float (PEP 484), so the hook must too."""
    options = vitrail.EncoderOptions(layer_scale=1)
    assert options == vitrail.EncoderOptions(layer_scale=1.0)
    assert vitrail.SinCos2DPosition(8, temperature=100).temperature == 100


def test_two_devices_strict_promotion_and_ranks_are_on() -> None:
    """The ground of conftest.py."""
    assert len(jax.devices()) == 2
    with pytest.raises(ValueError, match="promotion"):
        jnp.ones(2, jnp.float32) + jnp.ones(2, jnp.bfloat16)
    with pytest.raises(ValueError, match="rank"):
        jnp.ones((2, 2)) + jnp.ones(2)


def test_attention_of_another_width_gathers_other_values_than_it_compares() -> None:
    attention = randomise(
        lambda: vitrail.Attention(12, 2, inner_dim=8, init=vitrail.TRUNC_NORMAL, key=jax.random.key(0))
    )
    x, context, values = random_array(3, 12), random_array(5, 12, seed=1), random_array(5, 12, seed=2)
    mask = np.asarray([True, True, False, True, True])
    weight, bias = np.asarray(attention.qkv.weight, np.float64), np.asarray(attention.qkv.bias, np.float64)
    assert weight.shape == (24, 12)
    q, k, v = (
        np.asarray(a) @ w.T + b
        for a, w, b in zip((x, context, values), np.split(weight, 3), np.split(bias, 3), strict=True)
    )
    gathered = np.zeros((3, 8))
    for head in (slice(4), slice(4, 8)):
        for row in range(3):
            scores = np.exp([q[row, head] @ k[i, head] / 2 if mask[i] else -np.inf for i in range(5)])
            gathered[row, head] = scores / scores.sum() @ v[:, head]
    expected = gathered @ np.asarray(attention.project.weight).T + np.asarray(attention.project.bias)
    for strategy in ("auto", "plain", 2):
        assert_close(attention(x, context, values=values, mask=jnp.asarray(mask), strategy=strategy), expected)
    assert_close(attention(x, context, values=context), attention(x, context))
    with pytest.raises(ValueError, match=r"^values need a context, .* got none: pass x as the context$"):
        attention(x, values=x)
    with pytest.raises(ValueError, match="inner_dim must be divisible by num_heads"):
        vitrail.Attention(12, 2, inner_dim=7, init=vitrail.TRUNC_NORMAL, key=jax.random.key(0))


@pytest.mark.parametrize("kind", ["none", "tokens", "each query", "a query that looks at nothing"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_derivative_of_attention_on_a_cpu_is_that_of_its_equation(kind: str, dtype: Any) -> None:
    """Forward, backward, and the second one, beside those that JAX finds for the equation."""
    masks = {
        "tokens": np.arange(5) < 4,
        "each query": np.tri(7, 5, dtype=bool),
        "a query that looks at nothing": np.tri(7, 5, -2, dtype=bool),
    }
    mask = jnp.asarray(masks[kind]) if kind in masks else None
    attention = randomise(lambda: vitrail.Attention(8, 2, init=vitrail.TRUNC_NORMAL, key=KEY))
    attention = jax.tree.map(lambda a: a.astype(dtype), attention)
    primals = [random_array(n, 8, seed=i).astype(dtype) for i, n in enumerate((7, 5, 5))]
    tangents = [random_array(n, 8, seed=3 + i).astype(dtype) for i, n in enumerate((7, 5, 5))]

    def derivatives(strategy: Any) -> Any:
        def loss(x: Any, context: Any, values: Any) -> Any:
            y = attention(x, context, values=values, mask=mask, strategy=strategy)
            return jnp.mean(jnp.sin(y.astype(jnp.float32)))

        return jax.jit(jax.jvp, static_argnums=0)(jax.value_and_grad(loss, argnums=(0, 1, 2)), primals, tangents)

    expected = jax.tree.leaves(derivatives("plain"))
    assert all(jnp.isfinite(e).all() and jnp.any(e != 0) for e in expected)
    for found, e in zip(jax.tree.leaves(derivatives("auto")), expected, strict=True):
        assert found.dtype == e.dtype
        assert_close(found, e, tolerance=2e-5 if dtype == jnp.float32 else 0.03)
