"""Every registered part through one matrix of checks, and each against an independent reference."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, builtins, image_for, prefix_of, random_array, randomise, run, small_model, tokens_of
from reference import ACTIVATIONS, ROTATIONS, float64, np_axial, np_conv, np_layer_norm

import vitrail
from vitrail import HEADS, PATCHES, POOLS, POSITIONS, Tokens
from vitrail.testing import check_head, check_patch_embed, check_pool, check_position

KEY = jax.random.key(0)
DIM, GRID, PREFIX, HEAD_DIM = 12, (3, 2), 3, 4
MATMUL = PATCHES.configure("conv", implementation="matmul")

# The contract ----------------------------------------------------------------------------------------------------


def make_tokens(*, seed: int = 0, grid: tuple[int, int] = GRID, prefix: int = PREFIX, dim: int = DIM) -> Tokens:
    """Random tokens."""
    return tokens_of(random_array(prefix, dim, seed=seed), random_array(grid[0] * grid[1], dim, seed=seed + 1), grid)


def make_patch_embed(choice: Any, **changes: Any) -> Any:
    """A patch embedding for images of 4 x 4 patches."""
    fields: dict[str, Any] = {"dim": DIM, "patch_size": (4, 4), "channels": 3, "init": vitrail.TRUNC_NORMAL}
    return PATCHES.build(choice, vitrail.PatchContext(**(fields | changes)), key=KEY)


def make_position(choice: Any, *, grid: tuple[int, int] = GRID) -> Any:
    """A position embedding for tokens as `make_tokens` returns them."""
    context = vitrail.PositionContext(
        dim=DIM,
        grid=grid,
        class_token=True,
        num_registers=PREFIX - 1,
        head_dim=HEAD_DIM,
        num_heads=2,
        depth=2,
        init=vitrail.TRUNC_NORMAL,
    )
    return POSITIONS.build(choice, context, key=KEY)


def make_pool(choice: Any, *, dim: int = DIM) -> Any:
    """A pool for tokens as `make_tokens` returns them."""
    return POOLS.build(choice, vitrail.PoolContext(dim=dim, grid=GRID, init=vitrail.TRUNC_NORMAL), key=KEY)


def make_head(choice: Any, *, num_classes: int | None = 5) -> Any:
    """A head for one token, or for two if it wants two."""
    context = vitrail.HeadContext(
        dim=DIM,
        num_classes=num_classes,
        token_dim=DIM // 2 if choice == "distilled" else DIM,
        init=vitrail.TRUNC_NORMAL,
    )
    return HEADS.build(choice, context, key=KEY)


@pytest.mark.parametrize(
    ("patch", "options"),
    [
        ("conv", {}),
        ("conv_stem", {}),
        *((patch, {"patch_size": (3, 5), "channels": 5, "dim": 12}) for patch in ("conv", MATMUL)),
        ("conv_stem", {"patch_size": (1, 4), "channels": 1, "dim": 12}),
        ("conv", {"patch_size": (1, 1)}),
        (PATCHES.configure("conv", bias=False), {}),
        (PATCHES.configure("conv", bias=False, implementation="matmul"), {}),
    ],
    ids=str,
)
def test_patch_embeddings_keep_their_contract(patch: str, options: dict[str, Any]) -> None:
    check_patch_embed(patch, **options)


@pytest.mark.parametrize(
    ("position", "options"),
    [
        *((name, {}) for name in builtins(POSITIONS)),
        *((name, {"grid": (1, 5), "num_registers": 0}) for name in builtins(POSITIONS)),
        (POSITIONS.configure("learned", covers_prefix=False), {}),
        (POSITIONS.configure("learned", covers_prefix="class", resize="dinov2_offset"), {}),
        (POSITIONS.configure("sincos2d", rule="mae"), {}),
        (POSITIONS.configure("sincos2d", rule="moco_v3"), {}),
        (POSITIONS.configure("rope", rule="dinov3"), {}),
        (POSITIONS.configure("learned_rope", mixed=True), {}),
        (POSITIONS.configure("relative_bias", shared=True, resize="bilinear"), {}),
        (POSITIONS.configure("rope", rule="eva", base=10000.0, offset=1.0, reference=(5, 3)), {}),
    ],
    ids=str,
)
def test_positions_keep_their_contract(position: Any, options: dict[str, Any]) -> None:
    check_position(position, **options)


@pytest.mark.parametrize(
    ("pool", "options"),
    [
        *((name, {}) for name in builtins(POOLS)),
        (POOLS.configure("mean", include_prefix=True), {"reads_prefix": True}),
        (POOLS.configure("attention", include_prefix=True), {"reads_prefix": True}),
        (POOLS.configure("lse", temperature=0.5, learned=False), {}),
        (POOLS.configure("attention", num_heads=4, num_queries=3, mlp_dim=10, activation="gelu_tanh"), {}),
        (POOLS.configure("simpool", gamma=1.0), {}),
        (POOLS.configure("cait", depth=1, num_heads=3), {}),
        (POOLS.configure("top_k", k=2, criterion="score"), {}),
        ("weighted", {"dim": 7}),
    ],
    ids=str,
)
def test_pools_keep_their_contract(pool: Any, options: dict[str, Any]) -> None:
    check_pool(pool, **options)


@pytest.mark.parametrize(
    ("head", "options"),
    [
        ("linear", {}),
        ("mlp", {}),
        ("none", {"num_classes": None}),
        ("distilled", {"token_dim": 12, "pool": POOLS.configure("cls", num_tokens=2)}),
        (HEADS.configure("linear", zero=True), {}),
        (HEADS.configure("linear", bias=False, activation="tanh"), {}),
        (HEADS.configure("mlp", hidden_dim=5, activation="gelu"), {"dim": 7}),
        (HEADS.configure("projection", hidden_dim=9, bottleneck_dim=5), {}),
        (HEADS.configure("projection", layers=1, bottleneck_dim=3, bias=False, scaled=False), {}),
        ("cosine", {}),
        (HEADS.configure("cosine", projection_dim=5, projection_bias=True, bias=True), {}),
    ],
    ids=str,
)
def test_heads_keep_their_contract(head: Any, options: dict[str, Any]) -> None:
    check_head(head, **options)


# Patch embeddings ------------------------------------------------------------------------------------------------


def random_patch_embed(choice: Any, patch_size: tuple[int, int], channels: int, dim: int = DIM, seed: int = 0) -> Any:
    """A patch embedding with random parameters."""
    return randomise(lambda: make_patch_embed(choice, dim=dim, patch_size=patch_size, channels=channels), seed=seed)


@pytest.mark.parametrize(("patch_size", "channels"), [((4, 4), 3), ((3, 5), 1), ((1, 2), 13)])
@pytest.mark.parametrize("patch", ["conv", MATMUL], ids=str)
def test_conv_equals_a_convolution_by_loops(patch: Any, patch_size: tuple[int, int], channels: int) -> None:
    part = random_patch_embed(patch, patch_size, channels, dim=5)
    image = random_array(3 * patch_size[0], 2 * patch_size[1], channels)
    expected = np_conv(float64(image), float64(part.weight), patch_size) + float64(part.bias)
    assert_close(part(image), expected)


def test_both_implementations_of_conv_have_the_same_weights_and_tokens() -> None:
    conv, matmul = (make_patch_embed(patch, patch_size=(3, 5), channels=4) for patch in ("conv", MATMUL))
    assert (conv.implementation, matmul.implementation) == ("conv", "matmul")
    assert np.array_equal(conv.weight, matmul.weight)
    image = random_array(9, 10, 4)
    assert_close(matmul(image), conv(image))
    with pytest.raises(TypeError, match="implementation"):
        make_patch_embed(PATCHES.configure("conv", implementation="linear"))


@pytest.mark.parametrize("patch_size", [(2, 2), (4, 4), (4, 2), (1, 4), (8, 1)])
def test_conv_stem_equals_convolutions_norms_and_relus(patch_size: tuple[int, int]) -> None:
    part = random_patch_embed("conv_stem", patch_size, 3, dim=8)
    image = random_array(3 * patch_size[0], 2 * patch_size[1], 3)
    x, (down, across) = float64(image), patch_size
    halvings = max(patch_size).bit_length() - 1
    assert len(part.kernels) == halvings
    assert [kernel.shape[0] for kernel in part.kernels] == [8 // 2**i for i in reversed(range(halvings))]
    for kernel, norm in zip(part.kernels, part.norms, strict=True):
        stride = (2 if down > 1 else 1, 2 if across > 1 else 1)
        down, across = down // stride[0], across // stride[1]
        x = np_conv(x, float64(kernel), stride, padding=1)
        x = np.maximum(np_layer_norm(x, float64(norm.weight), float64(norm.bias), 1e-6), 0)
    expected = x @ float64(part.project.weight).T + float64(part.project.bias)
    assert expected.shape == (3, 2, 8)
    assert_close(part(image), expected, tolerance=3e-5)


@pytest.mark.parametrize("patch_size", [(3, 3), (4, 6), (14, 14), (1, 1)])
def test_conv_stem_refuses_patches_that_do_not_halve(patch_size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"patch_size of a convolution stem must be powers of two.*'conv'"):
        vitrail.ConvStemPatchEmbed(16, patch_size=patch_size, channels=3, key=KEY)


def test_conv_stem_refuses_a_width_that_does_not_halve() -> None:
    with pytest.raises(ValueError, match=r"dim of a convolution stem must be a multiple of 8 for.*got 12"):
        vitrail.ConvStemPatchEmbed(12, patch_size=(16, 16), channels=3, key=KEY)


@pytest.mark.parametrize("name", builtins(PATCHES))
@pytest.mark.parametrize("shape", [(9, 8, 3), (8, 11, 3), (3, 8, 3)])
def test_patch_embeddings_refuse_a_partial_patch(name: str, shape: tuple[int, ...]) -> None:
    part = make_patch_embed(name)
    with pytest.raises(ValueError, match=r"multiples of patch_size.*last partial patch"):
        part(random_array(*shape))


@pytest.mark.parametrize("name", builtins(PATCHES))
def test_patch_embeddings_refuse_other_channels_than_they_were_built_for(name: str) -> None:
    part = make_patch_embed(name)
    with pytest.raises((ValueError, TypeError)):
        part(random_array(8, 8, 4))


@pytest.mark.parametrize("name", builtins(PATCHES))
@pytest.mark.parametrize("wrong", [{"dim": 0}, {"channels": 0}, {"patch_size": (4, 0)}, {"patch_size": (-4, 4)}])
def test_patch_embeddings_refuse_sizes_that_are_not_positive(name: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be positive"):
        make_patch_embed(name, **wrong)
    arguments: dict[str, Any] = {"dim": 8, "patch_size": (4, 4), "channels": 3, "key": KEY}
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PATCHES[name](**(arguments | wrong))


# Positions -------------------------------------------------------------------------------------------------------


def reference_sincos(rule: str, rows: int, cols: int, dim: int, temperature: float = 10000.0) -> np.ndarray:
    """One number at a time, from the table of the published rules."""
    quarter = dim // 4
    table = np.zeros((rows * cols, dim))
    for row in range(rows):
        for col in range(cols):
            first, second = {"big_vision": (col, row), "mae": (col, row), "moco_v3": (row, col)}[rule]
            for i in range(quarter):
                exponent = i / (quarter - 1) if rule == "big_vision" else i / quarter
                omega = 1 / temperature**exponent
                table[row * cols + col, [i, quarter + i, 2 * quarter + i, 3 * quarter + i]] = (
                    math.sin(first * omega),
                    math.cos(first * omega),
                    math.sin(second * omega),
                    math.cos(second * omega),
                )
    return table


@pytest.mark.parametrize("grid", [(3, 3), (2, 5), (4, 1)])
@pytest.mark.parametrize("rule", ["big_vision", "mae", "moco_v3"])
def test_sincos2d_equals_the_published_rule(rule: Any, grid: tuple[int, int]) -> None:
    position = vitrail.SinCos2DPosition(16, rule=rule)
    tokens = make_tokens(grid=grid, dim=16)
    expected = reference_sincos(rule, *grid, 16)
    assert_close(position.compute_table(grid, 16), expected)
    assert_close(position(tokens).patches, float64(tokens.patches) + expected)
    assert np.array_equal(position(tokens).prefix, tokens.prefix)
    assert position.in_attention(tokens) is None


def test_sincos2d_temperature() -> None:
    position = vitrail.SinCos2DPosition(8, rule="mae", temperature=100.0)
    assert_close(position.compute_table((2, 3), 8), reference_sincos("mae", 2, 3, 8, temperature=100.0))


@pytest.mark.parametrize(("dim", "rule"), [(6, "mae"), (10, "moco_v3"), (4, "big_vision")])
def test_sincos2d_refuses_widths_without_quarters(dim: int, rule: Any) -> None:
    with pytest.raises(ValueError, match=f"dim must be a multiple of 4.*got {dim}: .*'learned'"):
        vitrail.SinCos2DPosition(dim, rule=rule)


@pytest.mark.parametrize("covers_prefix", [True, False])
def test_learned_adds_its_table_to_the_patches_and_by_choice_to_the_prefix(covers_prefix: bool) -> None:
    position = randomise(
        lambda: vitrail.LearnedPosition(
            DIM, grid=GRID, class_token=True, num_registers=PREFIX - 1, covers_prefix=covers_prefix, key=KEY
        )
    )
    tokens = make_tokens()
    moved = position(tokens)
    assert position.patches.shape == (*GRID, DIM)
    for row in range(GRID[0]):
        for col in range(GRID[1]):
            index = row * GRID[1] + col
            expected = float64(tokens.patches[index]) + float64(position.patches[row, col])
            assert_close(moved.patches[index], expected)
    if covers_prefix:
        assert_close(moved.prefix, float64(tokens.prefix) + float64(prefix_of(position)))
    else:
        assert (position.class_token, position.registers) == (None, None)
        assert np.array_equal(moved.prefix, tokens.prefix)


def test_learned_may_cover_the_class_token_alone() -> None:
    position = randomise(
        lambda: vitrail.LearnedPosition(
            DIM, grid=GRID, class_token=True, num_registers=PREFIX - 1, covers_prefix="class", key=KEY
        )
    )
    tokens = make_tokens()
    assert PREFIX > 1
    assert prefix_of(position).shape == (1, DIM)
    moved = position(tokens)
    assert_close(moved.prefix[0], float64(tokens.prefix[0]) + float64(prefix_of(position)[0]))
    assert np.array_equal(moved.prefix[1:], tokens.prefix[1:])


def test_learned_that_covers_the_class_token_alone_leaves_registers_alone_where_there_is_none() -> None:
    position = POSITIONS.configure("learned", covers_prefix="class")
    model = small_model(pool="mean", num_registers=3, position=position)
    assert prefix_of(model.backbone.position).shape == (0, 16)  # type: ignore[attr-defined]
    assert run(model, image_for(model)).shape == (5,)
    with_token = vitrail.replace(model, pool="cls", key=KEY)
    assert prefix_of(with_token.backbone.position).shape == (1, 16)  # type: ignore[attr-defined]
    assert run(with_token, image_for(model)).shape == (5,)
    assert eqx.tree_equal(vitrail.replace(with_token, pool="mean", key=KEY).backbone.position, model.backbone.position)


def test_factorized_adds_the_vector_of_the_row_and_of_the_column() -> None:
    position = randomise(lambda: vitrail.FactorizedPosition(DIM, grid=GRID, key=KEY))
    tokens = make_tokens()
    moved = position(tokens)
    assert (position.rows.shape, position.cols.shape) == ((GRID[0], DIM), (GRID[1], DIM))
    for index in range(GRID[0] * GRID[1]):
        row, col = divmod(index, GRID[1])
        expected = float64(tokens.patches[index]) + float64(position.rows[row]) + float64(position.cols[col])
        assert_close(moved.patches[index], expected)
    assert np.array_equal(moved.prefix, tokens.prefix)


@pytest.mark.parametrize("name", ["learned", "factorized"])
@pytest.mark.parametrize("grid", [(2, 3), (6, 1), (2, 2)])
def test_tables_refuse_tokens_of_another_grid(name: str, grid: tuple[int, int]) -> None:
    # (2, 3) and (6, 1) have as many cells as the (3, 2) that the table was made for.
    position = make_position(name)
    with pytest.raises((ValueError, TypeError)):
        position(make_tokens(grid=grid))


@pytest.mark.parametrize("name", ["learned", "factorized"])
def test_a_table_of_one_cell_does_not_spread_over_a_grid(name: str) -> None:
    position = make_position(name, grid=(1, 1))
    with pytest.raises((ValueError, TypeError)):
        position(make_tokens())


def test_learned_refuses_another_number_of_prefix_tokens() -> None:
    position = vitrail.LearnedPosition(DIM, grid=GRID, class_token=True, num_registers=0, key=KEY)
    with pytest.raises((ValueError, TypeError)):
        position(make_tokens(prefix=3))


def test_none_leaves_the_tokens_alone() -> None:
    position, tokens = vitrail.NoPosition(), make_tokens()
    assert eqx.tree_equal(position(tokens), tokens)
    assert position.in_attention(tokens) is None
    assert eqx.tree_equal(position.resized((9, 9)), position)


@pytest.mark.parametrize("grid", [(3, 3), (2, 5), (1, 4)])
@pytest.mark.parametrize("rule", ["axial", "dinov3"])
def test_rope_equals_the_published_rule_and_leaves_the_prefix(rule: Any, grid: tuple[int, int]) -> None:
    position = vitrail.RotaryPosition(head_dim=12, rule=rule)
    tokens = make_tokens(grid=grid, prefix=2, dim=24)
    assert eqx.tree_equal(position(tokens), tokens)
    x = random_array(2, 2 + grid[0] * grid[1], 12, seed=4)
    rotation = position.in_attention(tokens)
    assert rotation is not None
    turned = rotation(x)
    for head in range(2):
        assert_close(turned[head], ROTATIONS[rule](float64(x[head]), grid, prefix=2, base=100.0))
    assert np.array_equal(turned[:, :2], x[:, :2])


def test_rope_base() -> None:
    position, tokens = vitrail.RotaryPosition(head_dim=8, base=10.0), make_tokens(dim=8)
    x = random_array(1, PREFIX + 6, 8)
    rotation = position.in_attention(tokens)
    assert rotation is not None
    assert_close(rotation(x)[0], np_axial(float64(x[0]), GRID, PREFIX, 10.0))


@pytest.mark.parametrize("rule", ["axial", "dinov3"])
def test_rope_scores_depend_on_the_offset_alone(rule: Any) -> None:
    grid = (3, 4)
    position = vitrail.RotaryPosition(head_dim=8, rule=rule)
    rotation = position.in_attention(make_tokens(grid=grid, prefix=0, dim=16))
    assert rotation is not None
    # One query and one key at every place: what is left is the place.
    q, k = (jnp.broadcast_to(random_array(1, 1, 8, seed=s), (1, 12, 8)) for s in (0, 1))
    scores = np.asarray(rotation(q)[0] @ rotation(k)[0].T)
    by_offset: dict[tuple[int, int], list[float]] = {}
    for i in range(12):
        for j in range(12):
            (row, col), (other_row, other_col) = divmod(i, 4), divmod(j, 4)
            by_offset.setdefault((row - other_row, col - other_col), []).append(float(scores[i, j]))
    for values in by_offset.values():
        np.testing.assert_allclose(values, values[0], atol=1e-5)
    means = [np.mean(values) for values in by_offset.values()]
    assert np.std(means) > 0.1  # and they do depend on it


def test_rope_refuses_heads_without_quarters() -> None:
    with pytest.raises(ValueError, match=r"head_dim must be a multiple of 4.*got 6: .*'learned'"):
        vitrail.RotaryPosition(head_dim=6)


def reference_resize(table: np.ndarray, axis: int, size: int) -> np.ndarray:
    """Antialiased cubic interpolation of one axis: Keys' kernel with a = -0.5, widened where the axis shrinks."""

    def keys(x: float) -> float:
        x = abs(x)
        if x <= 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0

    old = table.shape[axis]
    ratio = old / size
    matrix = np.zeros((size, old))
    for new in range(size):
        centre = (new + 0.5) * ratio - 0.5
        weights = np.array([keys((centre - i) / max(ratio, 1.0)) for i in range(old)])
        matrix[new] = weights / weights.sum()
    return np.moveaxis(np.tensordot(matrix, table, axes=(1, axis)), 0, axis)


