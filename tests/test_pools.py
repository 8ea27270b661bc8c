"""Every pool against NumPy from its paper, against timm and Flax with copied weights, and under masks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    assert_close,
    builtins,
    final_norm,
    image_for,
    masked,
    parameters,
    random_array,
    randomise,
    run,
    small_model,
    tokens_of,
)
from hypothesis import given, settings, strategies as st
from reference import float64
from reference_pools import REFERENCES, np_generalised_mean, softmax
from timm_pools import assert_equals_timm

import vitrail
from vitrail import POOLS, AbstractWeighingPool, Tokens

KEY = jax.random.key(0)
DIM = 12
NAMES = builtins(POOLS)
SPECS: dict[str, Any] = {name: name for name in NAMES if name in REFERENCES} | {
    "mean with prefix": POOLS.configure("mean", include_prefix=True),
    "lse fixed": POOLS.configure("lse", learned=False, temperature=0.3),
    "attention of three heads and two queries": POOLS.configure(
        "attention", num_heads=3, num_queries=2, activation="gelu_tanh", mlp_dim=7, norm_eps=1e-3
    ),
    "aim of three heads": POOLS.configure("aim", num_heads=3, qkv_bias=True),
    "abmil of five": POOLS.configure("abmil", hidden_dim=5),
    "simpool of one": POOLS.configure("simpool", gamma=1.0),
    "simpool of two": POOLS.configure("simpool", gamma=2.0, norm_eps=1e-3),
    "cait of three": POOLS.configure("cait", depth=3, num_heads=4, mlp_dim=5),
    "cait of one": POOLS.configure("cait", depth=1),
    "top 2 by score": POOLS.configure("top_k", k=2, criterion="score"),
    "top 1": POOLS.configure("top_k", k=1),
}

with np.load(Path(__file__).parent / "fixtures" / "timm_pools.npz", allow_pickle=False) as _file:
    TIMM = dict(_file)


def make_tokens(grid: tuple[int, int] = (2, 3), *, prefix: int = 2, dim: int = DIM, seed: int = 0) -> Tokens:
    """Random tokens."""
    return tokens_of(random_array(prefix, dim, seed=seed), random_array(grid[0] * grid[1], dim, seed=seed + 1), grid)


def pool_of(choice: Any, *, grid: tuple[int, int] = (2, 3), dim: int = DIM, seed: int = 0) -> Any:
    """A pool with every parameter random."""
    context = vitrail.PoolContext(dim=dim, grid=grid, init=vitrail.TRUNC_NORMAL)
    return randomise(lambda: POOLS.build(choice, context, key=KEY), seed=seed)


def weights_of(pool: Any) -> dict[str, np.ndarray]:
    """Its parameters in float64, by dotted paths."""
    leaves = jax.tree_util.tree_leaves_with_path(pool)
    return {jax.tree_util.keystr(path, simple=True, separator="."): float64(leaf) for path, leaf in leaves}


def expected_of(label: str, pool: Any, tokens: Tokens) -> tuple[np.ndarray, np.ndarray | None]:
    """What the pool must return, and its weights if it has some."""
    return REFERENCES[label](float64(tokens.patches), float64(tokens.prefix), weights_of(pool), tokens.grid)


def relative_difference(actual: Any, expected: np.ndarray) -> float:
    """The largest difference in parts of the largest number."""
    assert actual.shape == expected.shape
    return float(np.max(np.abs(float64(actual) - expected)) / np.max(np.abs(expected)))


# Numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", SPECS)
@pytest.mark.parametrize("grid", [(3, 5), (1, 1)])
def test_every_pool_equals_its_paper(label: str, grid: tuple[int, int]) -> None:
    pool, tokens = pool_of(SPECS[label], grid=grid), make_tokens(grid, seed=sum(grid))
    value, shares = expected_of(label, pool, tokens)
    assert relative_difference(run(pool, tokens), value) <= 1e-5
    assert isinstance(pool, AbstractWeighingPool) == (shares is not None)
    if shares is not None:
        assert relative_difference(run(pool.weights, tokens), shares) <= 1e-5


@settings(max_examples=25)
@given(
    label=st.sampled_from(["mean", "max", "lse", "gem", "sum", "mean_max"]),
    patches=st.integers(1, 9),
    dim=st.integers(1, 7),
    scale=st.sampled_from([1e-3, 1.0, 30.0]),
    seed=st.integers(0, 99),
)
def test_simple_pools_equal_their_papers_at_any_size(
    label: str, patches: int, dim: int, scale: float, seed: int
) -> None:
    tokens = make_tokens((1, patches), dim=dim, seed=seed).map(lambda x: scale * x)
    pool = pool_of(label, dim=dim, seed=seed)
    value, _ = expected_of(label, pool, tokens)
    assert relative_difference(pool(tokens), value) <= 1e-5


@pytest.mark.parametrize("name", sorted({key.split("/")[0] for key in TIMM}))
def test_pools_equal_timms(name: str) -> None:
    """What timm gave when `tests/oracles/make_fixtures.py` ran; `make test-oracles` compares with timm itself."""
    arrays = {key.partition("/")[2]: array for key, array in TIMM.items() if key.startswith(f"{name}/")}
    assert_equals_timm(name, arrays)


class FlaxMAPHead(nn.Module):
    """Multi-head attention pooling as big_vision has it, in Flax linen."""

    heads: int
    mlp_dim: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        probe = self.param("probe", nn.initializers.xavier_uniform(), (1, 1, width))
        attention = nn.MultiHeadDotProductAttention(self.heads, name="attention")
        y = attention(jnp.tile(probe, (len(x), 1, 1)), x)
        hidden = nn.gelu(nn.Dense(self.mlp_dim, name="hidden")(nn.LayerNorm(name="norm")(y)), approximate=True)
        return (y + nn.Dense(width, name="out")(hidden))[:, 0]


@pytest.mark.parametrize("heads", [1, 3])
def test_attention_equals_a_flax_map_head(heads: int) -> None:
    spec = POOLS.configure("attention", num_heads=heads, mlp_dim=20, activation="gelu_tanh")
    pool, tokens = pool_of(spec), make_tokens((3, 4))
    w = weights_of(pool)
    kinds = ("query", "key", "value")
    matrices, biases = (
        dict(zip(kinds, np.split(w[f"attention.qkv.{kind}"], 3), strict=True)) for kind in ("weight", "bias")
    )
    attention: dict[str, Any] = {
        name: {"kernel": matrices[name].T.reshape(DIM, heads, -1), "bias": biases[name].reshape(heads, -1)}
        for name in matrices
    }
    attention["out"] = {
        "kernel": w["attention.project.weight"].T.reshape(heads, -1, DIM),
        "bias": w["attention.project.bias"],
    }
    flax_weights = {
        "probe": w["queries"][None],
        "attention": attention,
        "norm": {"scale": w["norm.weight"], "bias": w["norm.bias"]},
        "hidden": {"kernel": w["mlp.hidden.weight"].T, "bias": w["mlp.hidden.bias"]},
        "out": {"kernel": w["mlp.out.weight"].T, "bias": w["mlp.out.bias"]},
    }
    flax_weights = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), flax_weights)
    head = FlaxMAPHead(heads, 20)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        expected = head.apply({"params": flax_weights}, tokens.patches[None])
        shapes = jax.eval_shape(head.init, KEY, tokens.patches[None])["params"]
    assert jax.tree.map(jnp.shape, flax_weights) == jax.tree.map(jnp.shape, shapes)
    assert relative_difference(run(pool, tokens), float64(expected)[0]) <= 1e-5  # type: ignore[index]


# Limits ----------------------------------------------------------------------------------------------------------


def test_log_sum_exp_goes_from_the_mean_to_the_maximum() -> None:
    tokens = make_tokens()
    pooled = {t: vitrail.LogSumExpPool(DIM, temperature=t)(tokens) for t in (1e-4, 1e4)}
    assert_close(pooled[1e-4], vitrail.MaxPool(DIM)(tokens), tolerance=1e-3)
    assert_close(pooled[1e4], vitrail.MeanPool(DIM)(tokens), tolerance=2e-2)
    assert vitrail.LogSumExpPool(DIM, learned=False).log_temperature is None
    assert not parameters(vitrail.LogSumExpPool(DIM, learned=False))


def test_the_generalised_mean_goes_from_the_mean_to_the_maximum() -> None:
    tokens = make_tokens().map(jnp.abs)
    assert_close(vitrail.GeMPool(DIM, power=1.0)(tokens), vitrail.MeanPool(DIM)(tokens))
    assert_close(vitrail.GeMPool(DIM, power=300.0)(tokens), vitrail.MaxPool(DIM)(tokens), tolerance=2e-2)


@pytest.mark.parametrize("power", [3.0, 50.0])
def test_the_generalised_mean_neither_overflows_nor_meets_negative_numbers(power: float) -> None:
    pool = vitrail.GeMPool(DIM, power=power)
    for tokens in (make_tokens().map(lambda x: 1e4 * x), make_tokens().map(lambda x: -jnp.abs(x)), make_tokens()):
        value = np_generalised_mean(float64(tokens.patches), power, 1e-6)
        assert relative_difference(pool(tokens), value) <= 1e-4  # of logarithms of 1e4 times 50, in float32
        gradient = jax.grad(lambda t, p=pool: p(t).sum())(tokens)
        assert jnp.isfinite(gradient.patches).all()


def test_a_fresh_weighted_pool_is_the_mean_and_all_top_k_are_too() -> None:
    tokens = make_tokens()
    mean = vitrail.MeanPool(DIM)(tokens)
    assert_close(vitrail.WeightedPool(DIM, grid=(2, 3))(tokens), mean)
    assert_close(vitrail.TopKPool(DIM, k=99, key=KEY)(tokens), mean)


@pytest.mark.parametrize("made_for", [(2, 3), (4, 4), (7, 2)])
def test_weighted_interpolates_its_scores_on_another_grid(made_for: tuple[int, int]) -> None:
    pool, tokens = pool_of("weighted", grid=made_for), make_tokens((3, 5))
    value, shares = expected_of("weighted", pool, tokens)
    assert relative_difference(pool(tokens), value) <= 1e-5
    assert relative_difference(pool.weights(tokens), shares) <= 1e-5  # type: ignore[arg-type]


# Masks -----------------------------------------------------------------------------------------------------------

MASKS = [np.array([1, 0, 1, 1, 0, 1], bool), np.array([0, 0, 0, 1, 0, 0], bool), np.ones(6, bool)]
DROPPABLE = [label for label in SPECS if label not in ("none", "weighted")]


@pytest.mark.parametrize("label", DROPPABLE)
@pytest.mark.parametrize("mask", MASKS, ids=lambda mask: "".join(map(str, mask.astype(int))))
def test_a_masked_pool_equals_the_pool_of_the_kept_patches(label: str, mask: np.ndarray) -> None:
    pool, tokens = pool_of(SPECS[label]), make_tokens()
    kept = tokens_of(tokens.prefix, tokens.patches[mask], (1, int(mask.sum())))
    value, shares = expected_of(label, pool, kept)
    given_nan = jnp.where(jnp.asarray(mask)[:, None], tokens.patches, jnp.nan)
    for patches in (tokens.patches, given_nan):
        hidden = tokens_of(tokens.prefix, patches, tokens.grid)
        assert relative_difference(run(pool, masked(hidden, jnp.asarray(mask))), value) <= 1e-5
    if shares is not None:
        made = run(pool.weights, masked(tokens, jnp.asarray(mask)))
        assert relative_difference(made[:, mask], shares) <= 1e-5
        assert np.array_equal(made[:, ~mask], np.zeros_like(made[:, ~mask]))


@pytest.mark.parametrize("mask", MASKS, ids=lambda mask: "".join(map(str, mask.astype(int))))
def test_weighted_shares_its_weights_among_the_kept(mask: np.ndarray) -> None:
    pool, tokens = pool_of("weighted"), make_tokens()
    scores = float64(pool.scores).ravel()
    shares = np.zeros(6)
    shares[mask] = softmax(list(scores[mask]))
    assert relative_difference(pool(masked(tokens, jnp.asarray(mask))), shares @ float64(tokens.patches)) <= 1e-5


def test_none_gives_zeros_for_masked_patches() -> None:
    tokens, mask = make_tokens(), MASKS[0]
    made = vitrail.NoPool(DIM)(masked(tokens, jnp.asarray(mask)))
    expected = np.concatenate([tokens.prefix, np.where(mask[:, None], tokens.patches, 0)])
    assert np.array_equal(made, expected)


@pytest.mark.parametrize("label", ["mean", "attention", "gem", "top_k"])
def test_each_image_of_a_batch_has_its_own_mask(label: str) -> None:
    pool = pool_of(SPECS[label])
    batch = [make_tokens(seed=seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *batch)
    masks = jnp.asarray(np.stack(MASKS))
    made = run(jax.vmap(lambda tokens, mask: pool(masked(tokens, mask))), stacked, masks)
    for i, tokens in enumerate(batch):
        assert_close(made[i], pool(masked(tokens, masks[i])))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "cls"])  # which reads no patch
def test_an_empty_mask_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="mask must be true for at least one patch, got false for all"):
        pool_of(name)(masked(make_tokens(), jnp.zeros(6, bool)))


@pytest.mark.parametrize("mask", [jnp.ones(8, bool), jnp.ones(6), jnp.ones((6, 1), bool)], ids=str)
def test_a_mask_that_does_not_fit_is_an_error(mask: Any) -> None:
    with pytest.raises(TypeError, match="mask"):
        masked(make_tokens(), mask)


def test_an_empty_mask_is_an_error_when_the_program_runs() -> None:
    pool, tokens = vitrail.MeanPool(DIM), make_tokens()
    with pytest.raises(RuntimeError, match="mask must be true for at least one patch"):
        jax.block_until_ready(run(pool, masked(tokens, jnp.zeros(6, bool))))


# What they say of themselves -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "count"),
    [
        ("lse", 1),
        ("gem", 1),
        ("attention", 12 * DIM**2 + 12 * DIM),
        (POOLS.configure("attention", num_queries=4), 12 * DIM**2 + (11 + 4) * DIM),
        ("aim", 3 * DIM**2 + 2 * DIM),
        (POOLS.configure("abmil", hidden_dim=9), 9 * (2 * DIM + 1)),
        ("simpool", 2 * DIM**2 + 2 * DIM),
        ("cait", 2 * (12 * DIM**2 + 15 * DIM) + DIM),
        (POOLS.configure("cait", depth=3), 3 * (12 * DIM**2 + 15 * DIM) + DIM),
        ("weighted", 6),
        (POOLS.configure("top_k", criterion="score"), DIM),
        *((name, 0) for name in ("mean", "cls", "max", "mean_max", "cls_mean", "sum", "top_k", "none")),
    ],
    ids=str,
)
def test_the_number_of_parameters_is_what_the_docstring_says(label: Any, count: int) -> None:
    assert sum(leaf.size for leaf in parameters(pool_of(label)).values()) == count


def test_what_reads_the_class_token_and_what_follows_the_order() -> None:
    pools = {name: pool_of(name) for name in NAMES}
    for name in SPECS.keys() & pools.keys():
        assert pools[name].needs_class_token == (name in {"cls", "cls_mean"})
        assert pools[name].order_invariant == (name not in {"weighted", "none"})
        assert pools[name].out_dim == (2 * DIM if name == "cls_mean" else DIM)


@pytest.mark.parametrize(("dim", "heads"), [(64, 1), (192, 3), (384, 6), (768, 12), (1152, 18), (100, 1), (12, 1)])
def test_there_is_one_head_for_each_64_channels_by_default(dim: int, heads: int) -> None:
    for name in ("attention", "cait"):
        pool: Any = eqx.filter_eval_shape(lambda n=name: pool_of(n, dim=dim))
        attention = pool.attention if name == "attention" else pool.blocks[0].attention
        assert attention.num_heads == heads


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lse", {"temperature": 0.0}, "temperature must be a finite number above zero"),
        ("gem", {"power": -1.0}, "power must be a finite number above zero"),
        ("gem", {"eps": 0.0}, "eps must be a finite number above zero"),
        ("attention", {"num_heads": 5}, "dim must be divisible by num_heads"),
        ("attention", {"num_heads": 0}, "num_heads must be positive"),
        ("attention", {"num_queries": 0}, "num_queries must be positive"),
        ("attention", {"mlp_dim": -3}, "mlp_dim must be positive"),
        ("abmil", {"hidden_dim": 0}, "hidden_dim must be positive"),
        ("simpool", {"gamma": 0.0}, "gamma must be a finite number above zero"),
        ("cait", {"depth": 0}, "depth must be positive"),
        ("cait", {"layer_scale": 0.0}, "layer_scale must be a finite number above zero"),
        ("top_k", {"k": 0}, "k must be positive"),
    ],
)
def test_an_option_out_of_its_range_is_an_error_that_names_it(
    name: str, options: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pool_of(POOLS.configure(name, **options))


def test_an_option_that_is_not_a_choice_is_refused() -> None:
    with pytest.raises(TypeError, match="criterion"):
        vitrail.TopKPool(DIM, criterion="size", key=KEY)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "norm_order"),
    [(name, order) for name in NAMES if name in SPECS for order in ("norm_pool", "pool_norm")]
    + [(a, "norm_pool") for a in POOLS.aliases],
)
def test_every_name_works_in_a_model_by_numpy(name: str, norm_order: Any) -> None:
    """The model's own tokens, pooled by NumPy, give the model's own logits."""
    model = small_model(pool=name, norm_order=norm_order)
    image = image_for(model)
    tokens = run(model.backbone, image)
    value, _ = expected_of(POOLS.aliases.get(name, name), model.readout.pool, tokens)
    if norm_order == "pool_norm":
        value = float64(final_norm(model)(jnp.asarray(value, jnp.float32)))
    logits = value @ float64(model.readout.head.linear.weight).T + float64(model.readout.head.linear.bias)  # type: ignore[attr-defined]
    assert_close(run(model, image), logits, tolerance=3e-5)
