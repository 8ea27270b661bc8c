"""The contract of a pooling, as checks."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._init import TRUNC_NORMAL
from .._registry import PartSpec
from .._tokens import Tokens
from ..pool import POOLS, AbstractPool, AbstractWeighingPool, PoolFactory
from ._common import COMMON, gradients
from ._subject import (
    Check,
    Subject,
    as_test,
    check_all,
    differ,
    name_of,
    random_part,
    random_tokens,
    run_compiled,
    shape_of,
    tree,
)

_GRID: Final = (3, 2)
_KEPT: Final = np.array([True, False, True, True, False, True])
_DECLARED: Final = {"out_dim": int, "needs_class_token": bool, "order_invariant": bool}


def check_pool(pool: str | PartSpec | PoolFactory, *, dim: int = 24, reads_prefix: bool = False) -> None:
    """Runs the whole contract of a pooling.

    !!! example

        ```python
        vitrail.testing.check_pool(MyPool)
        ```

    It is made as a model makes it; its parameters are then drawn anew, so that nothing hides behind zeros and ones.

    **Arguments:**

    - `pool`: a name, a `PartSpec`, a class or a `functools.partial`, as `vitrail.vit` takes it.
    - `dim`: the width of a token to check it with, for a pool that does not take every width.
    - `reads_prefix`: whether it may read the prefix tokens though it needs no class token, as `mean` does with
        `include_prefix=True`. Without that, a pool that swallows the class token is a breach.

    **Raises:** `ContractError` with a sentence for each breach; `UnknownPartError`, `OptionError` or `TypeError` where
    this is no factory of a pool.
    """
    check_all(_subject(pool, dim), _checks(reads_prefix))


def pool_checks(
    pool: str | PartSpec | PoolFactory, *, dim: int = 24, reads_prefix: bool = False
) -> Callable[..., None]:
    """A test for pytest of what `check_pool` checks, with a case for each check.

    !!! example

        ```python
        from my_package import MyPool
        from vitrail.testing import pool_checks

        test_my_pool = pool_checks(MyPool)
        ```

    **Arguments:** those of `check_pool`.

    **Returns:**

    A parametrised test function: assign it to a name that begins with `test`.

    **Raises:** `MissingExtraError` where pytest is not installed.
    """
    return as_test(lambda: _subject(pool, dim), _checks(reads_prefix))


def _subject(pool: str | PartSpec | PoolFactory, dim: int) -> Subject:
    factory = POOLS.resolve(pool, grid=_GRID, init=TRUNC_NORMAL)

    def make(key: Any) -> Any:
        return factory(dim, key=key)

    def call(part: Any, tokens: Any, key: Any) -> Any:
        return part(tokens, key=key)

    return Subject(
        who=f"the pool {name_of(pool)}",
        field="pool",
        choice=pool,
        registry=POOLS,
        abstract=AbstractPool,
        make=make,
        inputs=_tokens(dim),
        call=call,
        takes_key=True,
        config={"class_token": True, "num_registers": 1},
    )


def _checks(reads_prefix: bool) -> tuple[Check, ...]:
    prefix = () if reads_prefix else (leaves_the_prefix_alone,)
    return (*COMMON, *POOL_CHECKS, *prefix)


def declares_what_it_is(subject: Subject) -> Iterator[str]:
    """Its width, whether it reads the class token, and whether the order counts, are plain static values."""
    part = subject.make(jax.random.key(0))
    fields = {field.name: field for field in dataclasses.fields(part)}
    for name, kind in _DECLARED.items():
        value = getattr(part, name)
        if type(value) is not kind:
            yield f"{name} must be a plain {kind.__name__}, but it is {value!r}"
        if name in fields and not fields[name].metadata.get("static", False):
            yield f"{name} must be eqx.field(static=True): it says what is compiled"


def gives_the_width_it_declares(subject: Subject) -> Iterator[str]:
    """One vector of `out_dim`, or one for each token, whatever the numbers of patches and prefix tokens."""
    part = subject.make(jax.random.key(0))
    dim = subject.inputs.dim
    for grid, prefix in ((_GRID, 3), ((1, 5), 1), ((1, 1), 1), ((2, 2), 0)):
        if prefix == 0 and part.needs_class_token:
            continue
        out = shape_of(subject.call, part, _tokens(dim, grid=grid, prefix=prefix), None)
        where = f"on {grid[0] * grid[1]} patches and {prefix} prefix tokens"
        expected = (part.out_dim,) if len(out.shape) == 1 else (prefix + grid[0] * grid[1], part.out_dim)
        if out.shape != expected:
            yield f"{where} it must give {expected} as out_dim says, or one row a token, but it gives {out.shape}"


def reads_the_class_token_if_it_says_so(subject: Subject) -> Iterator[str]:
    """A pool that needs the class token reads it, and refuses tokens that have none."""
    part = random_part(subject)
    if not part.needs_class_token:
        return
    tokens = subject.inputs
    other = dataclasses.replace(tokens, class_token=tokens.class_token + 1.0)
    if not differ(_run(subject, part, other), _run(subject, part, tokens), 1e-6):
        yield "needs_class_token is True, but another class token changes nothing: declare False"
    try:
        subject.call(part, dataclasses.replace(tokens, class_token=None), None)
    except ValueError:
        return
    yield "needs_class_token is True, but it takes a register where there is no class token: read tokens.class_token"


def leaves_the_prefix_alone(subject: Subject) -> Iterator[str]:
    """A pool that gives one vector does not read registers, and the class token only if it says so."""
    part, tokens = random_part(subject), subject.inputs
    out = _run(subject, part, tokens)
    if out.ndim > 1:
        return  # a pool for dense tasks gives the prefix tokens as well
    other = dataclasses.replace(tokens, registers=tokens.registers + 1.0)
    if not part.needs_class_token:
        other = dataclasses.replace(other, class_token=tokens.class_token + 1.0)
    if differ(_run(subject, part, other), out, 1e-6):
        which = "registers" if part.needs_class_token else "the class token or registers"
        yield (
            f"needs_class_token is {part.needs_class_token}, but it depends on {which}: pool tokens.patches and not "
            "tokens.sequence, or say reads_prefix=True if that is meant"
        )


def stays_finite(subject: Subject) -> Iterator[str]:
    """Equal, large and small tokens give finite results and gradients."""
    part, tokens = random_part(subject), subject.inputs
    both = gradients(subject.call)
    cases: dict[str, Callable[[Any], Any]] = {
        "tokens that are all equal": jnp.ones_like,
        "tokens of zeros": jnp.zeros_like,
        "tokens a hundred times as large": _hundredfold,
        "tokens that are all negative": _negative,
    }
    for name, change in cases.items():
        changed = tree.map(change, tokens)
        arrays = tree.leaves((_run(subject, part, changed), run_compiled(both, part, changed, None)))
        if not all(np.all(np.isfinite(np.asarray(array, np.float64))) for array in arrays):
            yield f"on {name} its result and its gradients must be finite, but they are not"


def heeds_the_mask(subject: Subject) -> Iterator[str]:
    """A mask of ones changes nothing; what is masked, NaN included, changes neither result nor gradient."""
    part, tokens, mask = random_part(subject), subject.inputs, jnp.asarray(_KEPT)
    if difference := differ(_masked(part, tokens, jnp.ones_like(mask)), _run(subject, part, tokens), 1e-5):
        yield f"a mask that is true everywhere must change nothing, but {difference}"
    out = _masked(part, tokens, mask)
    for name, filling in (("other numbers", 7.0), ("NaN", jnp.nan)):
        filled = _filled(tokens, filling)
        if difference := differ(_masked(part, filled, mask), out, 1e-5):
            yield f"{name} in masked patches must not change the result, but {difference}"
            return

    def call(part: Any, tokens: Any, key: Any) -> Any:
        return part(dataclasses.replace(tokens, mask=mask), key=key)

    both = gradients(call)
    expected, of_tokens = run_compiled(both, part, tokens, None)
    if np.any(np.asarray(of_tokens.patches)[~_KEPT] != 0):
        yield "the gradient of masked patches must be zero, but it is not"
    came, _ = run_compiled(both, part, _filled(tokens, jnp.nan), None)
    if difference := differ(came, expected, 1e-5):
        yield f"NaN in masked patches must not change the gradient of the parameters, but {difference}"


def pools_the_kept_patches_alone(subject: Subject) -> Iterator[str]:
    """With a mask, a pool gives what it gives for the kept patches alone, with their places."""
    part, tokens = random_part(subject), subject.inputs
    out = _masked(part, tokens, jnp.asarray(_KEPT))
    kept = tokens.take(jnp.flatnonzero(_KEPT))
    if out.ndim > 1:
        out = out[np.concatenate([np.ones(tokens.num_prefix, bool), _KEPT])]
    if difference := differ(out, _run(subject, part, kept), 1e-5):
        yield f"with a mask it must give what it gives for the kept patches alone, but {difference}"


def order_counts_as_declared(subject: Subject) -> Iterator[str]:
    """Patches in another order give the same if it says so, and something else if it does not."""
    order = np.array([4, 2, 0, 5, 1, 3])
    tokens = subject.inputs
    shuffled = dataclasses.replace(tokens, patches=tokens.patches[order])
    differences = [
        differ(_run(subject, part, shuffled), _run(subject, part, tokens), 1e-5)
        for part in (random_part(subject, seed=seed) for seed in range(2))
    ]
    invariant = random_part(subject).order_invariant
    found = next((difference for difference in differences if difference), None)
    if invariant and found:
        yield f"order_invariant is True, but in another order of the patches {found}: declare False"
    if not invariant and not found:
        yield "order_invariant is False, but the order of the patches changes nothing: declare True"


def weights_are_shares(subject: Subject) -> Iterator[str]:
    """The weights of a pool that weighs patches: not negative, at most one in sum, none for masked patches."""
    part, tokens, mask = random_part(subject), subject.inputs, jnp.asarray(_KEPT)
    if not isinstance(part, AbstractWeighingPool):
        return

    def weights(part: Any, tokens: Any, mask: Any) -> Any:
        return part.weights(dataclasses.replace(tokens, mask=mask))

    for name, given in (("without a mask", None), ("with a mask", mask)):
        made = np.asarray(run_compiled(weights, part, tokens, given), np.float64)
        if made.ndim != 2 or made.shape[1] != len(_KEPT):
            yield f"weights must have the shape (maps, {len(_KEPT)}), a column for each patch, but {made.shape} came"
            return
        if np.any(made < 0) or np.any(made.sum(axis=1) > 1 + 1e-5):
            yield f"weights must not be negative, and each row sum to one at most, but {name} they do not"
        if given is not None and np.any(made[:, ~_KEPT] != 0):
            yield "weights of masked patches must be zero, but they are not"


POOL_CHECKS: Final[tuple[Check, ...]] = (
    declares_what_it_is,
    gives_the_width_it_declares,
    reads_the_class_token_if_it_says_so,
    stays_finite,
    heeds_the_mask,
    pools_the_kept_patches_alone,
    order_counts_as_declared,
    weights_are_shares,
)


def _tokens(dim: int, *, grid: tuple[int, int] = _GRID, prefix: int = 3) -> Tokens:
    return random_tokens(dim, grid, class_token=prefix > 0, num_registers=max(prefix - 1, 0))


def _filled(tokens: Tokens, value: float) -> Tokens:
    patches = jnp.where(jnp.asarray(_KEPT)[:, None], tokens.patches, value)
    return dataclasses.replace(tokens, patches=patches)


def _hundredfold(x: Any) -> Any:
    return 100 * x


def _negative(x: Any) -> Any:
    return -jnp.abs(x) - 0.1


def _run(subject: Subject, part: Any, tokens: Tokens) -> Any:
    return run_compiled(subject.call, part, tokens, None)


@eqx.filter_jit
def _masked(part: Any, tokens: Tokens, mask: Any) -> Any:
    return part(dataclasses.replace(tokens, mask=mask))