@pytest.mark.parametrize("size", [(6, 8), (2, 3), (7, 2), (1, 1), (4, 9)])
def test_resized_tables_equal_an_antialiased_bicubic_interpolation(size: tuple[int, int]) -> None:
    grid = (4, 5)
    learned = randomise(lambda: vitrail.LearnedPosition(8, grid=grid, class_token=True, num_registers=1, key=KEY))
    resized = learned.resized(size)
    expected = reference_resize(reference_resize(float64(learned.patches), 0, size[0]), 1, size[1])
    assert_close(resized.patches, expected)
    assert np.array_equal(prefix_of(resized), prefix_of(learned))

    factorized = randomise(lambda: vitrail.FactorizedPosition(8, grid=grid, key=KEY)).resized(size)
    original = randomise(lambda: vitrail.FactorizedPosition(8, grid=grid, key=KEY))
    assert_close(factorized.rows, reference_resize(float64(original.rows), 0, size[0]))
    assert_close(factorized.cols, reference_resize(float64(original.cols), 0, size[1]))


@pytest.mark.parametrize("name", builtins(POSITIONS))
def test_resized_to_the_same_grid_is_the_identity(name: str) -> None:
    position = randomise(lambda: make_position(name))
    assert eqx.tree_equal(position.resized(GRID), position)


