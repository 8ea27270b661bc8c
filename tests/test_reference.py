"""The reference forward pass against NumPy, Flax and algebra; and the errors of `vit_forward`."""

import inspect
from typing import Any, ClassVar, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, image_for, random_array, randomise, run, small_model, tokens_of
from hypothesis import given, settings, strategies as st
from jaxtyping import Array, Float, PRNGKeyArray
from reference import FlaxViT, flax_parameters, float64, np_mean_pool_vit, numpy_weights

import vitrail

FORWARD = {"patch_size": 4, "d_model": 8, "num_heads": 2, "d_ff": 12, "num_layers": 1, "num_classes": 3}
IMAGE = random_array(8, 12, 3)


def forward(image: Any = IMAGE, seed: Any = 0, **changes: Any) -> jax.Array:
    """`vit_forward` at one tiny size, with some arguments changed."""
    return vitrail.vit_forward(seed, image, **(FORWARD | changes))


@st.composite
def sizes(draw: st.DrawFn, *, square_patches: bool = False) -> dict[str, Any]:
    """Mean-pool models of odd sizes: what `config_of` takes.

    (beartype draws random numbers, which a strategy may not, so configurations are made in the tests.)
    """
    heads = draw(st.integers(1, 4))
    height = draw(st.integers(1, 5))
    patch = (height, height if square_patches else draw(st.integers(1, 5)))
    return {
        "grid": (draw(st.integers(1, 4)), draw(st.integers(1, 4))),
        "patch_size": patch,
        "channels": draw(st.integers(1, 5)),
        "size": {
            "dim": heads * draw(st.integers(1, 7)),
            "depth": draw(st.integers(1, 3)),
            "num_heads": heads,
            "mlp_dim": draw(st.integers(1, 33)),
        },
        "num_classes": draw(st.integers(1, 9)),
    }


def config_of(grid: tuple[int, int], patch_size: tuple[int, int], size: Any, **fields: Any) -> vitrail.ViTConfig:
    """A configuration of the drawn sizes."""
    image_size = (grid[0] * patch_size[0], grid[1] * patch_size[1])
    return vitrail.ViTConfig(image_size=image_size, patch_size=patch_size, size=vitrail.EncoderSize(**size), **fields)


@settings(max_examples=20)
@given(drawn=sizes(), seed=st.integers(0, 2**16))
def test_logits_equal_the_numpy_reference(drawn: dict[str, Any], seed: int) -> None:
    config = config_of(**drawn)
    model = randomise(lambda: config.build(key=jax.random.key(0)), seed=seed)
    image = image_for(model, seed=seed)
    expected = np_mean_pool_vit(float64(image), numpy_weights(model), config.size.num_heads, config.encoder.norm_eps)
    assert_close(run(model, image), expected)


@settings(max_examples=6)
@given(drawn=sizes(square_patches=True), seed=st.integers(0, 2**16))
def test_logits_equal_a_flax_module_with_the_same_parameters(drawn: dict[str, Any], seed: int) -> None:
    config = config_of(**drawn)
    model = randomise(lambda: config.build(key=jax.random.key(0)), seed=seed)
    image = image_for(model, seed=seed)
    size = config.size
    flax_model = FlaxViT(
        config.patch_size[0], size.dim, size.num_heads, size.mlp_dim, size.depth, num_classes=config.num_classes or 0
    )
    parameters = flax_parameters(model)
    # Flax's own parameters have these names and shapes, so that none was left at its initial value.
    own = jax.eval_shape(flax_model.init, jax.random.key(0), image)
    assert jax.tree.map(jnp.shape, parameters) == jax.tree.map(jnp.shape, own)
    assert_close(run(model, image), jax.jit(flax_model.apply)(parameters, image))


def test_vit_forward_has_the_signature_of_the_recipe() -> None:
    names = ["seed", "image", "patch_size", "d_model", "num_heads", "d_ff", "num_layers", "num_classes"]
    parameters = inspect.signature(vitrail.vit_forward).parameters
    assert list(parameters) == names
    assert {p.kind for p in parameters.values()} == {inspect.Parameter.POSITIONAL_OR_KEYWORD}
    assert all(p.default is inspect.Parameter.empty for p in parameters.values())
    assert [name for name, p in parameters.items() if p.annotation is int] == [n for n in names if n != "image"]


def test_vit_forward_is_the_reference_model_of_its_seed() -> None:
    config = vitrail.ViTConfig(
        image_size=(8, 12),
        patch_size=(4, 4),
        size=vitrail.EncoderSize(dim=8, depth=1, num_heads=2, mlp_dim=12),
        num_classes=3,
    )
    model = config.build(key=jax.random.key(5))
    expected = np_mean_pool_vit(float64(IMAGE), numpy_weights(model), num_heads=2)
    logits = forward(seed=5)
    assert logits.shape == (3,)
    assert logits.dtype == jnp.float32
    assert_close(logits, expected)


def test_same_seed_same_logits_and_another_seed_others() -> None:
    first, again, other = forward(seed=7), forward(seed=7), forward(seed=8)
    assert np.array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    largest = forward(seed=2**32 - 1)
    assert np.abs(first - largest).max() > 1e-3


