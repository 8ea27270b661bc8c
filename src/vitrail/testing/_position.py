"""The contract of a position embedding, as checks."""

from collections.abc import Callable, Iterator
from typing import Any, Final

import equinox as eqx
import jax
import jax.numpy as jnp

from .._registry import PartSpec
from .._tokens import Tokens
from ..nn import TRUNC_NORMAL
from ..position import POSITIONS, PositionContext, PositionFactory
from ._common import COMMON
from ._subject import (
    GRID,
    Check,
    Subject,
    check_contract,
    differ,
    draw_array,
    draw_part,
    draw_tokens,
    make_test,
    run_compiled,
    trace,
    tree,
)

_REGISTERS: Final = 2


def check_position(
    position: str | PartSpec | PositionFactory,
    *,
    dim: int = 24,
    head_dim: int = 12,
    grid: tuple[int, int] = GRID,
    num_registers: int = _REGISTERS,
) -> None:
    """Checks the whole contract of a position embedding.

    **Arguments:**

    - `position`: a name, a `PartSpec`, a class or a `functools.partial`, as for `vitrail.vit`.
    - `dim`: the width of a token.
    - `head_dim`: the width of an attention head.
    - `grid`: rows and columns of patches.
    - `num_registers`: the number of registers. There is also a class token.

    **Raises:** `ContractError` with a line for each breach; `UnknownPartError`, `OptionError` or `TypeError` if this is
    not a factory of a position embedding.
    """
    check_contract(_make_subject(position, dim, head_dim, grid, num_registers), POSITION_CHECKS)


def position_checks(
    position: str | PartSpec | PositionFactory,
    *,
    dim: int = 24,
    head_dim: int = 12,
    grid: tuple[int, int] = GRID,
    num_registers: int = _REGISTERS,
) -> Callable[..., None]:
    """Makes a test for pytest of what `check_position` checks, with a case for each check.

    **Arguments:** those of `check_position`.

    **Returns:**

    A parametrised test function. Assign it to a name that begins with `test`.

    **Raises:** `MissingExtraError` if pytest is not installed.
    """
    return make_test(lambda: _make_subject(position, dim, head_dim, grid, num_registers), POSITION_CHECKS)


def _make_subject(
    position: str | PartSpec | PositionFactory, dim: int, head_dim: int, grid: tuple[int, int], num_registers: int
) -> Subject:
    def call(part: Any, inputs: Any, key: Any) -> Any:
        tokens, queries = inputs
        rotation = part.rotation(tokens)
        return part(tokens), queries if rotation is None else rotation(queries)

    return Subject(
        who=POSITIONS.describe(position),
        field="position",
        choice=position,
        registry=POSITIONS,
        context=PositionContext(
            dim=dim, grid=grid, class_token=True, num_registers=num_registers, head_dim=head_dim, init=TRUNC_NORMAL
        ),
        inputs=_draw_inputs(dim, head_dim, grid, num_registers),
        call=call,
        takes_key=False,
        config={"class_token": True, "num_registers": 1},
    )


def _draw_inputs(
    dim: int, head_dim: int, grid: tuple[int, int], num_registers: int, *, class_token: bool = True
) -> tuple[Tokens, Any]:
    """Draws tokens, and the queries of two heads."""
    tokens = draw_tokens(dim, grid, class_token=class_token, num_registers=num_registers)
    return tokens, draw_array(2, tokens.num_prefix + grid[0] * grid[1], head_dim, seed=5)


def returns_the_same_number_of_tokens(subject: Subject) -> Iterator[str]:
    """The output has the grid, the number of tokens and the width of the input."""
    yield from _check_shapes(subject, subject.make(jax.random.key(0)), subject.inputs, "")


def a_subset_keeps_its_places(subject: Subject) -> Iterator[str]:
    """A subset of the tokens gets the positions, and its queries the rotation, that it gets among all."""
    part, (tokens, queries) = draw_part(subject), subject.inputs
    indices = jnp.asarray([tokens.patches.shape[0] - 1, 0])
    rows = jnp.concatenate([jnp.arange(tokens.num_prefix), tokens.num_prefix + indices])
    placed, rotated = run_compiled(subject.call, part, subject.inputs, None)
    subset = run_compiled(subject.call, part, (tokens.take(indices), queries[:, rows]), None)
    if difference := differ(subset, (placed.take(indices), rotated[:, rows]), 1e-5):
        yield f"tokens.take(...) must keep its positions, but {difference}: index the table with tokens.at_places"


def fits_another_grid_when_resized(subject: Subject) -> Iterator[str]:
    """Resized to another grid it takes tokens on that grid. Resized to its own grid it stays the same."""
    part, (tokens, queries) = draw_part(subject), subject.inputs
    for grid in ((2, 5), (6, 4), (1, 1)):
        inputs = _draw_inputs(tokens.dim, queries.shape[-1], grid, tokens.num_registers)
        yield from _check_shapes(subject, part.resized(grid), inputs, f"resized to {grid}, ")
    if not eqx.tree_equal(part.resized(tokens.grid), part):
        yield "resized to its own grid, it must stay the same"


def takes_and_drops_a_class_token(subject: Subject) -> Iterator[str]:
    """Without its class token it takes tokens without one. With one again it takes tokens with one."""
    part, (tokens, queries) = draw_part(subject), subject.inputs
    row, head_dim = draw_array(tokens.dim, seed=7), queries.shape[-1]
    bare = part.with_class_token(None)
    without = _draw_inputs(tokens.dim, head_dim, tokens.grid, tokens.num_registers, class_token=False)
    yield from _check_shapes(subject, bare, without, "without a class token, ")
    again = bare.with_class_token(row)
    yield from _check_shapes(subject, again, subject.inputs, "with a class token, ")
    if not eqx.tree_equal(again.with_class_token(None), bare):
        yield "after with_class_token(row), with_class_token(None) must restore it"


def _check_shapes(subject: Subject, part: Any, inputs: Any, when: str) -> Iterator[str]:
    out = trace(subject.call, part, inputs, None)
    before, after = (tree.map(jnp.shape, x) for x in (inputs, out))
    if tree.structure(inputs) != tree.structure(out) or before != after:
        yield f"{when}it must return tokens and rotate queries without changing a shape, got {after} for {before}"


POSITION_CHECKS: Final[tuple[Check, ...]] = (
    *COMMON,
    returns_the_same_number_of_tokens,
    a_subset_keeps_its_places,
    fits_another_grid_when_resized,
    takes_and_drops_a_class_token,
)