@pytest.mark.parametrize("name", builtins(POSITIONS))
def test_resized_positions_fit_tokens_of_the_new_grid(name: str) -> None:
    position = make_position(name)
    tokens = make_tokens(grid=(2, 5))
    assert position.resized((2, 5))(tokens).grid == (2, 5)


# Pools and heads -------------------------------------------------------------------------------------------------


def test_class_token_pool_refuses_tokens_without_one() -> None:
    with pytest.raises(ValueError, match=r"reads the class token, got tokens without one.*class_token=True"):
        vitrail.ClassTokenPool(DIM)(make_tokens(prefix=0))


def test_class_token_pool_reads_more_tokens_when_it_is_told_to() -> None:
    tokens = make_tokens(prefix=3)
    pool = vitrail.ClassTokenPool(DIM, num_tokens=2)
    assert pool.out_dim == 2 * DIM
    assert np.array_equal(pool(tokens), np.concatenate([tokens.prefix[0], tokens.prefix[1]]))
    with pytest.raises(ValueError, match=r"a class token and 3 registers.*num_registers=3"):
        vitrail.ClassTokenPool(DIM, num_tokens=4)(tokens)


@pytest.mark.parametrize("name", builtins(POOLS))
def test_pools_refuse_a_width_that_is_not_positive_or_not_theirs(name: str) -> None:
    with pytest.raises(ValueError, match="dim must be positive"):
        make_pool(name, dim=0)
    pool = make_pool(name, dim=DIM + 1)
    widths = rf"({DIM + 1}|{2 * DIM + 2}) channels.* tokens of {DIM}: build it with dim={DIM}"
    with pytest.raises(TypeError, match=rf"^the pool vitrail.{type(pool).__name__} .*{widths}"):
        pool(make_tokens())


