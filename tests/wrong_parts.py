"""Wrong positions, patch embeddings and heads: each differs from a right one in one thing."""

import dataclasses
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from wrong_pools import Wrong, drop, make_part, with_twice_the_gradient, with_wrong_sign

import vitrail
from vitrail import Tokens

# Positions -------------------------------------------------------------------------------------------------------


def add(tokens: Tokens, table: Any) -> Tokens:
    return dataclasses.replace(tokens, patches=tokens.patches + tokens.at_places(table).astype(tokens.patches.dtype))


def learned(
    *,
    call: Callable[[Any, Tokens], Tokens] = lambda inner, tokens: inner(tokens),
    rotation: Callable[[Any, Tokens], Any] = lambda inner, tokens: None,
    resized: Callable[[Any, tuple[int, int]], Any] = lambda inner, grid: inner.resized(grid),
    with_class_token: Callable[[Any, Any], Any] = lambda inner, row: inner.with_class_token(row),
    with_registers: Callable[[Any, Any, int], Any] = lambda inner, rows, kept: inner.with_registers(rows, kept=kept),
    cast: Any = jnp.float32,
) -> Any:
    """A learned position of which one method is another."""

    def __init__(
        self: Any, dim: int, *, grid: tuple[int, int], class_token: bool, num_registers: int, head_dim: int, key: Any
    ) -> None:
        inner = vitrail.LearnedPosition(dim, grid=grid, class_token=class_token, num_registers=num_registers, key=key)
        self.inner = jax.tree.map(lambda x: x.astype(cast), inner)
        self.head_dim = head_dim

    def change(self: Any, inner: Any) -> Any:
        return eqx.tree_at(lambda p: p.inner, self, inner)

    body = {
        "__init__": __init__,
        "__call__": lambda self, tokens: call(self.inner, tokens),
        "in_attention": lambda self, tokens: rotation(self, tokens),
        "resized": lambda self, grid: change(self, resized(self.inner, grid)),
        "with_class_token": lambda self, row: change(self, with_class_token(self.inner, row)),
        "with_registers": lambda self, rows, *, kept: change(self, with_registers(self.inner, rows, kept)),
        "head_dim": eqx.field(static=True),
    }
    return make_part(vitrail.AbstractPosition, {"inner": Any, "head_dim": int}, body)


def adds_to_patches(table: Callable[[Any, Tokens], Any]) -> Callable[[Any, Tokens], Tokens]:
    """A call that adds another table to the patches than the right one."""

    def call(inner: Any, tokens: Tokens) -> Tokens:
        prefix = inner(tokens)
        changed = add(tokens, table(inner.patches, tokens))
        return dataclasses.replace(prefix, patches=changed.patches)

    return call


def flatten(table: Any) -> Any:
    return table.reshape(-1, table.shape[-1])


def set_patches(inner: Any, patches: Any) -> Any:
    return eqx.tree_at(lambda p: p.patches, inner, patches)


def permuting(inner: Any, tokens: Tokens) -> Tokens:
    out = inner(tokens)
    return dataclasses.replace(out, patches=jnp.roll(out.patches, 1, axis=0))


def losing_the_mask(inner: Any, tokens: Tokens) -> Tokens:
    return dataclasses.replace(inner(tokens), mask=None)


def by_number(inner: Any, tokens: Tokens) -> Tokens:
    """It ignores the places of as many tokens as there are cells."""
    if tokens.patches.shape[0] < tokens.grid[0] * tokens.grid[1]:
        return inner(tokens)
    return dataclasses.replace(inner(dataclasses.replace(tokens, places=None)), places=tokens.places)


def any_grid(inner: Any, tokens: Tokens) -> Tokens:
    """It takes tokens of any grid with as many patches."""
    return dataclasses.replace(inner(dataclasses.replace(tokens, grid=inner.patches.shape[:2])), grid=tokens.grid)


def any_prefix(inner: Any, tokens: Tokens) -> Tokens:
    """It takes tokens without a class token, though it has a position for one."""
    if tokens.class_token is None and inner.class_token is not None:
        inner = inner.with_class_token(None)
    return inner(tokens)


