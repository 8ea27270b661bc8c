"""The contract of a patch embedding, as checks."""

from collections.abc import Callable, Iterator
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np

from .._registry import PartSpec
from ..nn import TRUNC_NORMAL
from ..patch import PATCHES, PatchContext, PatchFactory
from ._common import COMMON
from ._subject import GRID, Check, Subject, check_contract, draw_array, draw_part, make_test, run_compiled, trace


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
    )


def returns_a_grid_of_tokens(subject: Subject) -> Iterator[str]:
    """The output has one token for each patch, as they stand in the image, for any size of image."""
    part, context = subject.make(jax.random.key(0)), subject.context
    for rows, cols in (GRID, (1, 5), (1, 1)):
        shape = rows * context.patch_size[0], cols * context.patch_size[1], context.channels
        out = trace(subject.call, part, jax.ShapeDtypeStruct(shape, jnp.float32), None)
        if out.shape != (rows, cols, context.dim):
            yield f"the output must have the shape (rows, cols, dim) = {(rows, cols, context.dim)}, got {out.shape}"


def refuses_a_partial_patch(subject: Subject) -> Iterator[str]:
    """An image that does not divide into whole patches is an error."""
    part = subject.make(jax.random.key(0))
    height, width, channels = subject.inputs.shape
    patch_height, patch_width = subject.context.patch_size
    if patch_height == patch_width == 1:
        return  # patches of one pixel divide every image
    larger = draw_array(height + (patch_height > 1), width + (patch_height == 1), channels)
    try:
        subject.call(part, larger, None)
    except (ValueError, TypeError):
        return
    yield (
        f"an image of {larger.shape[0]} x {larger.shape[1]} must raise a ValueError, because it does not divide into "
        f"patches of {patch_height} x {patch_width}"
    )


def a_patch_reads_its_own_pixels(subject: Subject) -> Iterator[str]:
    """The last pixel changes the last token, and not the first."""
    part, image = draw_part(subject), subject.inputs
    before = np.asarray(run_compiled(subject.call, part, image, None))
    after = np.asarray(run_compiled(subject.call, part, image.at[-1, -1].add(1.0), None))
    if not np.allclose(before[0, 0], after[0, 0], atol=1e-5):
        yield "the first patch must not depend on the last pixel: check the order of rows and columns"
    if np.allclose(before[-1, -1], after[-1, -1], atol=1e-5):
        yield "the last patch must depend on the last pixel: check the order of rows and columns"


def fits_larger_patches_when_resized(subject: Subject) -> Iterator[str]:
    """Resized to patches twice as large it returns as many tokens for images twice as large, or raises an error."""
    part = subject.make(jax.random.key(0))
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


PATCH_CHECKS: Final[tuple[Check, ...]] = (
    *COMMON,
    returns_a_grid_of_tokens,
    refuses_a_partial_patch,
    a_patch_reads_its_own_pixels,
    fits_larger_patches_when_resized,
)