def test_linear_head_is_one_matrix_product() -> None:
    head = randomise(lambda: vitrail.LinearHead(DIM, num_classes=5, key=KEY))
    x = random_array(DIM)
    assert_close(head(x), float64(head.linear.weight) @ float64(x) + float64(head.linear.bias))
    assert (head.dim, head.out_dim) == (DIM, 5)


def test_linear_head_without_a_bias_and_with_an_activation() -> None:
    head = randomise(lambda: vitrail.LinearHead(DIM, num_classes=5, bias=False, activation="tanh", key=KEY))
    x = random_array(DIM)
    assert head.linear.bias is None
    assert_close(head(x), np.tanh(float64(head.linear.weight) @ float64(x)))


def test_distilled_head_is_the_mean_of_two_classifiers() -> None:
    head = randomise(lambda: vitrail.DistilledHead(DIM, num_classes=5, key=KEY))
    x = random_array(DIM)
    halves = [
        float64(linear.weight) @ part + float64(linear.bias)
        for linear, part in zip((head.class_token, head.distillation_token), np.split(float64(x), 2), strict=True)
    ]
    assert_close(head(x), np.mean(halves, axis=0))
    with pytest.raises(ValueError, match="dim"):
        vitrail.DistilledHead(DIM + 1, num_classes=5, key=KEY)


