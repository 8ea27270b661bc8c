"""The checks of parts: a right part passes, and each wrong one gets a sentence that says what is wrong with it."""

import dataclasses
import functools
from typing import Any, ClassVar, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Bool, Float, PRNGKeyArray

import vitrail
from vitrail import Tokens
from vitrail.testing import (
    ContractError,
    _pool,
    check_head,
    check_patch_embed,
    check_pool,
    head_checks,
    patch_embed_checks,
    pool_checks,
    position_checks,
)

Mask = Bool[Array, " patches"] | None
Key = PRNGKeyArray | None


@final
class RightPool(vitrail.AbstractPool):
    """A scaled mean with dropout. Each wrong pool below differs from it in one thing."""

    scale: Float[Array, " dim"]
    out_dim: int = eqx.field(static=True)
    needs_class_token: ClassVar[bool] = False
    order_invariant: ClassVar[bool] = True

    def __init__(self, dim: int, *, key: PRNGKeyArray):
        self.scale = jax.random.normal(key, (dim,))
        self.out_dim = dim

    def __call__(self, tokens: Tokens, *, key: Key = None) -> Float[Array, " dim"]:
        pooled = vitrail.MeanPool(tokens.dim)(tokens)
        if key is not None:
            pooled = jnp.where(jax.random.bernoulli(key, 0.9, pooled.shape), pooled, jnp.zeros_like(pooled))
        return pooled * self.scale


def wrong(name: str, *, is_final: bool = True, **changes: Any) -> Any:
    """A pool that is right except for the changed attributes of its class."""
    body = dict(vars(RightPool))
    methods = {k: body[k] for k in ("__init__", "__call__")}
    annotations = {
        "scale": Any,
        "out_dim": int,
        "needs_class_token": ClassVar[bool],
        "order_invariant": ClassVar[bool],
    }
    static = {"out_dim": eqx.field(static=True), "needs_class_token": False, "order_invariant": True}
    annotations |= changes.pop("__annotations__", {})
    made = type(vitrail.AbstractPool)(
        name, (vitrail.AbstractPool,), {"__annotations__": annotations, **static, **methods, **changes}
    )
    return final(made) if is_final else made


def init(**fields: Any) -> Any:
    """An `__init__` that sets other fields than the right one."""

    def __init__(self: Any, dim: int, *, key: PRNGKeyArray) -> None:
        values = {
            "scale": jax.random.normal(key, (dim,)),
            "out_dim": dim,
        }
        for name, value in (values | {k: v(dim, key) if callable(v) else v for k, v in fields.items()}).items():
            setattr(self, name, value)

    return __init__


def call(pooling: Any) -> Any:
    """A `__call__` of a function of the pool, the tokens, the mask and the key."""

    def __call__(self: Any, tokens: Tokens, *, key: Key = None) -> Any:
        return pooling(self, tokens, tokens.mask, key)

    return __call__


def mean(tokens: Tokens, mask: Any) -> Any:
    return vitrail.MeanPool(tokens.dim)(dataclasses.replace(tokens, mask=mask))


def masked(tokens: Tokens, mask: Any, value: float = 0.0) -> Any:
    return tokens.patches if mask is None else jnp.where(mask[:, None], tokens.patches, value)


def positional_init(self: Any, dim: int, factor: float = 1.0, *, key: PRNGKeyArray) -> None:
    init()(self, dim, key=key)


def swallowing_init(self: Any, dim: int, *, key: PRNGKeyArray, **options: Any) -> None:
    init()(self, dim, key=key)


def as_numbers(tokens: Tokens, mask: Any) -> Any:
    return mask[:, None].astype(tokens.patches.dtype)


def multiplying(self: Any, tokens: Tokens, mask: Any, key: Key) -> Any:
    if mask is None:
        return self.scale * mean(tokens, None)
    numbers = as_numbers(tokens, mask)
    return self.scale * jnp.sum(tokens.patches * numbers, axis=0) / jnp.sum(numbers)


def deciding(self: Any, tokens: Tokens, mask: Any, key: Key) -> Any:
    return self.scale * mean(tokens, mask) * (1.0 if float(tokens.patches[0, 0]) > 0 else 2.0)