def rotate_by(first: Any) -> Callable[[Any, Tokens], Any]:
    """A rotation by angles that grow with a number of each patch."""

    def rotation(self: Any, tokens: Tokens) -> Any:
        frequencies = 10.0 ** -jnp.arange(self.head_dim // 2, dtype=jnp.float32)
        angles = tokens.at_places(jnp.outer(first(tokens), frequencies))
        return vitrail.Rotation(angles, num_prefix=tokens.num_prefix, interleaved=False)

    return rotation


def rotating_by_what_they_hold(self: Any, tokens: Tokens) -> Any:
    angles = tokens.patches[:, : self.head_dim // 2].astype(jnp.float32)
    return vitrail.Rotation(angles, num_prefix=tokens.num_prefix, interleaved=False)


def cells(tokens: Tokens) -> Any:
    return jnp.arange(tokens.grid[0] * tokens.grid[1])


def rotary(angles: Any) -> Any:
    """A position that only rotates."""

    def __init__(self: Any, *, head_dim: int) -> None:
        self.head_dim = head_dim

    body = {
        "__init__": __init__,
        "__call__": lambda self, tokens: tokens,
        "in_attention": lambda self, tokens: rotate_by(angles)(self, tokens),
        "resized": lambda self, grid: self,
        "with_class_token": lambda self, row: self,
        "with_registers": lambda self, rows, *, kept: self,
        "head_dim": eqx.field(static=True),
    }
    return make_part(vitrail.AbstractPosition, {"head_dim": int}, body)


def redrawn(inner: Any, grid: tuple[int, int]) -> Any:
    if grid == inner.patches.shape[:2]:
        return inner
    return set_patches(inner, jax.random.normal(jax.random.key(0), (*grid, inner.patches.shape[-1])))


def turned(inner: Any, grid: tuple[int, int]) -> Any:
    return inner if grid == inner.patches.shape[:2] else set_patches(inner, inner.patches[::-1, ::-1]).resized(grid)


def without_registers(inner: Any, row: Any) -> Any:
    """It loses the rows of the registers."""
    registers = None if inner.registers is None else jnp.zeros_like(inner.registers)
    changed = inner.with_class_token(row)
    return changed if registers is None else eqx.tree_at(lambda p: p.registers, changed, registers)


def with_other_row(inner: Any, row: Any) -> Any:
    return inner.with_class_token(None if row is None else jnp.zeros_like(row))


POSITIONS: dict[str, Wrong] = {
    "adds the same to every patch": Wrong(
        learned(call=adds_to_patches(lambda table, t: jnp.broadcast_to(flatten(table)[:1], flatten(table).shape))),
        "must tell the patches apart",
        "tells_patches_apart",
    ),
    "adds the same to a whole row": Wrong(
        learned(call=adds_to_patches(lambda table, t: flatten(jnp.broadcast_to(table[:, :1], table.shape)))),
        "must tell the patches apart",
        "tells_patches_apart",
    ),
    "counts patches in eight bits": Wrong(
        learned(
            call=adds_to_patches(lambda table, t: flatten(table)[jnp.abs(cells(t).astype(jnp.int8)).astype(jnp.int32)])
        ),
        r"must tell the patches apart.* \(12, 12\)",
        "tells_patches_apart",
    ),
    "rotates by the row alone": Wrong(
        rotary(lambda t: (cells(t) // t.grid[1]).astype(jnp.float32)),
        "must tell the patches apart",
        "tells_patches_apart",
    ),
    "permutes the patches": Wrong(learned(call=permuting), "must only be added", "adds_to_each_token_alone"),
    "multiplies the tokens": Wrong(
        learned(call=lambda inner, t: t.map(lambda x: x * inner(t.map(jnp.zeros_like)).sequence)),
        "must only be added",
        "adds_to_each_token_alone",
    ),
    "scales the tokens": Wrong(
        learned(call=lambda inner, t: inner(t.map(lambda x: 2 * x))), "must only be added", "adds_to_each_token_alone"
    ),
    "rotates by what the tokens hold": Wrong(
        learned(rotation=rotating_by_what_they_hold),
        "the rotation must not depend on what the tokens hold",
        "adds_to_each_token_alone",
    ),
    "loses the mask": Wrong(learned(call=losing_the_mask), "must keep the mask", "keeps_the_mask"),
    "takes another grid": Wrong(
        learned(call=any_grid), "must raise a ValueError for tokens on another grid", "refuses_other_tokens"
    ),
    "takes tokens without a class token": Wrong(
        learned(call=any_prefix), "must raise a ValueError for tokens without a class token", "refuses_other_tokens"
    ),
    "draws its table anew when resized": Wrong(
        learned(resized=redrawn), "resized must keep what was learned", "keeps_what_was_learned_when_resized"
    ),
    "turns its table when resized": Wrong(
        learned(resized=turned), "resized must keep what was learned", "keeps_what_was_learned_when_resized"
    ),
    "takes the cells by columns": Wrong(
        learned(call=adds_to_patches(lambda table, t: flatten(table.swapaxes(0, 1)))),
        "a patch does not get what the patch at its place got before",
        "keeps_what_was_learned_when_resized",
    ),
    "ignores the places": Wrong(learned(call=by_number), "must keep its positions", "a_subset_keeps_its_places"),
    "loses the registers' rows with a class token": Wrong(
        learned(with_class_token=without_registers),
        "with_class_token must keep the positions of the patches and registers",
        "takes_and_drops_a_class_token",
    ),
    "loses the patches' rows with a class token": Wrong(
        learned(
            with_class_token=lambda inner, row: set_patches(
                inner.with_class_token(row), jnp.roll(inner.patches, 1, axis=0)
            )
        ),
        "with_class_token must keep the positions of the patches and registers",
        "takes_and_drops_a_class_token",
    ),
    "takes another row for the class token": Wrong(
        learned(with_class_token=with_other_row),
        r"with_class_token\(row\) must add that row",
        "takes_and_drops_a_class_token",
    ),
    "loses the first registers' rows": Wrong(
        learned(
            with_registers=lambda inner, rows, kept: eqx.tree_at(
                lambda p: p.registers,
                inner.with_registers(rows, kept=kept),
                replace_fn=lambda r: None if r is None else r[::-1],
                is_leaf=lambda x: x is None,
            )
        ),
        r"with_registers\(rows, kept=2\) must keep the positions of all tokens that stay",
        "takes_and_drops_registers",
    ),
    "takes other rows for new registers": Wrong(
        learned(
            with_registers=lambda inner, rows, kept: inner.with_registers(
                None if rows is None else jnp.zeros_like(rows), kept=kept
            )
        ),
        r"with_registers\(rows, kept=2\) must add these rows to the new registers",
        "takes_and_drops_registers",
    ),
    "has a table in bfloat16": Wrong(
        learned(cast=jnp.bfloat16, call=lambda inner, t: jax.tree.map(lambda x: x.astype(jnp.float32), inner)(t)),
        "must be made in float32, got bfloat16",
        "starts_finite_and_in_float32",
    ),
    "has the wrong sign in its gradient": Wrong(
        learned(call=lambda inner, t: set_patches(inner, with_wrong_sign(inner.patches))(t)),
        r"the gradient of .*\.patches must be the slope",
        "gradients_are_slopes",
    ),
}

# Patch embeddings ------------------------------------------------------------------------------------------------


def patches(
    call: Callable[[Any, Any], Any] = lambda inner, image: inner(image),
    resized: Callable[[Any, tuple[int, int]], Any] = lambda inner, size: inner.resized(size),
    with_channels: Callable[[Any, Any], Any] = lambda inner, mix: inner.with_channels(mix),
) -> Any:
    """A convolution of which one method is another."""

    def __init__(
        self: Any, dim: int, *, patch_size: tuple[int, int], channels: int, init: vitrail.Init, key: Any
    ) -> None:
        self.inner = vitrail.ConvPatchEmbed(dim, patch_size=patch_size, channels=channels, init=init, key=key)

    body = {
        "__init__": __init__,
        "__call__": lambda self, image: call(self.inner, image),
        "resized": lambda self, size: eqx.tree_at(lambda p: p.inner, self, resized(self.inner, size)),
        "with_channels": lambda self, mix: eqx.tree_at(lambda p: p.inner, self, with_channels(self.inner, mix)),
    }
    return make_part(vitrail.AbstractPatchEmbed, {"inner": Any}, body)


def overlapping() -> Any:
    """A convolution stem that does not declare that it reads neighbours."""

    def __init__(
        self: Any, dim: int, *, patch_size: tuple[int, int], channels: int, init: vitrail.Init, key: Any
    ) -> None:
        self.inner = vitrail.ConvStemPatchEmbed(dim, patch_size=patch_size, channels=channels, init=init, key=key)

    body = {
        "__init__": __init__,
        "__call__": lambda self, image: self.inner(image),
        "resized": lambda self, size: self.inner.resized(size),
        "with_channels": lambda self, mix: eqx.tree_at(lambda p: p.inner, self, self.inner.with_channels(mix)),
    }
    return make_part(vitrail.AbstractPatchEmbed, {"inner": Any}, body)


def crop(inner: Any, image: Any, axes: tuple[int, ...]) -> Any:
    """Cuts off what is not a whole patch along some axes."""
    for axis in axes:
        size = inner.weight.shape[2 + axis]
        image = jax.lax.slice_in_dim(image, 0, image.shape[axis] // size * size, axis=axis)
    return inner(image)


def swap_sides(inner: Any, image: Any) -> Any:
    """It cuts patches as wide as they should be high."""
    _, _, height, width = inner.weight.shape
    inner(image)
    rows, cols = image.shape[0] // height, image.shape[1] // width
    if image.shape[0] % width or image.shape[1] % height:
        return inner(image)
    other = eqx.tree_at(lambda p: p.weight, inner, inner.weight.swapaxes(2, 3))
    return other(image).reshape(rows, cols, -1)


def transposed_if_square(inner: Any, image: Any) -> Any:
    grid = inner(image)
    return grid.swapaxes(0, 1) if grid.shape[0] == grid.shape[1] else grid


def empty_after_64(inner: Any, image: Any) -> Any:
    grid = inner(image)
    keep = jnp.arange(grid.shape[0] * grid.shape[1]).reshape(*grid.shape[:2], 1) < 64
    return jnp.where(keep, grid, jnp.zeros_like(grid))


def redrawn_kernel(inner: Any, size: tuple[int, int]) -> Any:
    shape = (*inner.weight.shape[:2], *size)
    return eqx.tree_at(lambda p: p.weight, inner, 0.02 * jax.random.normal(jax.random.key(3), shape))


def turned_kernel(inner: Any, size: tuple[int, int]) -> Any:
    return eqx.tree_at(lambda p: p.weight, inner, inner.resized(size).weight[:, :, ::-1, ::-1])


def without_bias(inner: Any, size: tuple[int, int]) -> Any:
    return eqx.tree_at(lambda p: p.bias, inner.resized(size), jnp.zeros_like(inner.bias))


def of_the_largest(inner: Any, image: Any) -> Any:
    """It is right: it reads the largest of 2 x 2 pixels, one in four for each image."""
    inner(image)
    height, width, channels = image.shape
    cells = image.reshape(height // 2, 2, width // 2, 2, channels)
    largest = jnp.broadcast_to(cells.max(axis=(1, 3), keepdims=True), cells.shape)
    return inner(largest.reshape(image.shape))


def skips_in_every_second(inner: Any, image: Any) -> Any:
    """It leaves out the last row of pixels in every second patch."""
    grid, part = inner(image), eqx.tree_at(lambda p: p.weight, inner, inner.weight.at[:, :, -1].set(0))(image)
    odd = jnp.arange(grid.shape[0] * grid.shape[1]).reshape(*grid.shape[:2], 1) % 2
    return jnp.where(odd == 1, part, grid)


OWN = "must depend on every pixel and channel of its patch"
OTHERS = "must not depend on pixels of other patches"
READS = "a_patch_reads_its_own_pixels"
ALONE = "a_patch_reads_no_other_pixels"

PATCHES: dict[str, Wrong] = {
    "reads one channel": Wrong(
        patches(lambda inner, image: inner(image.at[:, :, 1:].set(0)) + 0 * inner(image)), OWN, READS
    ),
    "skips a row of pixels": Wrong(
        patches(lambda inner, image: eqx.tree_at(lambda p: p.weight, inner, inner.weight.at[:, :, -1].set(0))(image)),
        OWN,
        READS,
    ),
    "skips a row of pixels in every second patch": Wrong(patches(skips_in_every_second), OWN, READS),
    "subtracts the mean of the image": Wrong(
        patches(lambda inner, image: inner(image - jnp.broadcast_to(jnp.mean(image), image.shape))), OTHERS, ALONE
    ),
    "adds the patch above": Wrong(
        patches(lambda inner, image: inner(image) + jnp.roll(inner(image), 1, axis=0)), OTHERS, ALONE
    ),
    "has the columns in reverse": Wrong(patches(lambda inner, image: inner(image)[:, ::-1]), OTHERS, ALONE),
    "transposes square grids": Wrong(patches(transposed_if_square), OTHERS, ALONE),
    "swaps the sides of a patch": Wrong(patches(swap_sides), "for patches of", "holds_for_other_patches"),
    "is empty after 64 patches": Wrong(patches(empty_after_64), OWN, READS),
    "cuts off the last columns": Wrong(
        patches(lambda inner, image: crop(inner, image, (1,))), "must raise a ValueError", "refuses_a_partial_patch"
    ),
    "cuts off the last rows": Wrong(
        patches(lambda inner, image: crop(inner, image, (0,))), "must raise a ValueError", "refuses_a_partial_patch"
    ),
    "mixes the channels in another order": Wrong(
        patches(with_channels=lambda inner, mix: inner.with_channels(mix[::-1])),
        r"with_channels\(mix\) must do to an image what it did to image @ mix",
        "mixes_other_channels",
    ),
    "draws its kernel anew when resized": Wrong(
        patches(resized=redrawn_kernel), "resized must keep what was learned", "keeps_what_was_learned_when_resized"
    ),
    "turns its kernel when resized": Wrong(
        patches(resized=turned_kernel), "resized must keep what was learned", "keeps_what_was_learned_when_resized"
    ),
    "loses its bias when resized": Wrong(
        patches(resized=without_bias), "resized must keep what was learned", "keeps_what_was_learned_when_resized"
    ),
    "has the wrong sign in its gradient": Wrong(
        patches(lambda inner, image: with_wrong_sign(inner(image))),
        "the gradient of .* must be the slope",
        "gradients_are_slopes",
    ),
    "is not a number on a single patch": Wrong(
        patches(lambda inner, image: inner(image) / (1 if image.size > inner.weight[0].size else jnp.nan)),
        r"must be finite, which fails on a grid of \(1, 1\)",
        READS,
    ),
}

# Heads -----------------------------------------------------------------------------------------------------------


def head(
    call: Callable[[Any, Any, Any], Any] = lambda inner, x, key: inner(x),
    make: Callable[[Any], Any] = lambda x: x,
    kinds: Any = MappingProxyType({}),
) -> Any:
    """A linear head of which one thing is another."""

    def __init__(self: Any, dim: int, *, num_classes: int | None, init: vitrail.Init, key: Any) -> None:
        self.inner = make(vitrail.LinearHead(dim, num_classes=num_classes, init=init, key=key))
        self.dim = dim
        self.out_dim = self.inner.out_dim

    def __call__(self: Any, x: Any, *, key: Any = None) -> Any:
        return call(self.inner, x, key)

    static = {name: eqx.field(static=True) for name in ("dim", "out_dim")}
    fields = {"inner": Any, "dim": int, "out_dim": int, "parameter_kinds": ClassVar[Any]}
    body = {"__init__": __init__, "__call__": __call__, "parameter_kinds": kinds, **static}
    return make_part(vitrail.AbstractHead, fields, body)


class MisspeltLayer(eqx.Module):
    """A layer within a part."""

    scale: Any
    parameter_kinds: ClassVar[Any] = {"scales": "norm"}


class UnsplitLayer(eqx.Module):
    """A layer of a position within a part, which misspells the array of the blocks."""

    scale: Any
    block_fields: ClassVar[Any] = ("scales",)


def half(inner: Any, x: Any, key: Any) -> Any:
    return inner(jnp.where(jnp.arange(x.shape[-1]) < x.shape[-1] // 2, x, jnp.zeros_like(x)))


def constant_class(inner: Any, x: Any, key: Any) -> Any:
    out = inner(x)
    return jnp.where(jnp.arange(out.shape[-1]) > 0, out, jnp.zeros_like(out))


def one_axis(inner: Any, x: Any, key: Any) -> Any:
    return inner(x) if x.ndim == 1 else jax.vmap(lambda row: inner.linear.weight @ row + inner.linear.bias)(x)


HEADS: dict[str, Wrong] = {
    "ignores half of its input": Wrong(
        head(half), "must depend on every channel of the input", "every_channel_says_something"
    ),
    "has a class that is always zero": Wrong(
        head(constant_class), "every channel of the output must depend", "every_channel_says_something"
    ),
    "returns probabilities": Wrong(
        head(lambda inner, x, key: jax.nn.softmax(inner(x))), "must be logits", "returns_the_logits_it_declares"
    ),
    "returns a probability for each class": Wrong(
        head(lambda inner, x, key: jax.nn.sigmoid(inner(x))), "must be logits", "returns_the_logits_it_declares"
    ),
    "takes one axis of tokens": Wrong(head(one_axis), "raised TypeError", "returns_the_logits_it_declares"),
    "has no axis for a single class": Wrong(
        head(lambda inner, x, key: inner(x).squeeze(-1) if inner.out_dim == 1 else inner(x)),
        "num_classes=1",
        "holds_for_other_classes",
    ),
    "fits seven classes": Wrong(
        head(lambda inner, x, key: inner(x) + jnp.broadcast_to(jnp.zeros(7, x.dtype), inner(x).shape)),
        "num_classes=1",
        "holds_for_other_classes",
    ),
    "says what a module is": Wrong(
        head(kinds={"inner": "matrix"}),
        "parameter_kinds of Wrong must name fields .*, got 'inner': it has none",
        "parameter_kinds_name_its_arrays",
    ),
    "has a layer that names a field that there is not": Wrong(
        head(make=lambda inner: eqx.tree_at(lambda h: h.linear.bias, inner, [MisspeltLayer(inner.linear.bias)])),
        "parameter_kinds of MisspeltLayer must name fields .*, got 'scales': these are 'scale'",
        "parameter_kinds_name_its_arrays",
    ),
    "has a layer that splits a field that there is not": Wrong(
        head(make=lambda inner: eqx.tree_at(lambda h: h.linear.bias, inner, [UnsplitLayer(inner.linear.bias)])),
        "block_fields of UnsplitLayer must name fields .*, got 'scales': these are 'scale'",
        "parameter_kinds_name_its_arrays",
    ),
    "fits one width": Wrong(
        head(lambda inner, x, key: inner(x * jnp.broadcast_to(jnp.ones(24, x.dtype), x.shape))),
        "width of 48",
        "holds_for_another_width",
    ),
    "has weights in bfloat16": Wrong(
        head(make=lambda inner: jax.tree.map(lambda x: x.astype(jnp.bfloat16), inner)),
        "must be made in float32, got bfloat16",
        "starts_finite_and_in_float32",
    ),
    "starts as NaN": Wrong(
        head(make=lambda inner: jax.tree.map(lambda x: x * jnp.nan, inner)),
        "must be finite as it is made",
        "starts_finite_and_in_float32",
    ),
    "has the wrong sign in its gradient": Wrong(
        head(lambda inner, x, key: with_wrong_sign(inner(x))),
        "the gradient of .* must be the slope",
        "gradients_are_slopes",
    ),
    "has twice the gradient for its input": Wrong(
        head(lambda inner, x, key: inner(with_twice_the_gradient(x))),
        "the gradient of .*the inputs must be the slope",
        "gradients_are_slopes",
    ),
    "drops the same for every key": Wrong(
        head(lambda inner, x, key: inner(x if key is None else drop(jax.random.key(0), x))),
        "two keys must draw different",
        "a_key_changes_what_is_drawn",
    ),
}
