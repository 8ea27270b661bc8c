"""The contract of a dense readout, as checks."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np

from .._spec import PartSpec
from .._tokens import Tokens
from ..dense import READOUTS, DenseContext, DenseReadoutFactory
from ..encoder import EncoderSize
from ..model import ViTConfig
from ..nn import TRUNC_NORMAL
from ..systems import DenseConfig
from ._common import COMMON, builds_from_a_configuration, for_another_width, with_context
from ._subject import (
    Check,
    Subject,
    check_contract,
    draw_part,
    draw_tokens,
    make_test,
    randomise,
    redraw,
    run_compiled,
    trace,
    tree,
)

_GRID: Final = (3, 2)
_PATCH: Final = 4
_DEPTH: Final = 4


def check_readout(readout: str | PartSpec | DenseReadoutFactory, *, dim: int = 8, num_classes: int | None = 3) -> None:
    """Checks the whole contract of a dense readout.

    **Arguments:**

    - `readout`: a name, a `PartSpec`, a class or a `functools.partial`, as for `vitrail.make_dense`.
    - `dim`: the width of a token.
    - `num_classes`: the number of classes; `None` for one channel.

    **Raises:** `ContractError` with a line for each breach; `UnknownPartError`, `OptionError` or `TypeError` if this is
    not a factory of a dense readout.
    """
    check_contract(_make_subject(readout, dim, num_classes), READOUT_CHECKS)


def readout_checks(
    readout: str | PartSpec | DenseReadoutFactory, *, dim: int = 8, num_classes: int | None = 3
) -> Callable[..., None]:
    """Makes a test for pytest of what `check_readout` checks, with a case for each check.

    **Arguments:** those of `check_readout`.

    **Returns:**

    A parametrised test function. Assign it to a name that begins with `test`.

    **Raises:** `MissingExtraError` if pytest is not installed.
    """
    return make_test(lambda: _make_subject(readout, dim, num_classes), READOUT_CHECKS)


def _make_subject(
    readout: str | PartSpec | DenseReadoutFactory,
    dim: int,
    num_classes: int | None,
    grid: tuple[int, int] = _GRID,
) -> Subject:
    context = DenseContext(dim=dim, depth=_DEPTH, class_token=True, num_classes=num_classes, init=TRUNC_NORMAL)

    def call(part: Any, tokens: Tokens, key: Any) -> Any:
        return part(tokens, image_size=(grid[0] * _PATCH, grid[1] * _PATCH), key=key)

    return Subject(
        who=READOUTS.describe(readout),
        field="readout",
        choice=readout,
        registry=READOUTS,
        context=context,
        inputs=_draw_layers(READOUTS.build(readout, context, key=jax.random.key(0)), dim, grid),
        call=call,
        takes_key=True,
        config={"num_classes": num_classes},
        of_width=lambda other: _make_subject(readout, other, num_classes, grid),
    )


def _draw_layers(part: Any, dim: int, grid: tuple[int, int]) -> Tokens:
    """Tokens of as many layers as a readout reads."""
    layers = [draw_tokens(dim, grid, class_token=True, num_registers=1, seed=10 * n) for n, _ in enumerate(part.layers)]

    def stack(*arrays: Any) -> Any:
        return jnp.stack(arrays)

    return tree.map(stack, *layers)


def returns_the_map_it_declares(subject: Subject) -> Iterator[str]:
    """The output is a map of `out_dim` channels, one for each class, and `layers` are blocks of the model."""
    part, expected = draw_part(subject), subject.context.num_classes or 1
    if part.out_dim != expected:
        yield f"out_dim must be the number of classes, or 1 without classes: {expected}, got {part.out_dim}"
    wrong = [layer for layer in part.layers if not -_DEPTH <= layer < _DEPTH]
    if wrong or not part.layers:
        yield f"layers must be numbers of blocks from {-_DEPTH} to {_DEPTH - 1}, got {part.layers}"
    shape = trace(subject.call, part, subject.inputs, None).shape
    if len(shape) != 3 or shape[-1] != part.out_dim:
        yield f"the output must be a map (height, width, {part.out_dim}) by its out_dim, got the shape {shape}"


def every_channel_and_patch_counts(subject: Subject) -> Iterator[str]:
    """Each channel of the map depends on the tokens, and each patch token changes the map."""
    part = draw_part(subject)
    outs = [np.asarray(run_compiled(subject.call, part, redraw(subject.inputs, seed=s), None)) for s in (100, 200, 300)]
    if np.any(np.all(np.ptp(np.stack(outs), axis=0) == 0, axis=(0, 1))):
        yield "every channel of the map must depend on the tokens, but some are always the same"
    number = subject.inputs.patches.shape[-2]
    for patch in range(number):
        patches = subject.inputs.patches.at[..., patch, :].add(1)
        moved = dataclasses.replace(subject.inputs, patches=patches)
        given, changed = (run_compiled(subject.call, part, x, None) for x in (subject.inputs, moved))
        if np.array_equal(np.asarray(given), np.asarray(changed)):
            yield f"every patch token must change the map, but number {patch} of {number} does not"
            return


def holds_for_another_width(subject: Subject) -> Iterator[str]:
    """It returns what it declares for tokens of twice the width too, or refuses that width."""
    yield from for_another_width(subject, returns_the_map_it_declares)


def holds_for_other_grids_and_classes(subject: Subject) -> Iterator[str]:
    """It returns what it declares for other grids, and with one class, many or none, or refuses that."""
    dim, num_classes = subject.context.dim, subject.context.num_classes
    for grid in ((1, 1), (5, 3), (2, 7)):
        there = _make_subject(subject.choice, dim, num_classes, grid)
        yield from with_context(f"for a grid of {grid[0]} x {grid[1]}", subject, there, returns_the_map_it_declares)
    for other in {1, 40, None} - {num_classes}:
        there = _make_subject(subject.choice, dim, other)
        yield from with_context(f"for num_classes={other}", subject, there, returns_the_map_it_declares)


def builds_a_model_for_maps(subject: Subject) -> Iterator[str]:
    """A `Dense` with this readout is built and works. A named readout survives JSON."""
    size = EncoderSize(dim=8, depth=_DEPTH, num_heads=2, mlp_dim=8)
    image = ViTConfig(image_size=(8, 12), patch_size=(4, 4), size=size, pool="cls", head="none", num_registers=1)
    config = DenseConfig(image=image, readout=subject.choice, **subject.config)
    if isinstance(subject.choice, str | PartSpec) and (again := DenseConfig.from_json(config.to_json())) != config:
        yield f"its configuration must be equal after JSON, got {again}"
    model = randomise(lambda: config.build(key=jax.random.key(0)))
    found = run_compiled(_call_model, model, jnp.ones((8, 12, 3)))
    if not np.all(np.isfinite(np.asarray(found))):
        yield "the map of a model with it must be finite"


def _call_model(model: Any, image: Any) -> Any:
    return model(image)


READOUT_CHECKS: Final[tuple[Check, ...]] = (
    *(check for check in COMMON if check is not builds_from_a_configuration),
    returns_the_map_it_declares,
    every_channel_and_patch_counts,
    holds_for_another_width,
    holds_for_other_grids_and_classes,
    builds_a_model_for_maps,
)