def host_mean(self: Any, tokens: Tokens, mask: Any, key: Key) -> Any:
    """No gradient passes through it."""
    shape = jax.ShapeDtypeStruct((tokens.dim,), tokens.patches.dtype)
    return self.scale * jax.pure_callback(lambda x: x, shape, mean(tokens, mask), vmap_method="sequential")


RNG = np.random.default_rng(0)
HIDDEN = iter(range(10**6))


def first_row(tokens: Tokens) -> Any:
    return tokens.prefix[0] if tokens.num_prefix else jnp.zeros(tokens.dim)


WRONG: dict[str, tuple[str, Any, str]] = {
    "mean over the channels": (
        "returns_the_width_it_declares",
        wrong("A", __call__=call(lambda s, t, m, k: jnp.sum(masked(t, m), axis=1))),
        r"the output must have the shape \(24,\) by its out_dim, or one row for each token, got \(6,\) for 6 patches",
    ),
    "includes the class token": (
        "leaves_the_prefix_alone",
        wrong("B", __call__=call(lambda s, t, m, k: s.scale * jnp.mean(t.sequence, axis=0))),
        "needs_class_token is False, but it depends on the class token or registers",
    ),
    "reads a register instead of the class token": (
        "reads_the_class_token_if_it_says_so",
        wrong("C", needs_class_token=True, __call__=call(lambda s, t, m, k: s.scale * first_row(t))),
        "it takes tokens without a class token: read tokens.class_token",
    ),
    "declares a class token that it does not read": (
        "reads_the_class_token_if_it_says_so",
        wrong("D", needs_class_token=True),
        "needs_class_token is True, but another class token changes nothing",
    ),
    "ignores the mask": (
        "respects_the_mask",
        wrong("E", __call__=call(lambda s, t, m, k: s.scale * mean(t, None))),
        "other numbers in masked patches must not change the result",
    ),
    "counts masked patches as zeros": (
        "a_mask_equals_a_subset",
        wrong("F", __call__=call(lambda s, t, m, k: s.scale * jnp.mean(masked(t, m), axis=0))),
        "the result with a mask must be that for the unmasked patches alone",
    ),
    "multiplies by the mask": (
        "respects_the_mask",
        wrong("G", __call__=call(multiplying)),
        "NaN in masked patches must not change the result",
    ),
    "is not final": (
        "is_a_final_class",
        wrong("H", is_final=False),
        "H must be decorated with typing.final",
    ),
    "declares another width": (
        "returns_the_width_it_declares",
        wrong("I", __init__=init(out_dim=lambda dim, key: dim + 1)),
        r"the output must have the shape \(25,\) by its out_dim, .* got \(24,\) for 6 patches and 3 prefix tokens",
    ),
    "draws its parameters without the key": (
        "parameters_follow_the_key",
        wrong("J", __init__=init(scale=lambda dim, key: jnp.asarray(RNG.normal(size=dim), jnp.float32))),
        "the parameter .scale must be the same for the same key",
    ),
    "ignores the key for its parameters": (
        "parameters_follow_the_key",
        wrong("K", __init__=init(scale=lambda dim, key: jax.random.normal(jax.random.key(0), (dim,)))),
        "the parameters .scale must be drawn with the key, but two keys draw the same",
    ),
    "is random without a key": (
        "nothing_is_random_without_a_key",
        wrong("L", __call__=call(lambda s, t, m, k: s.scale * mean(t, m) * (1 + float(next(HIDDEN))))),
        "two calls without a key must give the same result",
    ),
    "promotes to float32": (
        "keeps_the_dtype",
        wrong("M", __call__=call(lambda s, t, m, k: (s.scale * mean(t, m)).astype(jnp.float32))),
        "for inputs in bfloat16 the output must be in bfloat16, got float32",
    ),
    "sums in half precision": (
        "keeps_the_dtype",
        wrong("N", __call__=call(lambda s, t, m, k: s.scale * (1000 + mean(t, m)) - 1000 * s.scale)),
        "the result in bfloat16 must be nearly that in float32",
    ),
    "has a parameter that nothing uses": (
        "gradients_reach_every_parameter",
        wrong("O", __call__=call(lambda s, t, m, k: mean(t, m))),
        "the gradient must reach the parameter .scale",
    ),
    "stops the gradient": (
        "gradients_reach_every_parameter",
        wrong("P", __call__=call(lambda s, t, m, k: jax.lax.stop_gradient(mean(t, m)) * s.scale)),
        "the gradient must reach the inputs",
    ),
    "divides by what may be zero": (
        "stays_finite",
        wrong("Q", __call__=call(lambda s, t, m, k: s.scale * mean(t, m) / jnp.linalg.norm(mean(t, m)))),
        "the result and the gradients must be finite for tokens of zeros",
    ),
    "overflows": (
        "stays_finite",
        wrong("R", __call__=call(lambda s, t, m, k: s.scale * mean(t.map(jnp.exp), m))),
        "the result and the gradients must be finite for tokens a hundred times as large",
    ),
    "declares an order that does not matter": (
        "the_order_matters_as_declared",
        wrong("S", order_invariant=False),
        "order_invariant is False, but the order of the patches changes nothing",
    ),
    "reads the first patch": (
        "the_order_matters_as_declared",
        wrong("T", __call__=call(lambda s, t, m, k: s.scale * t.patches[0 if m is None else jnp.argmax(m)])),
        "order_invariant is True, but in another order of the patches",
    ),
    "takes options by position": (
        "options_are_keyword_only",
        wrong("U", __init__=positional_init),
        "factor of U must be keyword-only",
    ),
    "swallows options": (
        "options_are_keyword_only",
        wrong("V", __init__=swallowing_init),
        r"V must not take \*\*options",
    ),
    "holds a number that is not static": (
        "fields_are_arrays_or_static",
        wrong("W", __init__=init(width=3.0), __annotations__={"width": float}),
        "its fields must be arrays or eqx.field",
    ),
    "holds what does not hash": (
        "fields_are_arrays_or_static",
        wrong(
            "X",
            __init__=init(table=lambda dim, key: [1, 2]),
            __annotations__={"table": Any},
            table=eqx.field(static=True),
        ),
        "its static field table must hash",
    ),
    "declares a width that is not a whole number": (
        "declares_what_it_is",
        wrong("Y", __init__=init(out_dim=lambda dim, key: float(dim))),
        r"out_dim must be a plain int, got 24.0",
    ),
    "decides by a value": (
        "jit_equals_eager",
        wrong("Z", __call__=call(deciding)),
        "the check 'jit equals eager' raised ConcretizationTypeError",
    ),
    "leaves the device": (
        "gradients_reach_every_parameter",
        wrong("AA", __call__=call(host_mean)),
        "the check 'gradients reach every parameter' raised ValueError",
    ),
}


