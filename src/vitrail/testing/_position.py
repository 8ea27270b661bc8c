"""The contract of a position embedding, as checks."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Final, cast

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from .._spec import PartSpec
from .._tokens import Tokens
from ..nn import TRUNC_NORMAL, RelativeBias, keep_rows, split_blocks
from ..position import POSITIONS, PositionContext, PositionFactory
from ._common import COMMON, for_another_width
from ._resized import find_forgotten
from ._subject import (
    GRID,
    GRIDS,
    Check,
    Subject,
    are_equal,
    check_contract,
    differ,
    draw_array,
    draw_part,
    draw_tokens,
    make_test,
    redraw,
    run_compiled,
    to_host,
    trace,
    tree,
)

_REGISTERS: Final = 2
_HEADS: Final = 2


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
        within = part.in_attention(tokens)
        of_each, of_all = split_blocks(within)
        within = eqx.combine(tree.map(_take_first, of_each), of_all)
        if isinstance(within, RelativeBias):
            return part(tokens), (within().astype(queries.dtype),)
        return part(tokens), queries if within is None else within(queries)

    return Subject(
        who=POSITIONS.describe(position),
        field="position",
        choice=position,
        registry=POSITIONS,
        context=PositionContext(
            dim=dim,
            grid=grid,
            class_token=True,
            num_registers=num_registers,
            head_dim=head_dim,
            num_heads=_HEADS,
            depth=1,
            init=TRUNC_NORMAL,
        ),
        inputs=_draw_inputs(dim, head_dim, grid, num_registers),
        call=call,
        takes_key=False,
        config={"class_token": True, "num_registers": 1},
        of_width=lambda dim: _make_subject(position, dim, head_dim, grid, num_registers),
    )


def _take_first(leaf: Any) -> Any:
    """Of what each block has of its own that of the first."""
    return leaf[0]


def _pick(acted: Any, rows: Any) -> Any:
    """What acts on some tokens: their rotated queries, or the bias of their scores among each other."""
    acted = to_host(acted)
    return (acted[0][:, rows][:, :, rows],) if isinstance(acted, tuple) else acted[:, rows]


def _draw_inputs(
    dim: int, head_dim: int, grid: tuple[int, int], num_registers: int, *, class_token: bool = True
) -> tuple[Tokens, Any]:
    """Draws tokens, and the queries of some heads."""
    tokens = draw_tokens(dim, grid, class_token=class_token, num_registers=num_registers)
    return tokens, draw_array(_HEADS, tokens.num_prefix + grid[0] * grid[1], head_dim, seed=5)


def returns_the_same_number_of_tokens(subject: Subject) -> Iterator[str]:
    """The output has the grid, the number of tokens and the width of the input, with and without prefix tokens."""
    yield from _check_shapes(subject, subject.outline, subject.inputs, "")
    tokens, queries = subject.inputs
    for class_token, num_registers in ((True, 0), (False, 2), (False, 0)):
        context = dataclasses.replace(subject.context, class_token=class_token, num_registers=num_registers)
        part = dataclasses.replace(subject, context=context).outline
        inputs = _draw_inputs(tokens.dim, queries.shape[-1], tokens.grid, num_registers, class_token=class_token)
        when = f"built for class_token={class_token} and num_registers={num_registers}, "
        yield from _check_shapes(subject, part, inputs, when)


def holds_for_another_width(subject: Subject) -> Iterator[str]:
    """It keeps all shapes for tokens of twice the width too, or refuses that width."""
    yield from for_another_width(subject, returns_the_same_number_of_tokens)


def keeps_the_mask(subject: Subject) -> Iterator[str]:
    """The mask, the places and the grid of the tokens come back as they are."""
    part, (tokens, queries) = draw_part(subject), subject.inputs
    number = tokens.patches.shape[0]
    masked = dataclasses.replace(
        tokens, mask=jnp.asarray(np.arange(number) % 2 == 0), places=jnp.asarray(np.arange(number))
    )
    out, _ = run_compiled(subject.call, part, (masked, queries), None)
    kept = [
        None if before is None else after is not None and np.array_equal(before, after)
        for before, after in ((masked.mask, out.mask), (masked.places, out.places))
    ]
    if not all(kept) or out.grid != masked.grid:
        yield "it must keep the mask, the places and the grid of the tokens: use dataclasses.replace"


def adds_to_each_token_alone(subject: Subject) -> Iterator[str]:
    """What it adds, and how it rotates, does not depend on what the tokens hold."""
    part, (tokens, queries) = draw_part(subject), subject.inputs
    added = list[Any]()
    for seed in (100, 200):
        drawn = redraw(tokens, seed=seed)
        placed, rotated = run_compiled(subject.call, part, (drawn, queries), None)
        added.append((tree.map(np.subtract, to_host(placed), to_host(drawn)), rotated))
    if difference := differ(added[0][0], added[1][0], 1e-4):
        yield f"a position must only be added to each token, but for other tokens it adds something else: {difference}"
    if difference := differ(added[0][1], added[1][1], 1e-5):
        yield f"the rotation must not depend on what the tokens hold, but {difference}"


def tells_patches_apart(subject: Subject) -> Iterator[str]:
    """No two patches get the same, on flat, tall, square and large grids. A part that changes nothing is exempt."""
    tokens, queries = subject.inputs
    for grid in (tokens.grid, *GRIDS):
        there = dataclasses.replace(subject, context=dataclasses.replace(subject.context, grid=grid))
        zeros = tree.map(jnp.zeros_like, _draw_inputs(tokens.dim, 1, grid, tokens.num_registers)[0])
        number = zeros.num_prefix + zeros.patches.shape[0]
        query = jnp.asarray(np.repeat(np.asarray(queries)[:, :1], number, axis=1))
        placed, rotated = run_compiled(subject.call, draw_part(there), (zeros, query), None)
        if not isinstance(rotated, tuple) and not differ((placed, rotated), (zeros, query), 0):
            return
        acted = cast(Any, rotated[0] if isinstance(rotated, tuple) else rotated)
        rotated = np.moveaxis(np.asarray(acted), 1, 0)[zeros.num_prefix :]
        given = np.concatenate([np.asarray(placed.patches), rotated.reshape(len(rotated), -1)], axis=1)
        distances = np.abs(given[:, None] - given[None]).max(axis=-1)
        np.fill_diagonal(distances, np.inf)
        if distances.min() < 1e-5 * np.abs(given).max():
            first, second = divmod(int(distances.argmin()), len(distances))
            yield f"it must tell the patches apart, but patches {first} and {second} of a grid of {grid} get the same"
            return


def refuses_other_tokens(subject: Subject) -> Iterator[str]:
    """A part that was made for one grid refuses another, and one that was made for a class token refuses none."""
    part, (tokens, queries) = draw_part(subject), subject.inputs
    rows, cols = tokens.grid
    if not are_equal(part.resized((rows + 1, cols + 1)), part):
        for grid in {(cols, rows), (rows * cols, 1), (1, rows * cols)} - {(rows, cols)}:
            if not _refuses(subject, part, (dataclasses.replace(tokens, grid=grid), queries)):
                yield f"it must raise a ValueError for tokens on another grid, but takes {grid} for {tokens.grid}"
                break
    if not are_equal(part.with_class_token(None), part):
        bare = dataclasses.replace(tokens, class_token=None)
        if not _refuses(subject, part, (bare, jnp.asarray(_pick(queries, slice(1, None))))):
            yield "it must raise a ValueError for tokens without a class token, because it has a position for one"


def _refuses(subject: Subject, part: Any, inputs: Any) -> bool:
    try:
        trace(subject.call, part, inputs, None)
    except ValueError:
        return True
    return False


def a_subset_keeps_its_places(subject: Subject) -> Iterator[str]:
    """A subset of the tokens, or all in another order, get the positions and rotations that they get as a whole."""
    part, (tokens, queries) = draw_part(subject), subject.inputs
    placed, rotated = run_compiled(subject.call, part, subject.inputs, None)
    number = int(tokens.patches.shape[0])
    for chosen in ([number - 1, 0], list(range(number))[::-1]):
        indices = np.array(chosen)
        rows = np.array([*range(tokens.num_prefix), *(tokens.num_prefix + index for index in chosen)])
        subset = run_compiled(subject.call, part, (tokens.take(indices), jnp.asarray(_pick(queries, rows))), None)
        if difference := differ(subset, (placed.take(indices), _pick(rotated, rows)), 1e-5):
            yield f"tokens.take(...) must keep its positions, but {difference}: index the table with tokens.at_places"
            return


def fits_another_grid_when_resized(subject: Subject) -> Iterator[str]:
    """Resized to another grid it takes tokens on that grid."""
    part, (tokens, queries) = draw_part(subject), subject.inputs
    for grid in ((2, 5), (6, 4), *GRIDS):
        inputs = _draw_inputs(tokens.dim, queries.shape[-1], grid, tokens.num_registers)
        yield from _check_shapes(subject, trace(_resize, part, grid), inputs, f"resized to {grid}, ")


def keeps_what_was_learned_when_resized(subject: Subject) -> Iterator[str]:
    """Resized to its own grid it stays the same. To another grid its tables are interpolated, and the rest stays."""
    own = subject.context.grid
    forgotten = list(find_forgotten(subject, own, _resize))
    yield from forgotten
    parts = [draw_part(subject, seed=seed) for seed in range(2)]
    doubled = (2 * own[0], 2 * own[1])
    larger = [_resize(part, doubled) for part in parts]
    if forgotten or tree.map(jnp.shape, larger[0]) == tree.map(jnp.shape, parts[0]):
        return
    # What two draws add differs by what they learned, whatever else a part adds. Each block of 2 x 2 must go with it.
    old, new = (_find_learned(subject, both, grid) for both, grid in ((parts, own), (larger, doubled)))
    shrunk = new.reshape(own[0], 2, own[1], 2, -1).mean(axis=(1, 3)).ravel()
    if np.ptp(old) > 0 and (np.ptp(shrunk) == 0 or np.corrcoef(old.ravel(), shrunk)[0, 1] < 0.5):
        yield "resized must keep what was learned, but a patch does not get what the patch at its place got before"


def _resize(part: Any, grid: tuple[int, int]) -> Any:
    return part.resized(grid)


def _find_learned(subject: Subject, parts: list[Any], grid: tuple[int, int]) -> np.ndarray:
    """The difference between what two parts add to the patches."""
    tokens, queries = subject.inputs
    inputs = _draw_inputs(tokens.dim, queries.shape[-1], grid, tokens.num_registers)
    placed = [run_compiled(subject.call, part, inputs, None)[0] for part in parts]
    return np.asarray(placed[0].patches) - np.asarray(placed[1].patches)


def takes_and_drops_a_class_token(subject: Subject) -> Iterator[str]:
    """Without its class token it takes tokens without one. With one again it adds the new row. All other rows stay."""
    part, (tokens, queries) = draw_part(subject), subject.inputs
    row = draw_array(tokens.dim, seed=7)
    bare = part.with_class_token(None)
    fewer = (dataclasses.replace(tokens, class_token=None), jnp.asarray(_pick(queries, slice(1, None))))
    yield from _check_shapes(subject, bare, fewer, "without a class token, ")
    again = bare.with_class_token(row)
    yield from _check_shapes(subject, again, subject.inputs, "with a class token, ")
    if not are_equal(again.with_class_token(None), bare):
        yield "after with_class_token(row), with_class_token(None) must restore it"
    before, expected = run_compiled(subject.call, part, subject.inputs, None)
    after, rotated = run_compiled(subject.call, again, subject.inputs, None)
    without, short = run_compiled(subject.call, bare, fewer, None)
    rest = slice(1, None)
    others = [
        (x.patches, x.registers, q)
        for x, q in (
            (before, _pick(expected, rest)),
            (after, _pick(rotated, rest)),
            (without, short),
        )
    ]
    if difference := differ(others[1], others[0], 1e-5) or differ(others[2], others[0], 1e-5):
        yield f"with_class_token must keep the positions of the patches and registers, but {difference}"
    has_row = not are_equal(bare, part)
    if has_row and (difference := differ(after.class_token, tokens.class_token + row, 1e-5)):
        yield f"with_class_token(row) must add that row to the class token, but {difference}"


def takes_and_drops_registers(subject: Subject) -> Iterator[str]:
    """With more registers it adds the new rows to them, and without any it takes tokens without. All else stays."""
    part, (tokens, _) = draw_part(subject), subject.inputs
    number, rows = tokens.num_registers, draw_array(3, tokens.dim, seed=7)
    for kept, added in ((number, rows), (number // 2, rows), (0, None)):
        other = part.with_registers(added, kept=kept)
        when = f"with_registers({'None' if added is None else 'rows'}, kept={kept})"
        inputs, stay, now = _change_registers(subject.inputs, added, kept)
        yield from _check_shapes(subject, other, inputs, f"after {when}, ")
        before, expected = run_compiled(subject.call, part, subject.inputs, None)
        after, rotated = run_compiled(subject.call, other, inputs, None)
        new, old = (after.sequence[now], _pick(rotated, now)), (before.sequence[stay], _pick(expected, stay))
        if difference := differ(new, old, 1e-5):
            yield f"{when} must keep the positions of all tokens that stay, but {difference}"
        if added is None or are_equal(other, part):
            continue
        if difference := differ(after.registers[kept:], inputs[0].registers[kept:] + added, 1e-5):
            yield f"{when} must add these rows to the new registers, but {difference}"


def _change_registers(inputs: Any, added: Any, kept: int) -> tuple[Any, np.ndarray, np.ndarray]:
    """Tokens with their first registers and new ones after them, and their queries; and the places of the tokens that
    stay, before and now."""
    tokens, queries = inputs
    last, old = int(tokens.class_token is not None) + kept, tokens.num_prefix
    fresh = 0 if added is None else len(added)
    registers = keep_rows(tokens.registers, None if added is None else 2 * added, kept=kept)
    stay = np.array([*range(last), *range(old, queries.shape[1])])
    now = np.where(stay < last, stay, stay - old + last + fresh)
    changed = np.zeros((queries.shape[0], len(stay) + fresh, queries.shape[2]), np.float32)
    changed[:, now] = np.asarray(queries)[:, stay]
    return (dataclasses.replace(tokens, registers=registers), jnp.asarray(changed)), stay, now


def _check_shapes(subject: Subject, part: Any, inputs: Any, when: str) -> Iterator[str]:
    out, (tokens, queries) = trace(subject.call, part, inputs, None), inputs
    heads, number = queries.shape[:2]
    wanted = (tokens, (np.zeros((heads, number, number)),)) if isinstance(out[1], tuple) else inputs
    before, after = (tree.map(jnp.shape, x) for x in (wanted, out))
    if tree.structure(wanted) != tree.structure(out) or before != after:
        yield f"{when}it must return tokens and rotate queries without changing a shape, got {after} for {before}"


POSITION_CHECKS: Final[tuple[Check, ...]] = (
    *COMMON,
    returns_the_same_number_of_tokens,
    holds_for_another_width,
    keeps_the_mask,
    adds_to_each_token_alone,
    tells_patches_apart,
    a_subset_keeps_its_places,
    refuses_other_tokens,
    fits_another_grid_when_resized,
    keeps_what_was_learned_when_resized,
    takes_and_drops_a_class_token,
    takes_and_drops_registers,
)
