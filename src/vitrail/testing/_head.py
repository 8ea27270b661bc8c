"""The contract of a head, as checks."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np

from .._spec import PartSpec
from ..head import HEADS, HeadContext, HeadFactory
from ..nn import TRUNC_NORMAL
from ..pool import PoolFactory
from ._common import COMMON, every_channel_says_something, for_another_width, with_context
from ._subject import Check, Subject, check_contract, differ, draw_array, draw_part, make_test, run_compiled, trace


def check_head(
    head: str | PartSpec | HeadFactory,
    *,
    dim: int = 24,
    num_classes: int | None = 7,
    token_dim: int | None = None,
    pool: str | PartSpec | PoolFactory = "mean",
) -> None:
    """Checks the whole contract of a head.

    **Arguments:**

    - `head`: a name, a `PartSpec`, a class or a `functools.partial`, as for `vitrail.vit`.
    - `dim`: the width of the input.
    - `num_classes`: the number of classes; `None` for a head without classes.
    - `token_dim`: the width of a token; `None` for `dim`.
    - `pool`: the pool of the model that the head is built into, for a head that does not go with every pool.

    **Raises:** `ContractError` with a line for each breach; `UnknownPartError`, `OptionError` or `TypeError` if this is
    not a factory of a head.
    """
    check_contract(_make_subject(head, dim, num_classes, token_dim, pool), HEAD_CHECKS)


def head_checks(
    head: str | PartSpec | HeadFactory,
    *,
    dim: int = 24,
    num_classes: int | None = 7,
    token_dim: int | None = None,
    pool: str | PartSpec | PoolFactory = "mean",
) -> Callable[..., None]:
    """Makes a test for pytest of what `check_head` checks, with a case for each check.

    **Arguments:** those of `check_head`.

    **Returns:**

    A parametrised test function. Assign it to a name that begins with `test`.

    **Raises:** `MissingExtraError` if pytest is not installed.
    """
    return make_test(lambda: _make_subject(head, dim, num_classes, token_dim, pool), HEAD_CHECKS)


def _make_subject(
    head: str | PartSpec | HeadFactory,
    dim: int,
    num_classes: int | None,
    token_dim: int | None,
    pool: str | PartSpec | PoolFactory,
) -> Subject:
    def call(part: Any, x: Any, key: Any) -> Any:
        return part(x, key=key)

    return Subject(
        who=HEADS.describe(head),
        field="head",
        choice=head,
        registry=HEADS,
        context=HeadContext(
            dim=dim, num_classes=num_classes, token_dim=dim if token_dim is None else token_dim, init=TRUNC_NORMAL
        ),
        inputs=draw_array(dim),
        call=call,
        takes_key=True,
        config={"num_classes": num_classes, "pool": pool, "num_registers": 1},
        of_width=lambda other: _make_subject(
            head, other, num_classes, None if token_dim is None else token_dim * other // dim, pool
        ),
    )


def returns_the_logits_it_declares(subject: Subject) -> Iterator[str]:
    """The output is one vector of `out_dim`, logits and not probabilities. For several tokens it is one for each."""
    part, x = draw_part(subject), subject.inputs
    if part.dim != x.shape[0]:
        yield f"dim must be the width that it is built for, {x.shape[0]}, got {part.dim}"
    num_classes = subject.context.num_classes
    if num_classes not in (None, part.out_dim):
        yield f"out_dim must be num_classes={num_classes}, got {part.out_dim}"
    out = run_compiled(subject.call, part, x, None)
    if out.shape != (part.out_dim,):
        yield f"the output for one vector must have the shape ({part.out_dim},) by its out_dim, got {out.shape}"
    rows = np.stack([np.asarray(x), 2 * np.asarray(x) + 1, -np.asarray(x)])
    together = run_compiled(subject.call, part, jnp.asarray(rows), None)
    expected = np.stack([np.asarray(run_compiled(subject.call, part, jnp.asarray(row), None)) for row in rows])
    if difference := differ(together, expected, 1e-5):
        yield f"the output for several tokens must be that of each alone, but {difference}"
    if num_classes not in (None, 1) and np.all((np.asarray(together) >= 0) & (np.asarray(together) <= 1)):
        yield "the output must be logits, but it is always between 0 and 1: leave softmax and sigmoid to the loss"
    shape = trace(subject.call, part, jax.ShapeDtypeStruct((2, 3, *x.shape), x.dtype), None).shape
    if shape != (2, 3, part.out_dim):
        yield f"the output for a grid of tokens must have the shape {(2, 3, part.out_dim)}, got {shape}"


def holds_for_another_width(subject: Subject) -> Iterator[str]:
    """It returns what it declares for an input of twice the width too, or refuses that width."""
    yield from for_another_width(subject, returns_the_logits_it_declares)


def holds_for_other_classes(subject: Subject) -> Iterator[str]:
    """It returns what it declares for one class and for many, or refuses that number."""
    if subject.context.num_classes is None:
        return
    for num_classes in (1, 300):
        there = dataclasses.replace(subject, context=dataclasses.replace(subject.context, num_classes=num_classes))
        yield from with_context(f"for num_classes={num_classes}", subject, there, returns_the_logits_it_declares)


HEAD_CHECKS: Final[tuple[Check, ...]] = (
    *COMMON,
    returns_the_logits_it_declares,
    every_channel_says_something,
    holds_for_another_width,
    holds_for_other_classes,
)