def test_a_right_pool_passes() -> None:
    check_pool(wrong("Right"))  # RightPool itself has a case for each check below


def case_of(test: Any, name: str) -> Any:
    """One case of a parametrised test."""
    (check,) = [check for check in test.pytestmark[0].args[1] if check.__name__ == name]
    return functools.partial(test, check=check)


@final
class EmptyArrayPool(vitrail.AbstractPool):
    """It has an array of size zero."""

    nothing: Float[Array, "0 dim"]
    out_dim: int = eqx.field(static=True)
    needs_class_token: ClassVar[bool] = False
    order_invariant: ClassVar[bool] = True

    def __init__(self, dim: int):
        self.nothing = jnp.zeros((0, dim))
        self.out_dim = dim

    def __call__(self, tokens: Tokens, *, key: Key = None) -> Float[Array, " dim"]:
        return vitrail.MeanPool(tokens.dim)(tokens)


@final
class FunctionPool(vitrail.AbstractPool):
    """It has a function in a static field."""

    out_dim: int = eqx.field(static=True)
    activation: Any = eqx.field(static=True)
    needs_class_token: ClassVar[bool] = False
    order_invariant: ClassVar[bool] = True

    def __init__(self, dim: int):
        self.out_dim = dim
        self.activation = jax.nn.relu

    def __call__(self, tokens: Tokens, *, key: Key = None) -> Float[Array, " dim"]:
        return self.activation(vitrail.MeanPool(tokens.dim)(tokens))