@pytest.mark.parametrize("activation", list(vitrail.ACTIVATIONS))
def test_mlp_head_is_two_products_and_an_activation(activation: Any) -> None:
    head = randomise(lambda: vitrail.MLPHead(DIM, num_classes=5, hidden_dim=7, activation=activation, key=KEY))
    x = random_array(3, DIM)
    hidden = float64(x) @ float64(head.hidden.weight).T + float64(head.hidden.bias)
    assert hidden.shape == (3, 7)
    expected = ACTIVATIONS[activation](hidden) @ float64(head.linear.weight).T + float64(head.linear.bias)
    assert_close(head(x), expected)


def test_mlp_head_has_tanh_and_the_width_of_its_input_by_default() -> None:
    head = randomise(lambda: vitrail.MLPHead(DIM, num_classes=5, key=KEY))
    x = random_array(DIM)
    hidden = np.tanh(float64(head.hidden.weight) @ float64(x) + float64(head.hidden.bias))
    assert hidden.shape == (DIM,)
    assert_close(head(x), float64(head.linear.weight) @ hidden + float64(head.linear.bias))


@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_zero_heads_give_zeros_and_still_learn(name: str) -> None:
    head = make_head(HEADS.configure(name, zero=True))
    x = random_array(DIM)
    assert np.array_equal(head(x), np.zeros(5))
    gradient = eqx.filter_grad(lambda head: jax.nn.logsumexp(head(x)) - head(x)[0])(head)
    assert jnp.any(gradient.linear.weight != 0)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "options", [{}, {"projection_dim": 7}, {"projection_dim": 7, "projection_bias": True, "bias": True}]
)
def test_cosine_head_is_the_scaled_cosine_with_each_direction(options: dict[str, Any]) -> None:
    head = randomise(lambda: vitrail.CosineHead(DIM, num_classes=5, key=KEY, **options))
    x = random_array(3, DIM)
    z = float64(x)
    if head.projection is not None:
        z = z @ float64(head.projection.weight).T
        z = z if head.projection.bias is None else z + float64(head.projection.bias)
    cosine = z @ float64(head.directions).T / np.linalg.norm(z, axis=-1, keepdims=True)
    expected = np.exp(float64(head.log_scale)) * cosine + (0 if head.bias is None else float64(head.bias))
    assert (head.bias is not None) == options.get("bias", False)
    assert_close(head(x), expected)