def test_vit_forward_works_under_jit_vmap_and_grad() -> None:
    images = random_array(2, 8, 12, 3, seed=1)
    expected = jnp.stack([forward(image) for image in images])

    @jax.jit
    def logits_and_gradients(images: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.vmap(forward)(images), jax.vmap(jax.grad(lambda image: forward(image)[0]))(images)

    logits, gradients = logits_and_gradients(images)
    assert_close(logits, expected)
    # A directional derivative by central differences; float32 logits near 0.1 resolve it to about 1e-5 / step.
    direction = random_array(8, 12, 3, seed=2)
    direction = direction / jnp.linalg.norm(direction)
    step = 0.1
    difference = (forward(images[0] + step * direction) - forward(images[0] - step * direction))[0] / (2 * step)
    assert abs(float(difference)) > 1e-4
    np.testing.assert_allclose(jnp.vdot(gradients[0], direction), difference, rtol=0.05, atol=2e-4)


# Algebra ---------------------------------------------------------------------------------------------------------


def permuted_patches(image: jax.Array, order: np.ndarray, patch: tuple[int, int]) -> jax.Array:
    """The image with its patches in another order."""
    (height, width), channels = patch, image.shape[2]
    rows, cols = image.shape[0] // height, image.shape[1] // width
    patches = [
        np.asarray(image)[r * height : (r + 1) * height, c * width : (c + 1) * width]
        for r in range(rows)
        for c in range(cols)
    ]
    result = np.zeros((rows * height, cols * width, channels), np.float32)
    for place, source in enumerate(order):
        r, c = divmod(place, cols)
        result[r * height : (r + 1) * height, c * width : (c + 1) * width] = patches[source]
    return jnp.asarray(result)


def is_permutation_invariant(model: vitrail.ViT) -> bool:
    """Whether a permutation of the patches leaves the logits as they are."""
    image = image_for(model)
    cells = model.config.grid[0] * model.config.grid[1]
    order = np.random.default_rng(3).permutation(cells)
    assert (order != np.arange(cells)).any()
    moved = run(model, permuted_patches(image, order, model.config.patch_size))
    return bool(np.allclose(run(model, image), moved, rtol=1e-5, atol=1e-5))


def without_position(model: Any) -> Any:
    """The model with its position embedding zeroed."""
    return eqx.tree_at(lambda m: m.backbone.position.patches, model, jnp.zeros_like(model.backbone.position.patches))


@pytest.mark.parametrize("pool", ["mean", "max", "cls"])
def test_permuted_patches_leave_the_logits_alone_only_without_a_position(pool: str) -> None:
    model = small_model(pool=pool, num_registers=1)
    assert is_permutation_invariant(without_position(model))
    assert not is_permutation_invariant(model)


@final
class FirstPatchPool(vitrail.AbstractPool):
    """A wrong pool: it reads one patch."""

    out_dim: int = eqx.field(static=True)
    needs_class_token: ClassVar[bool] = False
    order_invariant: ClassVar[bool] = True

    def __init__(self, dim: int, *, key: PRNGKeyArray):
        self.out_dim = dim

    def __call__(self, tokens: vitrail.Tokens, *, key: PRNGKeyArray | None = None) -> Float[Array, " dim"]:
        return tokens.patches[0]


@final
class WrongAxisPool(vitrail.AbstractPool):
    """A wrong pool: its mean is over the channels, and leaves one number for each patch."""

    out_dim: int = eqx.field(static=True)
    needs_class_token: ClassVar[bool] = False
    order_invariant: ClassVar[bool] = True

    def __init__(self, dim: int, *, key: PRNGKeyArray):
        self.out_dim = dim

    def __call__(self, tokens: vitrail.Tokens, *, key: PRNGKeyArray | None = None) -> Float[Array, " patches"]:
        return jnp.mean(tokens.patches, axis=1)


@final
class SwallowingPool(vitrail.AbstractPool):
    """A wrong pool: its mean is over all tokens, the class token among them."""

    out_dim: int = eqx.field(static=True)
    needs_class_token: ClassVar[bool] = False
    order_invariant: ClassVar[bool] = True

    def __init__(self, dim: int, *, key: PRNGKeyArray):
        self.out_dim = dim

    def __call__(self, tokens: vitrail.Tokens, *, key: PRNGKeyArray | None = None) -> Float[Array, " dim"]:
        return jnp.mean(tokens.sequence, axis=0)


def pools_the_patches_and_nothing_else(pool: vitrail.AbstractPool) -> bool:
    """Whether a pool is the mean of the patch tokens, whatever the prefix; the check that `mean` must pass."""
    tokens = tokens_of(random_array(2, 16), random_array(6, 16, seed=1), (2, 3))
    pooled = np.asarray(pool(tokens))
    return pooled.shape == (16,) and np.allclose(pooled, float64(tokens.patches).mean(axis=0), atol=1e-6)


def test_mean_pool_averages_the_patches_over_the_right_axis_and_leaves_the_class_token() -> None:
    assert pools_the_patches_and_nothing_else(vitrail.MeanPool(16))


@pytest.mark.parametrize("wrong", [FirstPatchPool, WrongAxisPool, SwallowingPool])
def test_the_check_of_the_mean_pool_catches_wrong_pools(wrong: Any) -> None:
    assert not pools_the_patches_and_nothing_else(wrong(16, key=jax.random.key(0)))


def test_a_pool_over_the_wrong_axis_does_not_fit_its_head() -> None:
    model = small_model(pool=WrongAxisPool)  # 6 patches of width 16
    with pytest.raises(ValueError, match=r"the pool WrongAxisPool .* out_dim=16 channels, got shape \(6,\)"):
        run(model, image_for(model))


def test_a_pool_of_one_patch_fails_the_permutation_check() -> None:
    assert not is_permutation_invariant(without_position(small_model(pool=FirstPatchPool)))


def test_swallowing_the_class_token_changes_the_logits_away_from_the_reference() -> None:
    right, wrong = small_model(class_token=True), small_model(class_token=True, pool=SwallowingPool)
    image = image_for(right)
    tokens = run(right.backbone, image)
    head, bias = float64(right.readout.head.linear.weight), float64(right.readout.head.linear.bias)
    expected = head @ float64(tokens.patches).mean(axis=0) + bias
    assert_close(run(right, image), expected)
    assert np.abs(float64(run(wrong, image)) - expected).max() > 1e-3


# Errors of vit_forward -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [-1, 2**32, True])
def test_seed_out_of_range_is_an_error(seed: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=r"seed must be in \[0, 2\*\*32\).*pass a whole number"):
        forward(seed=seed)


@pytest.mark.parametrize("name", list(FORWARD))
@pytest.mark.parametrize("value", [0, -4])
def test_size_that_is_not_positive_is_an_error_that_names_it(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be positive, got {value}: pass"):
        forward(**{name: value})


@pytest.mark.parametrize("name", ["seed", *FORWARD])
def test_size_that_is_not_an_int_is_an_error_that_names_it(name: str) -> None:
    with pytest.raises(TypeError, match=rf"^{name} of vitrail\.vit_forward\(\) must be an int, got the float 2\.0"):
        forward(**{name: 2.0})


def test_width_that_does_not_divide_into_heads_is_an_error_that_says_why() -> None:
    with pytest.raises(ValueError, match=r"d_model must be divisible by num_heads.*d_model=8 and num_heads=3.*head"):
        forward(num_heads=3)


@pytest.mark.parametrize("shape", [(9, 12, 3), (8, 13, 3), (7, 11, 3), (3, 12, 3)])
def test_partial_patch_is_an_error_that_says_what_valid_would_drop_and_how_to_resize(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"VALID.*silently drop the last partial patch.*") as caught:
        forward(random_array(*shape))
    message = str(caught.value)
    assert f"{shape[0]} x {shape[1]}" in message
    assert "jax.image.resize" in message
    # The mend that the message offers is one: its size divides, and is not empty.
    offered = message.split("jax.image.resize(image, (")[1].split(",")[:2]
    assert all(int(size) > 0 and int(size) % 4 == 0 for size in offered)


@pytest.mark.parametrize(
    ("shape", "mend"),
    [((8, 12), r"image\[\.\.\., None\]"), ((8,), "three axes"), ((2, 8, 12, 3), r"jax\.vmap"), ((), "three axes")],
)
def test_image_without_three_axes_is_an_error_that_says_how_to_mend_it(shape: tuple[int, ...], mend: str) -> None:
    with pytest.raises(ValueError, match=rf"image must .*{mend}"):
        forward(jnp.ones(shape))


@pytest.mark.parametrize("dtype", ["uint8", "int32", "bool"])
def test_image_of_integers_is_an_error_that_says_how_to_scale(dtype: str) -> None:
    with pytest.raises(TypeError, match=rf"image must be floating point, got dtype {dtype}: .*/ 255"):
        forward(jnp.ones((8, 12, 3), dtype))


@pytest.mark.parametrize("shape", [(0, 12, 3), (8, 0, 3), (8, 12, 0)])
def test_empty_image_is_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        forward(jnp.ones(shape))


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf])
def test_image_that_is_not_finite_is_an_error(value: float) -> None:
    with pytest.raises(ValueError, match=r"image must be finite.*NaN or infinity: fix"):
        forward(IMAGE.at[3, 5, 1].set(value))


def test_image_that_is_not_finite_is_an_error_under_jit_too() -> None:
    compiled = eqx.filter_jit(forward)
    assert jnp.isfinite(compiled(IMAGE)).all()
    with pytest.raises(RuntimeError, match=r"image must be finite.*NaN or infinity"):
        compiled(IMAGE.at[0, 0, 0].set(jnp.nan))


def test_shape_errors_come_when_tracing() -> None:
    with pytest.raises(ValueError, match="VALID"):
        jax.eval_shape(forward, jax.ShapeDtypeStruct((9, 12, 3), jnp.float32))