def _weigh(pool: Any, tokens: Tokens) -> Float[Array, " dim"]:
    weighted = eqx.tree_at(lambda p: p.scores, vitrail.WeightedPool(tokens.dim, grid=pool.scores.shape), pool.scores)
    return weighted(tokens)


@final
class ForgetfulPool(vitrail.AbstractPool):
    """It has an array for each cell of the grid, and no `resized`."""

    scores: Float[Array, "rows cols"]
    out_dim: int = eqx.field(static=True)
    needs_class_token: ClassVar[bool] = False
    order_invariant: ClassVar[bool] = False

    def __init__(self, dim: int, *, grid: tuple[int, int]):
        self.scores = jnp.zeros(grid)
        self.out_dim = dim

    def __call__(self, tokens: Tokens, *, key: Key = None) -> Float[Array, " dim"]:
        return _weigh(self, tokens)


@final
class WronglyResizedPool(vitrail.AbstractGridPool):
    """Its `resized` returns the pool for the old grid."""

    scores: Float[Array, "rows cols"]
    out_dim: int = eqx.field(static=True)
    needs_class_token: ClassVar[bool] = False
    order_invariant: ClassVar[bool] = False

    def __init__(self, dim: int, *, grid: tuple[int, int]):
        self.scores = jnp.zeros(grid)
        self.out_dim = dim

    def __call__(self, tokens: Tokens, *, key: Key = None) -> Float[Array, " dim"]:
        return _weigh(self, tokens)

    def resized(self, grid: tuple[int, int]) -> "WronglyResizedPool":
        return self


@pytest.mark.parametrize(
    ("pool", "check", "sentence"),
    [
        (EmptyArrayPool, "fields_are_arrays_or_static", "must not have size zero"),
        (FunctionPool, "fields_are_arrays_or_static", "activation must not be a function"),
        (ForgetfulPool, "follows_the_grid", "must extend AbstractGridPool"),
        (WronglyResizedPool, "follows_the_grid", "resized must return such a pool for the new grid"),
    ],
)
def test_a_pool_that_is_no_ordinary_pytree_or_forgets_the_grid_is_caught(pool: Any, check: str, sentence: str) -> None:
    with pytest.raises(ContractError, match=sentence):
        case_of(pool_checks(pool), check)()


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_pool_is_caught_and_told_what_is_wrong(name: str) -> None:
    check, pool, sentence = WRONG[name]
    with pytest.raises(ContractError, match=sentence) as caught:
        case_of(pool_checks(pool), check)()  # the other checks, which check_pool runs as well, would only cost time
    assert str(caught.value).startswith(f"the pool {pool.__name__} breaks its contract:\n- ")


def test_there_are_mutations_enough() -> None:
    assert len(WRONG) >= 12


