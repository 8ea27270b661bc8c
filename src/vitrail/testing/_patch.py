"""The contract of a patch embedding, as checks."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Final, cast

import jax
import jax.numpy as jnp
import numpy as np

from .._spec import PartSpec
from ..nn import TRUNC_NORMAL
from ..patch import PATCHES, PatchContext, PatchFactory
from ._common import COMMON, for_another_width, with_context
from ._resized import find_forgotten
from ._subject import (
    GRID,
    Check,
    Subject,
    check_contract,
    differ,
    draw_array,
    draw_part,
    is_finite,
    make_test,
    run_compiled,
    trace,
)

_LARGE: Final = (9, 9)
"""A square grid of more than 64 patches."""
_DRAWS: Final = 24
"""How often parameters and an image are drawn, at most, to find what a token reads."""


def check_patch_embed(
    patch: str | PartSpec | PatchFactory,
    *,
    dim: int = 24,
    patch_size: tuple[int, int] = (4, 4),
    channels: int = 3,
) -> None:
    """Checks the whole contract of a patch embedding.

    **Arguments:**

    - `patch`: a name, a `PartSpec`, a class or a `functools.partial`, as for `vitrail.vit`.
    - `dim`: the width of a token.
    - `patch_size`: height and width of a patch in pixels.
    - `channels`: the number of channels of an image.

    **Raises:** `ContractError` with a line for each breach; `UnknownPartError`, `OptionError` or `TypeError` if this is
    not a factory of a patch embedding.
    """
    check_contract(_make_subject(patch, dim, patch_size, channels), PATCH_CHECKS)


def patch_embed_checks(
    patch: str | PartSpec | PatchFactory,
    *,
    dim: int = 24,
    patch_size: tuple[int, int] = (4, 4),
    channels: int = 3,
) -> Callable[..., None]:
    """Makes a test for pytest of what `check_patch_embed` checks, with a case for each check.

    **Arguments:** those of `check_patch_embed`.

    **Returns:**

    A parametrised test function. Assign it to a name that begins with `test`.

    **Raises:** `MissingExtraError` if pytest is not installed.
    """
    return make_test(lambda: _make_subject(patch, dim, patch_size, channels), PATCH_CHECKS)


def _make_subject(
    patch: str | PartSpec | PatchFactory, dim: int, patch_size: tuple[int, int], channels: int
) -> Subject:
    def call(part: Any, image: Any, key: Any) -> Any:
        return part(image)

    return Subject(
        who=PATCHES.describe(patch),
        field="patch",
        choice=patch,
        registry=PATCHES,
        context=PatchContext(dim=dim, patch_size=patch_size, channels=channels, init=TRUNC_NORMAL),
        inputs=draw_array(GRID[0] * patch_size[0], GRID[1] * patch_size[1], channels),
        call=call,
        takes_key=False,
        config={
            "patch_size": patch_size,
            "image_size": (2 * patch_size[0], 3 * patch_size[1]),
            "channels": channels,
        },
        of_width=lambda other: _make_subject(patch, other, patch_size, channels),
    )


def returns_a_grid_of_tokens(subject: Subject) -> Iterator[str]:
    """The output has one token for each patch, as they stand in the image, for any size of image."""
    part, context = subject.outline, subject.context
    for rows, cols in (GRID, (1, 5), (1, 1)):
        shape = rows * context.patch_size[0], cols * context.patch_size[1], context.channels
        out = trace(subject.call, part, jax.ShapeDtypeStruct(shape, jnp.float32), None)
        if out.shape != (rows, cols, context.dim):
            yield f"the output must have the shape (rows, cols, dim) = {(rows, cols, context.dim)}, got {out.shape}"


def holds_for_another_width(subject: Subject) -> Iterator[str]:
    """It returns a grid of tokens for twice the width too, or refuses that width."""
    yield from for_another_width(subject, returns_a_grid_of_tokens)


def refuses_a_partial_patch(subject: Subject) -> Iterator[str]:
    """An image that does not divide into whole patches is an error, for its height and for its width."""
    part = subject.made
    for axis, size in enumerate(subject.context.patch_size):
        if size == 1:
            continue  # a patch of one pixel divides every image
        shape = [n + (i == axis) for i, n in enumerate(subject.inputs.shape)]
        try:
            subject.call(part, draw_array(*shape), None)
        except (ValueError, TypeError):
            continue
        yield (
            f"an image of {shape[0]} x {shape[1]} must raise a ValueError, because it does not divide into patches of "
            f"{subject.context.patch_size[0]} x {subject.context.patch_size[1]}"
        )


def a_patch_reads_its_own_pixels(subject: Subject) -> Iterator[str]:
    """Each pixel and channel of a patch changes its token, on small, square and large grids."""
    for grid in (GRID, (1, 1), _LARGE):
        own, _, finite = _find_pixels(subject, grid)
        if not finite:
            yield f"the tokens must be finite, which fails on a grid of {grid}"
            return
        if not _are_read(own):
            yield (
                f"a token must depend on every pixel and channel of its patch, which fails on a grid of {grid}: check "
                "the order of rows and columns"
            )
            return


def a_patch_reads_no_other_pixels(subject: Subject) -> Iterator[str]:
    """No pixel of another patch changes a token, unless the part declares `reads_neighbours`."""
    if subject.outline.reads_neighbours:
        return
    for grid in (GRID, _LARGE):
        _, others, _ = _find_pixels(subject, grid)
        if np.any(others):
            yield (
                f"a token must not depend on pixels of other patches, which fails on a grid of {grid}: check the order "
                "of rows and columns, or declare reads_neighbours = True in the class if this is intended"
            )
            return


def holds_for_other_patches(subject: Subject) -> Iterator[str]:
    """It reads its own pixels in patches of other shapes and images of other channels too, or refuses them."""
    height, width = subject.context.patch_size
    for patch_size, channels in (((2 * height, width), 1), ((height, 2 * width), subject.context.channels + 1)):
        context = dataclasses.replace(subject.context, patch_size=patch_size, channels=channels)
        there = dataclasses.replace(subject, context=context)
        when = f"for patches of {patch_size[0]} x {patch_size[1]} and {channels} channels"
        yield from with_context(when, subject, there, _reads_pixels)


def _reads_pixels(subject: Subject) -> Iterator[str]:
    yield from returns_a_grid_of_tokens(subject)
    own, _, _ = _find_pixels(subject, GRID)
    if not _are_read(own):
        yield "a token must depend on every pixel and channel of its patch: check the order of height and width"


def _are_read(own: np.ndarray) -> bool:
    """Whether most pixels of each patch are read, and each pixel and channel by most patches.

    Not all: a ReLU or a maximum may pass a pixel on in none of the draws.
    """
    return bool(np.all(own.mean(axis=1) > 0.8) and (len(own) == 1 or np.all(own.mean(axis=0) > 0.5)))


def _find_pixels(subject: Subject, grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, bool]:
    """Whether each token depends on the pixels of its patch, and on all others, and whether all tokens are finite.

    A token depends on a pixel if it does for one of several parameters and images, because a ReLU is zero for some of
    them. No more are drawn than are needed to find the own pixels.
    """
    height, width = subject.context.patch_size
    rows, cols, number = *grid, grid[0] * grid[1]
    same, finite = np.eye(number, dtype=bool), True
    read = np.zeros((number, number, height * width * subject.context.channels), bool)
    for seed in range(_DRAWS):
        image = draw_array(rows * height, cols * width, subject.context.channels, seed=_DRAWS + seed)
        out, gradients = run_compiled(_differentiate_tokens, subject.call, draw_part(subject, seed=seed), image)
        found = np.asarray(gradients).reshape(number, rows, height, cols, width, -1) != 0
        read |= found.swapaxes(2, 3).reshape(read.shape)
        finite = finite and is_finite(out)
        if _are_read(read[same]):
            break
    return read[same], read[~same], finite


def _differentiate_tokens(call: Any, part: Any, image: Any) -> Any:
    """The tokens, and the gradient of a random sum of each with respect to the image."""

    def embed(image: Any) -> Any:
        return call(part, image, None)

    out, pull = cast("tuple[Any, Any]", jax.vjp(embed, image))
    number, dim = out.shape[0] * out.shape[1], out.shape[2]

    def differentiate(factors: Any) -> Any:
        return pull(factors.reshape(out.shape).astype(out.dtype))[0]

    return out, jax.vmap(differentiate)(jnp.eye(number)[:, :, None] * draw_array(1, number, dim, seed=9))


def fits_larger_patches_when_resized(subject: Subject) -> Iterator[str]:
    """Resized to patches twice as large it returns as many tokens for images twice as large, or raises an error."""
    part = subject.made
    height, width, channels = subject.inputs.shape
    patch_height, patch_width = subject.context.patch_size
    before = trace(subject.call, part, subject.inputs, None).shape
    try:
        other = part.resized((2 * patch_height, 2 * patch_width))
    except ValueError:
        return
    after = trace(subject.call, other, jax.ShapeDtypeStruct((2 * height, 2 * width, channels), jnp.float32), None)
    if after.shape != before:
        yield (
            f"resized to patches twice as large, the output for an image twice as large must have the shape {before}, "
            f"got {after.shape}"
        )


def keeps_what_was_learned_when_resized(subject: Subject) -> Iterator[str]:
    """Resized to patches twice as large its kernel is interpolated, and the rest stays, or it raises an error."""
    part = draw_part(subject)
    try:
        part.resized(subject.context.patch_size)
    except ValueError:
        return
    yield from find_forgotten(subject, subject.context.patch_size, _resize)


def mixes_other_channels(subject: Subject) -> Iterator[str]:
    """For images of other channels it does to them what it did to their mixture, or it raises an error."""
    part, (height, width, channels) = draw_part(subject), subject.inputs.shape
    for number in (channels + 1, 1):
        image, mix = draw_array(height, width, number, seed=11), draw_array(number, channels, seed=12)
        try:
            other = part.with_channels(mix)
        except ValueError:
            return
        before = run_compiled(subject.call, part, image @ mix, None)
        if difference := differ(run_compiled(subject.call, other, image, None), before, 1e-4):
            yield f"with_channels(mix) must do to an image what it did to image @ mix before, but {difference}"
            return


def _resize(part: Any, patch_size: tuple[int, int]) -> Any:
    return part.resized(patch_size)


PATCH_CHECKS: Final[tuple[Check, ...]] = (
    *COMMON,
    returns_a_grid_of_tokens,
    holds_for_another_width,
    refuses_a_partial_patch,
    a_patch_reads_its_own_pixels,
    a_patch_reads_no_other_pixels,
    holds_for_other_patches,
    fits_larger_patches_when_resized,
    keeps_what_was_learned_when_resized,
    mixes_other_channels,
)
