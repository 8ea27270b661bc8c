"""The contracts of patch embeddings, position embeddings and heads, as checks."""

from collections.abc import Callable, Iterator
from typing import Any, Final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._init import TRUNC_NORMAL
from .._registry import PartSpec
from .._tokens import Tokens
from ..head import HEADS, AbstractHead, HeadFactory
from ..patch import PATCHES, AbstractPatchEmbed, PatchFactory
from ..pool import PoolFactory
from ..position import POSITIONS, AbstractPosition, PositionFactory
from ._common import COMMON
from ._subject import (
    Check,
    Subject,
    as_test,
    check_all,
    differ,
    name_of,
    random_array,
    random_part,
    random_tokens,
    run_compiled,
    shape_of,
    tree,
)

_GRID: Final = (3, 2)
_REGISTERS: Final = 2


def check_patch_embed(
    patch: str | PartSpec | PatchFactory,
    *,
    dim: int = 24,
    patch_size: tuple[int, int] = (4, 4),
    channels: int = 3,
) -> None:
    """Runs the whole contract of a patch embedding.

    **Arguments:**

    - `patch`: a name, a `PartSpec`, a class or a `functools.partial`, as `vitrail.vit` takes it.
    - `dim`: the width of a token to check it with.
    - `patch_size`: height and width of a patch in pixels.
    - `channels`: of the image.

    **Raises:** `ContractError` with a sentence for each breach; `UnknownPartError`, `OptionError` or `TypeError` where
    this is no factory of a patch embedding.
    """
    check_all(_patch_subject(patch, dim, patch_size, channels), PATCH_CHECKS)


def patch_embed_checks(
    patch: str | PartSpec | PatchFactory,
    *,
    dim: int = 24,
    patch_size: tuple[int, int] = (4, 4),
    channels: int = 3,
) -> Callable[..., None]:
    """A test for pytest of what `check_patch_embed` checks, with a case for each check.

    **Arguments:** those of `check_patch_embed`.

    **Returns:**

    A parametrised test function: assign it to a name that begins with `test`.
    """
    return as_test(lambda: _patch_subject(patch, dim, patch_size, channels), PATCH_CHECKS)


def check_position(
    position: str | PartSpec | PositionFactory,
    *,
    dim: int = 24,
    head_dim: int = 12,
    grid: tuple[int, int] = _GRID,
    num_registers: int = _REGISTERS,
) -> None:
    """Runs the whole contract of a position embedding.

    **Arguments:**

    - `position`: a name, a `PartSpec`, a class or a `functools.partial`, as `vitrail.vit` takes it.
    - `dim`: the width of a token to check it with.
    - `head_dim`: that of a head.
    - `grid`: rows and columns of patches.
    - `num_registers`: how many registers there are beside the class token.

    **Raises:** `ContractError` with a sentence for each breach; `UnknownPartError`, `OptionError` or `TypeError` where
    this is no factory of a position embedding.
    """
    check_all(_position_subject(position, dim, head_dim, grid, num_registers), POSITION_CHECKS)


def position_checks(
    position: str | PartSpec | PositionFactory,
    *,
    dim: int = 24,
    head_dim: int = 12,
    grid: tuple[int, int] = _GRID,
    num_registers: int = _REGISTERS,
) -> Callable[..., None]:
    """A test for pytest of what `check_position` checks, with a case for each check.

    **Arguments:** those of `check_position`.

    **Returns:**

    A parametrised test function: assign it to a name that begins with `test`.
    """
    return as_test(lambda: _position_subject(position, dim, head_dim, grid, num_registers), POSITION_CHECKS)


def check_head(
    head: str | PartSpec | HeadFactory,
    *,
    dim: int = 24,
    num_classes: int | None = 7,
    pool: str | PartSpec | PoolFactory = "mean",
) -> None:
    """Runs the whole contract of a head.

    **Arguments:**

    - `head`: a name, a `PartSpec`, a class or a `functools.partial`, as `vitrail.vit` takes it.
    - `dim`: the width of what comes in.
    - `num_classes`: how many logits there are; `None` for a head without classes.
    - `pool`: of the model that it is tried in, for a head that does not go with every pool.

    **Raises:** `ContractError` with a sentence for each breach; `UnknownPartError`, `OptionError` or `TypeError` where
    this is no factory of a head.
    """
    check_all(_head_subject(head, dim, num_classes, pool), HEAD_CHECKS)


def head_checks(
    head: str | PartSpec | HeadFactory,
    *,
    dim: int = 24,
    num_classes: int | None = 7,
    pool: str | PartSpec | PoolFactory = "mean",
) -> Callable[..., None]:
    """A test for pytest of what `check_head` checks, with a case for each check.

    **Arguments:** those of `check_head`.

    **Returns:**

    A parametrised test function: assign it to a name that begins with `test`.
    """
    return as_test(lambda: _head_subject(head, dim, num_classes, pool), HEAD_CHECKS)


# Patch embeddings ------------------------------------------------------------------------------------------------