@pytest.mark.parametrize("name", ["promotes to float32"])
def test_one_call_runs_every_check(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, pool, sentence = WRONG[name]
    with pytest.raises(ContractError, match=sentence):
        check_pool(pool)
    ran: list[str] = []
    monkeypatch.setattr(_pool, "check_contract", lambda subject, checks: ran.extend(c.__name__ for c in checks))
    check_pool(pool)
    assert ran == [c.__name__ for c in pool_checks(pool).pytestmark[0].args[1]]  # type: ignore[attr-defined]


class Subclass(vitrail.AbstractHead):
    """Not a pool at all."""


def test_what_is_not_a_pool_is_refused() -> None:
    with pytest.raises(TypeError, match=r"must be a class that extends vitrail.AbstractPool"):
        check_pool(vitrail.LinearHead)  # type: ignore[arg-type]
    with pytest.raises(vitrail.UnknownPartError, match="did you mean 'mean'"):
        check_pool("meen")


def test_every_breach_gets_its_sentence() -> None:
    pool = wrong("Several", is_final=False, __init__=positional_init, __call__=call(lambda s, t, m, k: mean(t, None)))
    with pytest.raises(ContractError) as caught:
        check_pool(pool)
    said = str(caught.value)
    for sentence in ("typing.final", "keyword-only", "must reach the parameter .scale", "masked patches"):
        assert sentence in said
    assert said.count("\n- ") >= 4


@final
class NegativeWeights(vitrail.AbstractWeighingPool):
    """Its weights are negative, and its masked patches have some."""

    out_dim: int = eqx.field(static=True)
    needs_class_token: ClassVar[bool] = False
    order_invariant: ClassVar[bool] = True

    def __init__(self, dim: int):
        self.out_dim = dim

    def __call__(self, tokens: Tokens, *, key: Key = None) -> Float[Array, " dim"]:
        return mean(tokens, tokens.mask)

    def weights(self, tokens: Tokens) -> Float[Array, "maps patches"]:
        return jnp.sin(jnp.arange(tokens.patches.shape[0], dtype=jnp.float32) + 1)[None]


def test_negative_weights_are_caught() -> None:
    with pytest.raises(ContractError, match=r"must not be negative(.|\n)*weights of masked patches must be zero"):
        case_of(pool_checks(NegativeWeights), "weights_are_shares")()


def test_a_prefix_that_is_read_on_purpose_needs_reads_prefix() -> None:
    spec = vitrail.POOLS.configure("mean", include_prefix=True)
    with pytest.raises(ContractError, match=r"the pool mean\(include_prefix=True\) breaks.*\n.*reads_prefix=True"):
        case_of(pool_checks(spec), "leaves_the_prefix_alone")()
    names = {check.__name__ for check in pool_checks(spec, reads_prefix=True).pytestmark[0].args[1]}  # type: ignore[attr-defined]
    assert names == {check.__name__ for check in pool_checks(spec).pytestmark[0].args[1]} - {"leaves_the_prefix_alone"}  # type: ignore[attr-defined]


# The other kinds -------------------------------------------------------------------------------------------------


@final
class TransposedPatches(vitrail.AbstractPatchEmbed):
    """Rows for columns, and cut off where a patch is not whole."""

    inner: vitrail.ConvPatchEmbed
    patch_size: tuple[int, int] = eqx.field(static=True)

    def __init__(self, dim: int, *, patch_size: tuple[int, int], channels: int, init: vitrail.Init, key: PRNGKeyArray):
        self.inner = vitrail.ConvPatchEmbed(dim, patch_size=patch_size, channels=channels, init=init, key=key)
        self.patch_size = patch_size

    def __call__(self, image: Float[Array, "height width channels"]) -> Float[Array, "rows cols dim"]:
        height, width = (n - n % p for n, p in zip(image.shape[:2], self.patch_size, strict=True))
        return self.inner(image[:height, :width]).swapaxes(0, 1)

    def resized(self, patch_size: tuple[int, int]) -> vitrail.AbstractPatchEmbed:
        return self

    def with_channels(self, mix: Float[Array, "new_channels channels"]) -> vitrail.AbstractPatchEmbed:
        return self


def test_a_wrong_patch_embedding_is_caught() -> None:
    with pytest.raises(ContractError) as caught:
        check_patch_embed(TransposedPatches)
    said = str(caught.value)
    assert "the output must have the shape (rows, cols, dim) = (3, 2, 24), got (2, 3, 24)" in said
    assert "an image of 13 x 8 must raise a ValueError, because it does not divide into patches of 4 x 4" in said
    assert "resized to patches twice as large, the output for an image twice as large must have the shape" in said


@final
class StubbornPosition(vitrail.AbstractPosition):
    """It is not resized, and does not take a class token."""

    inner: vitrail.LearnedPosition

    def __init__(self, dim: int, *, grid: tuple[int, int], class_token: bool, num_registers: int, key: PRNGKeyArray):
        self.inner = vitrail.LearnedPosition(
            dim, grid=grid, class_token=class_token, num_registers=num_registers, key=key
        )

    def __call__(self, tokens: Tokens) -> Tokens:
        return self.inner(tokens)

    def in_attention(self, tokens: Tokens) -> vitrail.Rotation | None:
        return None

    def resized(self, grid: tuple[int, int]) -> "StubbornPosition":
        return self

    def with_class_token(self, row: Float[Array, " dim"] | None) -> "StubbornPosition":
        return self

    def with_registers(self, rows: Float[Array, "added dim"] | None, *, kept: int) -> "StubbornPosition":
        return self


@final
class DroppingPosition(vitrail.AbstractPosition):
    """It loses the prefix."""

    def __call__(self, tokens: Tokens) -> Tokens:
        return dataclasses.replace(tokens, class_token=None, registers=None)

    def in_attention(self, tokens: Tokens) -> vitrail.Rotation | None:
        return None

    def resized(self, grid: tuple[int, int]) -> "DroppingPosition":
        return self

    def with_class_token(self, row: Float[Array, " dim"] | None) -> "DroppingPosition":
        return self

    def with_registers(self, rows: Float[Array, "added dim"] | None, *, kept: int) -> "DroppingPosition":
        return self


@pytest.mark.parametrize(
    ("position", "check", "sentence"),
    [
        (
            StubbornPosition,
            "fits_another_grid_when_resized",
            r"'fits another grid when resized' raised ValueError: tokens must have the grid",
        ),
        (
            StubbornPosition,
            "takes_and_drops_a_class_token",
            r"'takes and drops a class token' raised ValueError: this position embedding has",
        ),
        (
            DroppingPosition,
            "returns_the_same_number_of_tokens",
            "it must return tokens and rotate queries without changing a shape",
        ),
    ],
)
def test_a_wrong_position_is_caught(position: Any, check: str, sentence: str) -> None:
    with pytest.raises(ContractError, match=sentence):
        case_of(position_checks(position), check)()


@final
class FlatteningHead(vitrail.AbstractHead):
    """It mixes the tokens, and has another width than it declares."""

    linear: vitrail.Linear
    dim: int = eqx.field(static=True)
    out_dim: int = eqx.field(static=True)

    def __init__(self, dim: int, *, num_classes: int | None, init: vitrail.Init, key: PRNGKeyArray):
        self.dim = dim
        self.out_dim = 1 + (num_classes or 0)
        self.linear = vitrail.Linear(dim, self.out_dim, weight_init=init.head, key=key)

    def __call__(self, x: Float[Array, "*tokens dim"], *, key: Key = None) -> Float[Array, "*tokens classes"]:
        logits = self.linear(x)
        return logits if x.ndim == 1 else logits - jnp.broadcast_to(logits.mean(axis=0), logits.shape)


def test_a_wrong_head_is_caught() -> None:
    with pytest.raises(ContractError) as caught:
        check_head(FlatteningHead)
    assert "out_dim must be num_classes=7, got 8" in str(caught.value)
    assert "the output for several tokens must be that of each alone" in str(caught.value)


# For pytest ------------------------------------------------------------------------------------------------------

MATMUL = vitrail.PATCHES.configure("conv", implementation="matmul")

test_of_three_lines = pool_checks(RightPool)
test_of_a_patch_embedding = patch_embed_checks(MATMUL, patch_size=(3, 5), channels=2)
test_of_a_position = position_checks("rope", grid=(1, 5), num_registers=0)
test_of_a_head = head_checks(vitrail.HEADS.configure("mlp", hidden_dim=5))


def test_the_helper_makes_one_case_for_each_check_and_each_can_fail() -> None:
    test = pool_checks(wrong("NotFinal", is_final=False))
    (mark,) = test.pytestmark  # type: ignore[attr-defined]
    names = [check.__name__ for check in mark.args[1]]
    assert {"is_a_final_class", "respects_the_mask", "the_order_matters_as_declared"} <= set(names)
    outcomes = {}
    for check in mark.args[1][:2]:
        try:
            test(check=check)
            outcomes[check.__name__] = True
        except ContractError:
            outcomes[check.__name__] = False
    assert outcomes == {"can_be_built_and_called": True, "is_a_final_class": False}