def test_cosine_head_of_zeros_is_finite_and_so_is_its_gradient() -> None:
    head = make_head("cosine")
    assert np.array_equal(head(jnp.zeros(DIM)), np.zeros(5))
    assert np.all(np.isfinite(jax.grad(lambda x: jnp.sum(head(x)))(jnp.zeros(DIM))))


def test_no_head_returns_its_input() -> None:
    head = vitrail.NoHead(DIM)
    x = random_array(4, DIM)
    assert np.array_equal(head(x), x)
    assert (head.dim, head.out_dim) == (DIM, DIM)
    with pytest.raises(ValueError, match=r"num_classes must be None for the head 'none', got 5: .*'linear'"):
        vitrail.NoHead(DIM, num_classes=5)


@pytest.mark.parametrize("name", ["linear", "mlp"])
@pytest.mark.parametrize("num_classes", [None, 0, -3, True])
def test_heads_that_classify_refuse_a_number_of_classes_that_is_none(name: str, num_classes: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=r"num_classes must be a positive.*head='none'"):
        make_head(name, num_classes=num_classes)


@pytest.mark.parametrize("name", builtins(HEADS))
def test_heads_refuse_an_input_of_another_width(name: str) -> None:
    head = make_head(name, num_classes=None if name == "none" else 5)
    with pytest.raises(TypeError, match=r"^x of vitrail.\w*Head.__call__\(\) must have shape .*12,?\), got \(13,\)"):
        head(random_array(DIM + 1))


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_frequencies_need_a_base_above_zero(value: float) -> None:
    with pytest.raises(ValueError, match="base must be a finite number above zero"):
        vitrail.RotaryPosition(head_dim=8, base=value)
    with pytest.raises(ValueError, match="temperature must be a finite number above zero"):
        vitrail.SinCos2DPosition(8, temperature=value)