def _patch_subject(
    patch: str | PartSpec | PatchFactory, dim: int, patch_size: tuple[int, int], channels: int
) -> Subject:
    factory = PATCHES.resolve(patch)

    def make(key: Any) -> Any:
        return factory(dim, patch_size=patch_size, channels=channels, init=TRUNC_NORMAL, key=key)

    def call(part: Any, image: Any, key: Any) -> Any:
        return part(image)

    return Subject(
        who=f"the patch embedding {name_of(patch)}",
        field="patch",
        choice=patch,
        registry=PATCHES,
        abstract=AbstractPatchEmbed,
        make=make,
        inputs=random_array(_GRID[0] * patch_size[0], _GRID[1] * patch_size[1], channels),
        call=call,
        takes_key=False,
        config={
            "patch_size": patch_size,
            "image_size": (2 * patch_size[0], 3 * patch_size[1]),
            "channels": channels,
        },
    )


def gives_a_grid_of_tokens(subject: Subject) -> Iterator[str]:
    """One token for each patch, laid out as they lie, whatever the size of the image."""
    part = subject.make(jax.random.key(0))
    height, width, channels = subject.inputs.shape
    down, across = height // _GRID[0], width // _GRID[1]
    dim = None
    for rows, cols in (_GRID, (1, 5), (1, 1)):
        image = jax.ShapeDtypeStruct((rows * down, cols * across, channels), jnp.float32)
        out = shape_of(subject.call, part, image, None)
        dim = out.shape[-1] if dim is None else dim
        if out.shape != (rows, cols, dim):
            yield f"it must give (rows, cols, dim) = {(rows, cols, dim)}, but it gives {out.shape}"


def refuses_a_partial_patch(subject: Subject) -> Iterator[str]:
    """An image that does not divide into patches is an error, and not cut off."""
    part = subject.make(jax.random.key(0))
    height, width, channels = subject.inputs.shape
    if height == _GRID[0] and width == _GRID[1]:
        return  # patches of one pixel divide every image
    more = random_array(height + (height > _GRID[0]), width + (height == _GRID[0]), channels)
    try:
        subject.call(part, more, None)
    except (ValueError, TypeError):
        return
    yield f"an image of {more.shape[0]} x {more.shape[1]} must be refused, as its last patches are not whole"


def a_patch_reads_its_own_pixels(subject: Subject) -> Iterator[str]:
    """The first token does not change with the pixels of the opposite corner, and the last does."""
    part, image = random_part(subject), subject.inputs
    before = np.asarray(run_compiled(subject.call, part, image, None))
    after = np.asarray(run_compiled(subject.call, part, image.at[-1, -1].add(1.0), None))
    if not np.allclose(before[0, 0], after[0, 0], atol=1e-5):
        yield "the first patch must not depend on the last pixel: are rows and columns mixed up?"
    if np.allclose(before[-1, -1], after[-1, -1], atol=1e-5):
        yield "the last patch must depend on the last pixel: are rows and columns mixed up?"


