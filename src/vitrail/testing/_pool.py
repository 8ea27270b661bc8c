"""The contract of a pool, as checks."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np

from .._spec import PartSpec
from .._tokens import Tokens
from ..nn import TRUNC_NORMAL
from ..pool import POOLS, AbstractGridPool, PoolContext, PoolFactory
from ._common import COMMON, every_channel_says_something, for_another_width
from ._gradients import differentiate
from ._mask import (
    a_mask_equals_a_subset,
    holds_on_every_grid,
    refuses_a_mask_of_nothing,
    respects_the_mask,
    respects_the_mask_with_a_key,
    run,
)
from ._resized import find_forgotten
from ._subject import (
    GRID,
    Check,
    Subject,
    check_contract,
    differ,
    draw_part,
    draw_tokens,
    is_finite,
    make_test,
    run_compiled,
    trace,
    tree,
)
from ._weights import weights_are_shares, weights_weigh_what_is_pooled

_DECLARED: Final = {"out_dim": int, "needs_class_token": bool, "order_invariant": bool}


def check_pool(pool: str | PartSpec | PoolFactory, *, dim: int = 24, reads_prefix: bool = False) -> None:
    """Checks the whole contract of a pool.

    !!! example

        ```python
        vitrail.testing.check_pool(MyPool)
        ```

    The pool is made as a model makes it. Its parameters are then replaced by random numbers, so that no zero or one
    hides a mistake.

    **Arguments:**

    - `pool`: a name, a `PartSpec`, a class or a `functools.partial`, as for `vitrail.vit`.
    - `dim`: the width of a token, for a pool that does not take every width.
    - `reads_prefix`: whether the pool may read the prefix tokens though it needs no class token, as `mean` does with
        `include_prefix=True`. Otherwise that is a breach.

    **Raises:** `ContractError` with a line for each breach; `UnknownPartError`, `OptionError` or `TypeError` if this is
    not a factory of a pool.
    """
    check_contract(_make_subject(pool, dim), _list_checks(reads_prefix))


def pool_checks(
    pool: str | PartSpec | PoolFactory, *, dim: int = 24, reads_prefix: bool = False
) -> Callable[..., None]:
    """Makes a test for pytest of what `check_pool` checks, with a case for each check.

    !!! example

        ```python
        from my_package import MyPool
        from vitrail.testing import pool_checks

        test_my_pool = pool_checks(MyPool)
        ```

    **Arguments:** those of `check_pool`.

    **Returns:**

    A parametrised test function. Assign it to a name that begins with `test`.

    **Raises:** `MissingExtraError` if pytest is not installed.
    """
    return make_test(lambda: _make_subject(pool, dim), _list_checks(reads_prefix))


def _make_subject(pool: str | PartSpec | PoolFactory, dim: int) -> Subject:
    def call(part: Any, tokens: Any, key: Any) -> Any:
        return part(tokens, key=key)

    return Subject(
        who=POOLS.describe(pool),
        field="pool",
        choice=pool,
        registry=POOLS,
        context=PoolContext(dim=dim, grid=GRID, init=TRUNC_NORMAL),
        inputs=_draw_tokens(dim),
        call=call,
        takes_key=True,
        config={"class_token": True, "num_registers": 1},
        of_width=lambda dim: _make_subject(pool, dim),
    )


def _list_checks(reads_prefix: bool) -> tuple[Check, ...]:
    prefix = () if reads_prefix else (leaves_the_prefix_alone,)
    return (*COMMON, *POOL_CHECKS, *prefix)


def declares_what_it_is(subject: Subject) -> Iterator[str]:
    """`out_dim`, `needs_class_token` and `order_invariant` are plain static values."""
    part = subject.made
    fields = {field.name: field for field in dataclasses.fields(part)}
    for name, kind in _DECLARED.items():
        value = getattr(part, name)
        if type(value) is not kind:
            yield f"{name} must be a plain {kind.__name__}, got {value!r}"
        if name in fields and not fields[name].metadata.get("static", False):
            yield f"{name} must be eqx.field(static=True), because it decides what is compiled"


def returns_the_width_it_declares(subject: Subject) -> Iterator[str]:
    """The output is one vector of `out_dim`, or one for each token, for any number of patches and prefix tokens."""
    part = subject.outline
    dim = subject.inputs.dim
    for grid, prefix in ((GRID, 3), ((1, 5), 1), ((1, 1), 1), ((2, 2), 0)):
        if prefix == 0 and part.needs_class_token:
            continue
        out = trace(subject.call, part, _draw_tokens(dim, grid=grid, prefix=prefix), None)
        patches = grid[0] * grid[1]
        expected = (part.out_dim,) if len(out.shape) == 1 else (prefix + patches, part.out_dim)
        if out.shape != expected:
            yield (
                f"the output must have the shape {expected} by its out_dim, or one row for each token, got {out.shape} "
                f"for {patches} patches and {prefix} prefix tokens"
            )


def reads_the_class_token_if_it_says_so(subject: Subject) -> Iterator[str]:
    """A pool that needs the class token reads it, and refuses tokens without one."""
    part = draw_part(subject)
    if not part.needs_class_token:
        return
    tokens = subject.inputs
    other = dataclasses.replace(tokens, class_token=tokens.class_token + 1.0)
    if not differ(run(subject, part, other), run(subject, part, tokens), 1e-6):
        yield "needs_class_token is True, but another class token changes nothing: declare False"
    try:
        subject.call(part, dataclasses.replace(tokens, class_token=None), None)
    except ValueError:
        return
    yield "needs_class_token is True, but it takes tokens without a class token: read tokens.class_token"


def holds_for_another_width(subject: Subject) -> Iterator[str]:
    """It returns the width that it declares for tokens of twice the width too, or refuses that width."""
    yield from for_another_width(subject, returns_the_width_it_declares)


def leaves_the_prefix_alone(subject: Subject) -> Iterator[str]:
    """A pool that returns one vector reads no registers, and reads the class token only if it says so."""
    part, tokens = draw_part(subject), subject.inputs
    out = run(subject, part, tokens)
    if out.ndim > 1:
        return  # a pool for dense tasks returns the prefix tokens as well
    other = dataclasses.replace(tokens, registers=tokens.registers + 1.0)
    if not part.needs_class_token:
        other = dataclasses.replace(other, class_token=tokens.class_token + 1.0)
    if differ(run(subject, part, other), out, 1e-6):
        which = "registers" if part.needs_class_token else "the class token or registers"
        yield (
            f"needs_class_token is {part.needs_class_token}, but it depends on {which}: pool tokens.patches instead of "
            "tokens.sequence, or pass reads_prefix=True if this is intended"
        )
        return
    fewer = dataclasses.replace(tokens, registers=None)
    if not part.needs_class_token:
        fewer = dataclasses.replace(fewer, class_token=None)
    if difference := differ(run(subject, part, fewer), out, 1e-5):
        yield f"the number of prefix tokens must not change the result, but {difference}"


def stays_finite(subject: Subject) -> Iterator[str]:
    """The result and the gradients are finite for equal, zero, large and negative tokens."""
    part, tokens = draw_part(subject), subject.inputs
    both = differentiate(subject.call)
    cases: dict[str, Callable[[Any], Any]] = {
        "tokens that are all equal": jnp.ones_like,
        "tokens of zeros": jnp.zeros_like,
        "tokens a hundred times as large": _enlarge,
        "tokens that are all negative": _negate,
    }
    for name, change in cases.items():
        changed = tree.map(change, tokens)
        if not is_finite(run(subject, part, changed), run_compiled(both, part, changed, None)):
            yield f"the result and the gradients must be finite for {name}"


def the_order_matters_as_declared(subject: Subject) -> Iterator[str]:
    """Another order or grid of the patches gives the same if the pool says so, and something else if it does not."""
    order = np.array([4, 2, 0, 5, 1, 3])
    tokens = subject.inputs
    shuffled = dataclasses.replace(tokens, patches=tokens.patches[order])
    differences = [
        differ(run(subject, part, shuffled), run(subject, part, tokens), 1e-5)
        for part in (draw_part(subject, seed=seed) for seed in range(2))
    ]
    invariant = draw_part(subject).order_invariant
    found = next((difference for difference in differences if difference), None)
    if invariant and found:
        yield f"order_invariant is True, but in another order of the patches {found}: declare False"
    if not invariant and not found:
        yield "order_invariant is False, but the order of the patches changes nothing: declare True"
    if invariant and not found:
        part = draw_part(subject)
        flat = dataclasses.replace(tokens, grid=(1, tokens.patches.shape[0]))
        if difference := differ(run(subject, part, flat), run(subject, part, tokens), 1e-5):
            yield f"order_invariant is True, but on another grid of as many patches {difference}"


def follows_the_grid(subject: Subject) -> Iterator[str]:
    """A pool whose arrays depend on the grid extends AbstractGridPool, and its `resized` fits another grid."""
    part = draw_part(subject)
    other = (GRID[0] + 2, GRID[1] + 3)
    moved = dataclasses.replace(subject, context=dataclasses.replace(subject.context, grid=other))
    there = moved.make(jax.random.key(0))
    shapes, expected = ([leaf.shape for leaf in tree.leaves(p)] for p in (part, there))
    if not isinstance(part, AbstractGridPool):
        if shapes != expected:
            yield "its arrays depend on the grid, so it must extend AbstractGridPool and have resized(grid)"
        return
    resized: object = part.resized(other)
    if type(resized) is not type(part) or [leaf.shape for leaf in tree.leaves(resized)] != expected:
        yield f"resized must return such a pool for the new grid, as it is built for it, got {resized!r}"


def keeps_what_was_learned_when_resized(subject: Subject) -> Iterator[str]:
    """Resized to its own grid a grid pool stays the same. To another grid its parameters are interpolated."""
    if isinstance(draw_part(subject), AbstractGridPool):
        yield from find_forgotten(subject, GRID, _resize)


def _resize(part: Any, grid: tuple[int, int]) -> Any:
    return part.resized(grid)


POOL_CHECKS: Final[tuple[Check, ...]] = (
    declares_what_it_is,
    returns_the_width_it_declares,
    holds_for_another_width,
    every_channel_says_something,
    reads_the_class_token_if_it_says_so,
    stays_finite,
    respects_the_mask,
    respects_the_mask_with_a_key,
    refuses_a_mask_of_nothing,
    a_mask_equals_a_subset,
    holds_on_every_grid,
    the_order_matters_as_declared,
    weights_are_shares,
    weights_weigh_what_is_pooled,
    follows_the_grid,
    keeps_what_was_learned_when_resized,
)


def _draw_tokens(dim: int, *, grid: tuple[int, int] = GRID, prefix: int = 3) -> Tokens:
    return draw_tokens(dim, grid, class_token=prefix > 0, num_registers=max(prefix - 1, 0))


def _enlarge(x: Any) -> Any:
    return 100 * x


def _negate(x: Any) -> Any:
    return -jnp.abs(x) - 0.1