def fits_other_patches_when_resized(subject: Subject) -> Iterator[str]:
    """Resized to patches twice as large it gives as many tokens of images twice as large, or says that it cannot."""
    part = subject.make(jax.random.key(0))
    height, width, channels = subject.inputs.shape
    before = shape_of(subject.call, part, subject.inputs, None).shape
    try:
        other = part.resized((2 * height // _GRID[0], 2 * width // _GRID[1]))
    except ValueError:
        return
    after = shape_of(subject.call, other, jax.ShapeDtypeStruct((2 * height, 2 * width, channels), jnp.float32), None)
    if after.shape != before:
        yield f"resized to patches twice as large it must give {before} of images twice as large, not {after.shape}"


PATCH_CHECKS: Final[tuple[Check, ...]] = (
    *COMMON,
    gives_a_grid_of_tokens,
    refuses_a_partial_patch,
    a_patch_reads_its_own_pixels,
    fits_other_patches_when_resized,
)


# Position embeddings ---------------------------------------------------------------------------------------------


def _position_subject(
    position: str | PartSpec | PositionFactory, dim: int, head_dim: int, grid: tuple[int, int], num_registers: int
) -> Subject:
    factory = POSITIONS.resolve(position)

    def make(key: Any) -> Any:
        return factory(
            dim,
            grid=grid,
            class_token=True,
            num_registers=num_registers,
            head_dim=head_dim,
            init=TRUNC_NORMAL,
            key=key,
        )

    def call(part: Any, inputs: Any, key: Any) -> Any:
        tokens, queries = inputs
        rotation = part.rotation(tokens)
        return part(tokens), queries if rotation is None else rotation(queries)

    return Subject(
        who=f"the position embedding {name_of(position)}",
        field="position",
        choice=position,
        registry=POSITIONS,
        abstract=AbstractPosition,
        make=make,
        inputs=_placed(dim, head_dim, grid, num_registers),
        call=call,
        takes_key=False,
        config={"class_token": True, "num_registers": 1},
    )


def _placed(
    dim: int, head_dim: int, grid: tuple[int, int], num_registers: int, *, class_token: bool = True
) -> tuple[Tokens, Any]:
    tokens = random_tokens(dim, grid, class_token=class_token, num_registers=num_registers)
    return tokens, random_array(2, tokens.num_prefix + grid[0] * grid[1], head_dim, seed=5)


def returns_the_tokens_that_came(subject: Subject) -> Iterator[str]:
    """What comes out has the grid, the numbers and the width of what went in."""
    yield from _fits(subject, subject.make(jax.random.key(0)), subject.inputs, "")


def a_subset_keeps_its_places(subject: Subject) -> Iterator[str]:
    """Some of the tokens get the positions, and their queries the rotation, that they get among all."""
    part, (tokens, queries) = random_part(subject), subject.inputs
    kept = jnp.asarray([tokens.patches.shape[0] - 1, 0])
    rows = jnp.concatenate([jnp.arange(tokens.num_prefix), tokens.num_prefix + kept])
    placed, turned = run_compiled(subject.call, part, subject.inputs, None)
    subset = run_compiled(subject.call, part, (tokens.take(kept), queries[:, rows]), None)
    if difference := differ(subset, (placed.take(kept), turned[:, rows]), 1e-5):
        yield f"tokens.take(...) must keep its positions, but {difference}: index the table with tokens.at_places"


def fits_another_grid_when_resized(subject: Subject) -> Iterator[str]:
    """Resized to another grid it takes tokens of that grid, and resized to its own it stays."""
    part, (tokens, queries) = random_part(subject), subject.inputs
    for grid in ((2, 5), (6, 4), (1, 1)):
        inputs = _placed(tokens.dim, queries.shape[-1], grid, tokens.num_registers)
        yield from _fits(subject, part.resized(grid), inputs, f"resized to {grid}, ")
    if not eqx.tree_equal(part.resized(tokens.grid), part):
        yield "resized to the grid that it has, it must stay as it is"


def takes_and_gives_away_a_class_token(subject: Subject) -> Iterator[str]:
    """Without its class token it takes tokens without one, and with one again tokens with one."""
    part, (tokens, queries) = random_part(subject), subject.inputs
    row, head_dim = random_array(tokens.dim, seed=7), queries.shape[-1]
    bare = part.with_class_token(None)
    without = _placed(tokens.dim, head_dim, tokens.grid, tokens.num_registers, class_token=False)
    yield from _fits(subject, bare, without, "without a class token, ")
    again = bare.with_class_token(row)
    yield from _fits(subject, again, subject.inputs, "with a class token, ")
    if not eqx.tree_equal(again.with_class_token(None), bare):
        yield "with a class token more and then less, it must be as before"


def _fits(subject: Subject, part: Any, inputs: Any, when: str) -> Iterator[str]:
    out = shape_of(subject.call, part, inputs, None)
    came, went = (tree.map(jnp.shape, x) for x in (inputs, out))
    if tree.structure(inputs) != tree.structure(out) or came != went:
        yield f"{when}it must return the tokens that came, moved, and turn queries as they are, but {went} went out"


POSITION_CHECKS: Final[tuple[Check, ...]] = (
    *COMMON,
    returns_the_tokens_that_came,
    a_subset_keeps_its_places,
    fits_another_grid_when_resized,
    takes_and_gives_away_a_class_token,
)


# Heads -----------------------------------------------------------------------------------------------------------


def _head_subject(
    head: str | PartSpec | HeadFactory, dim: int, num_classes: int | None, pool: str | PartSpec | PoolFactory
) -> Subject:
    factory = HEADS.resolve(head)

    def make(key: Any) -> Any:
        return factory(dim, num_classes=num_classes, init=TRUNC_NORMAL, key=key)

    def call(part: Any, x: Any, key: Any) -> Any:
        return part(x, key=key)

    return Subject(
        who=f"the head {name_of(head)}",
        field="head",
        choice=head,
        registry=HEADS,
        abstract=AbstractHead,
        make=make,
        inputs=random_array(dim),
        call=call,
        takes_key=True,
        config={"num_classes": num_classes, "pool": pool, "num_registers": 1},
    )


def gives_the_logits_it_declares(subject: Subject) -> Iterator[str]:
    """One vector of `out_dim`, or one for each token; each token has its own."""
    part, x = random_part(subject), subject.inputs
    if part.dim != x.shape[0]:
        yield f"dim must be the width that it was made for, {x.shape[0]}, but it is {part.dim}"
    if subject.config["num_classes"] not in (None, part.out_dim):
        yield f"out_dim must be num_classes={subject.config['num_classes']}, but it is {part.out_dim}"
    out = run_compiled(subject.call, part, x, None)
    if out.shape != (part.out_dim,):
        yield f"of one vector it must give ({part.out_dim},) as out_dim says, but it gives {out.shape}"
    rows = jnp.stack([x, 2 * x + 1, -x])
    every = run_compiled(subject.call, part, rows, None)
    expected = jnp.stack([run_compiled(subject.call, part, row, None) for row in rows])
    if difference := differ(every, expected, 1e-5):
        yield f"of several tokens it must give the logits of each, but {difference}"


HEAD_CHECKS: Final[tuple[Check, ...]] = (*COMMON, gives_the_logits_it_declares)
