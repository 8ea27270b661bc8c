"""Wrong pools: each differs from a right one in one thing, and has the words that must say which."""

import dataclasses
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

import vitrail
from vitrail import Tokens


class Wrong(NamedTuple):
    """A wrong part, and words of the line that must be in the report."""

    part: Any
    words: str
    check: str


def make_part(base: Any, fields: dict[str, Any], body: dict[str, Any]) -> Any:
    """A final class, of fields and methods."""
    return final(type(base)("Wrong", (base,), {"__annotations__": fields, **body}))


# Pools that weigh nothing ----------------------------------------------------------------------------------------


def mean_of(tokens: Tokens, mask: Any = None) -> Any:
    """The mean of the patches that count, with the errors of the built-in mean."""
    mask = tokens.mask if mask is None else mask
    return vitrail.MeanPool(tokens.dim)(dataclasses.replace(tokens, mask=mask))


def set_scale(self: Any, dim: int, *, key: Any) -> None:
    self.scale = 1 + 0.1 * jax.random.normal(key, (dim,))
    self.out_dim = dim


def scale_is(draw: Any) -> Any:
    """An `__init__` that draws the scale in another way."""

    def __init__(self: Any, dim: int, *, key: Any) -> None:
        self.scale = draw(dim, key)
        self.out_dim = dim

    return __init__


def scaled_mean(self: Any, tokens: Tokens, key: Any) -> Any:
    return self.scale * mean_of(tokens)


def pool(
    call: Any = scaled_mean,
    *,
    init: Any = set_scale,
    order_invariant: bool = True,
    needs_class_token: bool = False,
    kinds: Any = MappingProxyType({"scale": "other"}),
) -> Any:
    """A pool with a scale for each channel."""

    def __call__(self: Any, tokens: Tokens, *, key: Any = None) -> Any:
        return call(self, tokens, key)

    fields = {
        "scale": Any,
        "out_dim": int,
        "needs_class_token": ClassVar[bool],
        "order_invariant": ClassVar[bool],
        "parameter_kinds": ClassVar[Any],
    }
    body = {
        "out_dim": eqx.field(static=True),
        "parameter_kinds": kinds,
        "needs_class_token": needs_class_token,
        "order_invariant": order_invariant,
        "__init__": init,
        "__call__": __call__,
    }
    return make_part(vitrail.AbstractPool, fields, body)


def count_patches(tokens: Tokens) -> Any:
    if tokens.mask is None:
        return jnp.asarray(tokens.patches.shape[0], tokens.patches.dtype)
    return jnp.sum(tokens.mask).astype(tokens.patches.dtype)


def clean(tokens: Tokens) -> Any:
    """The patches, with zeros for those that do not count."""
    if tokens.mask is None:
        return tokens.patches
    return jnp.where(tokens.mask[:, None], tokens.patches, jnp.zeros_like(tokens.patches))


@jax.custom_vjp
def with_wrong_sign(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return x


with_wrong_sign.defvjp(lambda x: (x, None), lambda _, g: (-g,))


@jax.custom_vjp
def with_twice_the_gradient(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return x


with_twice_the_gradient.defvjp(lambda x: (x, None), lambda _, g: (2 * g,))


def half_stopped(self: Any, tokens: Tokens, key: Any) -> Any:
    mean = mean_of(tokens)
    half = mean.shape[0] // 2
    return self.scale * jnp.concatenate([jax.lax.stop_gradient(mean[:half]), mean[half:]])


def unbiased(self: Any, tokens: Tokens, key: Any) -> Any:
    """It divides by one less than the number of patches."""
    return self.scale * mean_of(tokens) * count_patches(tokens) / (count_patches(tokens) - 1)


def spread(self: Any, tokens: Tokens, key: Any) -> Any:
    """It divides by one less than the number of cells."""
    number = jnp.asarray(tokens.grid[0] * tokens.grid[1], tokens.patches.dtype)
    return scaled_mean(self, tokens, key) * (number - 1) / (number - 1)


def zero_for_none(self: Any, tokens: Tokens, key: Any) -> Any:
    return self.scale * jnp.sum(clean(tokens), axis=0) / jnp.maximum(count_patches(tokens), 1)


def nan_for_none(self: Any, tokens: Tokens, key: Any) -> Any:
    return self.scale * jnp.sum(clean(tokens), axis=0) / count_patches(tokens)


def drop(key: Any, x: Any) -> Any:
    return jnp.where(jax.random.bernoulli(key, 0.7, x.shape), x, jnp.zeros_like(x))


def dropping_ignores_the_mask(self: Any, tokens: Tokens, key: Any) -> Any:
    if key is None:
        return scaled_mean(self, tokens, key)
    return self.scale * jnp.mean(drop(key, tokens.patches), axis=0)


def dropping_multiplies_by_the_mask(self: Any, tokens: Tokens, key: Any) -> Any:
    if key is None:
        return scaled_mean(self, tokens, key)
    mask = jnp.ones(tokens.patches.shape[0], bool) if tokens.mask is None else tokens.mask
    numbers = mask[:, None].astype(tokens.patches.dtype)
    return self.scale * jnp.sum(drop(key, tokens.patches) * numbers, axis=0) / count_patches(tokens)


def dropping_with_one_key(self: Any, tokens: Tokens, key: Any) -> Any:
    return self.scale * (mean_of(tokens) if key is None else drop(jax.random.key(0), mean_of(tokens)))


def dropping_in_float32(self: Any, tokens: Tokens, key: Any) -> Any:
    out = scaled_mean(self, tokens, key)
    return out if key is None else drop(key, out.astype(jnp.float32))


def dropping_divides_by_zero(self: Any, tokens: Tokens, key: Any) -> Any:
    out = scaled_mean(self, tokens, key)
    return out if key is None else out / jax.random.bernoulli(key, 0.5, out.shape).astype(out.dtype)


def dropping_half_of_the_vector(self: Any, tokens: Tokens, key: Any) -> Any:
    out = scaled_mean(self, tokens, key)
    return out if key is None else drop(key, out)[: out.shape[0] // 2]


def divided_by_a_scale(self: Any, tokens: Tokens, key: Any) -> Any:
    return mean_of(tokens) / self.scale


def first_patches(self: Any, tokens: Tokens, key: Any) -> Any:
    """It reads at most 64 patches."""
    mask = None if tokens.mask is None else tokens.mask[:64]
    patches = tokens.patches[:64]
    return self.scale * mean_of(Tokens(patches, (len(patches), 1), mask=mask))


def three_prefix_tokens(self: Any, tokens: Tokens, key: Any) -> Any:
    """It thinks that there are always three prefix tokens."""
    patches = tokens.sequence[3:]
    mask = None if tokens.sequence_mask is None else tokens.sequence_mask[3:]
    return self.scale * mean_of(Tokens(patches, (patches.shape[0], 1), mask=mask))


def divided_by_all_tokens(self: Any, tokens: Tokens, key: Any) -> Any:
    """It divides the sum of the patches by the number of all tokens."""
    count = count_patches(tokens)
    return scaled_mean(self, tokens, key) * count / (count + tokens.num_prefix)


def times_the_rows(self: Any, tokens: Tokens, key: Any) -> Any:
    return scaled_mean(self, tokens, key) * tokens.grid[0]


def square_only(self: Any, tokens: Tokens, key: Any) -> Any:
    """It is another pool on square grids."""
    out = scaled_mean(self, tokens, key)
    return out if tokens.grid[0] != tokens.grid[1] or tokens.grid == (1, 1) else out + clean(tokens)[0]


def half_empty(self: Any, tokens: Tokens, key: Any) -> Any:
    out = scaled_mean(self, tokens, key)
    return jnp.where(jnp.arange(out.shape[0]) < out.shape[0] // 2, out, jnp.zeros_like(out))


def by_index(self: Any, tokens: Tokens, key: Any) -> Any:
    """It weighs a patch by its number among the tokens, not by its place in the grid."""
    order = jnp.arange(tokens.patches.shape[0])
    if tokens.mask is not None:
        order = jnp.cumsum(tokens.mask) - 1
    factors = 1 / (1 + order.astype(tokens.patches.dtype))[:, None]
    return self.scale * mean_of(dataclasses.replace(tokens, patches=clean(tokens) * factors))


def width_of_24(self: Any, tokens: Tokens, key: Any) -> Any:
    return scaled_mean(self, tokens, key) * jnp.ones(24, tokens.patches.dtype)


def masked_gradient(self: Any, tokens: Tokens, key: Any) -> Any:
    """Its gradient is NaN as soon as a patch is masked: a norm of zeros has no slope."""
    out = scaled_mean(self, tokens, key)
    if tokens.mask is None:
        return out
    return out + jnp.sqrt(jnp.sum((self.scale * jnp.zeros_like(out)) ** 2))


POOLS: dict[str, Wrong] = {
    "has the wrong sign in the gradient of its parameters": Wrong(
        pool(lambda s, t, k: with_wrong_sign(s.scale) * mean_of(t)),
        r"the gradient of .*\.scale must be the slope",
        "gradients_are_slopes",
    ),
    "has the wrong sign in the gradient of its tokens": Wrong(
        pool(lambda s, t, k: s.scale * with_wrong_sign(mean_of(t))),
        "the gradient of .*the inputs must be the slope",
        "gradients_are_slopes",
    ),
    "has twice the gradient": Wrong(
        pool(lambda s, t, k: s.scale * with_twice_the_gradient(mean_of(t))),
        "the gradient of .*the inputs must be the slope",
        "gradients_are_slopes",
    ),
    "stops half of the gradient": Wrong(
        pool(half_stopped), "the gradient of .*the inputs must be the slope", "gradients_are_slopes"
    ),
    "is not a number for one patch": Wrong(
        pool(unbiased), "the gradient with a mask must be finite, also if one patch is left", "respects_the_mask"
    ),
    "is not a number on a grid of one patch": Wrong(
        pool(spread), r"on a grid of \(1, 1\), the result must be finite", "holds_on_every_grid"
    ),
    "returns zero if no patch counts": Wrong(
        pool(zero_for_none), "must raise a ValueError if the mask is false everywhere", "refuses_a_mask_of_nothing"
    ),
    "returns NaN if no patch counts": Wrong(
        pool(nan_for_none), "must raise a ValueError if the mask is false everywhere", "refuses_a_mask_of_nothing"
    ),
    "ignores the mask with a key": Wrong(
        pool(dropping_ignores_the_mask), "with a key, .*masked patches must not change", "respects_the_mask_with_a_key"
    ),
    "multiplies by the mask with a key": Wrong(
        pool(dropping_multiplies_by_the_mask),
        "with a key, .*masked patches must not change",
        "respects_the_mask_with_a_key",
    ),
    "has a gradient of NaN with a mask": Wrong(
        pool(masked_gradient), "the gradient with a mask must be finite", "respects_the_mask"
    ),
    "draws the same for every key": Wrong(
        pool(dropping_with_one_key), "two keys must draw different", "a_key_changes_what_is_drawn"
    ),
    "has another dtype with a key": Wrong(
        pool(dropping_in_float32), "with a key .*shape and dtype .*bfloat16", "a_key_changes_what_is_drawn"
    ),
    "is not finite with a key": Wrong(
        pool(dropping_divides_by_zero), "with a key .*finite", "a_key_changes_what_is_drawn"
    ),
    "has another shape with a key": Wrong(
        pool(dropping_half_of_the_vector), "with a key .*shape", "a_key_changes_what_is_drawn"
    ),
    "has parameters in bfloat16": Wrong(
        pool(init=scale_is(lambda dim, key: jax.random.normal(key, (dim,), jnp.bfloat16))),
        r"\.scale must be made in float32, got bfloat16",
        "starts_finite_and_in_float32",
    ),
    "has parameters in float16": Wrong(
        pool(init=scale_is(lambda dim, key: jax.random.normal(key, (dim,), jnp.float16))),
        r"\.scale must be made in float32, got float16",
        "starts_finite_and_in_float32",
    ),
    "starts as NaN": Wrong(
        pool(init=scale_is(lambda dim, key: jnp.full(dim, jnp.nan))),
        r"\.scale must be finite as it is made",
        "starts_finite_and_in_float32",
    ),
    "starts as infinity": Wrong(
        pool(init=scale_is(lambda dim, key: -jnp.log(jnp.zeros(dim)))),
        r"\.scale must be finite as it is made",
        "starts_finite_and_in_float32",
    ),
    "returns NaN at the start": Wrong(
        pool(divided_by_a_scale, init=scale_is(lambda dim, key: jnp.zeros(dim))),
        "the result must be finite with the parameters as they are made",
        "starts_finite_and_in_float32",
    ),
    "reads at most 64 patches": Wrong(pool(first_patches), r"on a grid of \(12, 12\)", "holds_on_every_grid"),
    "reckons with three prefix tokens": Wrong(
        pool(three_prefix_tokens), "the number of prefix tokens", "leaves_the_prefix_alone"
    ),
    "divides by the number of all tokens": Wrong(
        pool(divided_by_all_tokens), "the number of prefix tokens", "leaves_the_prefix_alone"
    ),
    "multiplies by the rows of the grid": Wrong(
        pool(times_the_rows), "on another grid of as many patches", "the_order_matters_as_declared"
    ),
    "is another pool on square grids": Wrong(pool(square_only), r"on a grid of \(12, 12\)", "holds_on_every_grid"),
    "leaves half of its width empty": Wrong(
        pool(half_empty), "every channel of the output must depend", "every_channel_says_something"
    ),
    "weighs by number instead of place": Wrong(
        pool(by_index, order_invariant=False),
        "in another order with their places",
        "a_mask_equals_a_subset",
    ),
    "names a field that there is not": Wrong(
        pool(kinds={"ww": "matrix"}),
        "parameter_kinds of Wrong must name fields .*, got 'ww': these are 'scale'",
        "parameter_kinds_name_its_arrays",
    ),
    "names a field that is static": Wrong(
        pool(kinds={"out_dim": "other"}),
        "parameter_kinds of Wrong must name fields .*, got 'out_dim': these are 'scale'",
        "parameter_kinds_name_its_arrays",
    ),
    "misspells a kind": Wrong(
        pool(kinds={"scale": "matricks"}),
        "parameter_kinds of Wrong must give one of the kinds 'matrix', .* for 'scale', got the string 'matricks'",
        "parameter_kinds_name_its_arrays",
    ),
    "has kinds that are no dictionary": Wrong(
        pool(kinds=("scale", "other")),
        "parameter_kinds of Wrong must be a dictionary .*, got the tuple",
        "parameter_kinds_name_its_arrays",
    ),
    "fits one width only": Wrong(pool(width_of_24), "for a width of 48", "holds_for_another_width"),
}


# Pools that weigh ------------------------------------------------------------------------------------------------


def scores_of(self: Any, tokens: Tokens, patches: Any = None) -> Any:
    """The right weights: a softmax of scores that are learned."""
    patches = clean(tokens) if patches is None else patches
    wide = patches.astype(jnp.float32)
    mean_of(tokens)  # for its error if no patch counts
    return jax.nn.softmax(wide @ self.scale.astype(jnp.float32), where=tokens.mask)[None]


def pool_by_scores(self: Any, tokens: Tokens, *, key: Any = None) -> Any:
    patches = clean(tokens)
    return scores_of(self, tokens)[0].astype(patches.dtype) @ patches + 0 * mean_of(tokens)


def weighing(weights: Any, call: Any = pool_by_scores) -> Any:
    """A pool by learned scores, that shows other weights."""

    def weigh(self: Any, tokens: Tokens) -> Any:
        return weights(self, tokens)

    fields = {"scale": Any, "out_dim": int, "needs_class_token": ClassVar[bool], "order_invariant": ClassVar[bool]}
    body = {
        "out_dim": eqx.field(static=True),
        "needs_class_token": False,
        "order_invariant": True,
        "__init__": set_scale,
        "__call__": call,
        "weights": weigh,
    }
    return make_part(vitrail.AbstractWeighingPool, fields, body)


def uniform(self: Any, tokens: Tokens) -> Any:
    ones = jnp.ones(tokens.patches.shape[0]) if tokens.mask is None else tokens.mask.astype(jnp.float32)
    return (ones / jnp.sum(ones))[None]


def first_only(self: Any, tokens: Tokens) -> Any:
    first = 0 if tokens.mask is None else jnp.argmax(tokens.mask)
    return (jnp.arange(tokens.patches.shape[0]) == first).astype(jnp.float32)[None]


def leaking(self: Any, tokens: Tokens) -> Any:
    """What a masked patch holds reaches the weights, though not the result."""
    spread = jnp.max(jnp.abs(tokens.patches.astype(jnp.float32)))
    return scores_of(self, tokens) * jnp.where(jnp.isnan(spread), jnp.nan, jnp.ones_like(spread))


def reversed_scores(self: Any, tokens: Tokens) -> Any:
    return jax.nn.softmax(-clean(tokens).astype(jnp.float32) @ self.scale, where=tokens.mask)[None]


def by_norm(self: Any, tokens: Tokens) -> Any:
    sizes = jnp.linalg.norm(clean(tokens).astype(jnp.float32), axis=1)
    return jax.nn.softmax(sizes, where=tokens.mask)[None]


WEIGHING: dict[str, Wrong] = {
    "shows weights of zero": Wrong(weighing(lambda s, t: 0 * scores_of(s, t)), "sum to one", "weights_are_shares"),
    "shows weights that sum to a half": Wrong(
        weighing(lambda s, t: scores_of(s, t) / 2), "sum to one", "weights_are_shares"
    ),
    "shows weights of NaN": Wrong(
        weighing(lambda s, t: jnp.nan * scores_of(s, t)), "weights must be finite", "weights_are_shares"
    ),
    "shows weights in half precision": Wrong(
        weighing(lambda s, t: scores_of(s, t).astype(t.patches.dtype)),
        "weights must be at least in float32, got bfloat16",
        "weights_are_shares",
    ),
    "shows weights that NaN in masked patches reaches": Wrong(
        weighing(leaking), "NaN in masked patches must not change the weights", "weights_are_shares"
    ),
    "shows equal weights": Wrong(
        weighing(uniform), "weights must weigh what is pooled", "weights_weigh_what_is_pooled"
    ),
    "shows equal weights by half": Wrong(
        weighing(lambda s, t: (scores_of(s, t) + uniform(s, t)) / 2),
        "weights must weigh what is pooled",
        "weights_weigh_what_is_pooled",
    ),
    "shows the weight of another patch": Wrong(
        weighing(lambda s, t: jnp.flip(scores_of(s, t), axis=1)), "weights must", "weights_weigh_what_is_pooled"
    ),
    "shows that one patch has all": Wrong(
        weighing(first_only, lambda s, t, key=None: s.scale * mean_of(t)),
        "weights must weigh what is pooled",
        "weights_weigh_what_is_pooled",
    ),
    "shows the weights of the opposite": Wrong(
        weighing(reversed_scores), "weights must weigh what is pooled", "weights_weigh_what_is_pooled"
    ),
    "shows weights by norm and pools by score": Wrong(
        weighing(by_norm), "weights must weigh what is pooled", "weights_weigh_what_is_pooled"
    ),
}


# Pools with a cell for each patch --------------------------------------------------------------------------------


def weigh_cells(self: Any, tokens: Tokens, *, key: Any = None) -> Any:
    right = eqx.tree_at(lambda p: p.scores, vitrail.WeightedPool(tokens.dim, grid=self.grid), self.scores)
    return self.scale * right(tokens)


def gridded(resized: Any) -> Any:
    """A pool with a score for each cell, that is resized in another way."""

    def __init__(self: Any, dim: int, *, grid: tuple[int, int], key: Any) -> None:
        set_scale(self, dim, key=key)
        self.scores = jnp.zeros(grid)
        self.grid = grid

    def resize(self: Any, grid: tuple[int, int]) -> Any:
        scores, scale = resized(self, grid)
        fresh = type(self)(scale.shape[0], grid=grid, key=jax.random.key(0))
        return eqx.tree_at(lambda p: (p.scores, p.scale), fresh, (scores, scale))

    fields = {
        "scale": Any,
        "scores": Any,
        "grid": tuple,
        "out_dim": int,
        "needs_class_token": ClassVar[bool],
        "order_invariant": ClassVar[bool],
    }
    body = {
        "out_dim": eqx.field(static=True),
        "grid": eqx.field(static=True),
        "needs_class_token": False,
        "order_invariant": False,
        "__init__": __init__,
        "__call__": weigh_cells,
        "resized": resize,
    }
    return make_part(vitrail.AbstractGridPool, fields, body)


def interpolate(scores: Any, grid: tuple[int, int]) -> Any:
    return scores if scores.shape == grid else jax.image.resize(scores, grid, "linear")


RIGHT_GRID_POOL = gridded(lambda s, grid: (interpolate(s.scores, grid), s.scale))

GRIDDED: dict[str, Wrong] = {
    "forgets its scores when resized": Wrong(
        gridded(lambda s, grid: (s.scores if s.grid == grid else jnp.zeros(grid), s.scale)),
        r"resized must keep what was learned.*\.scores",
        "keeps_what_was_learned_when_resized",
    ),
    "draws its scores anew when resized": Wrong(
        gridded(lambda s, grid: (s.scores if s.grid == grid else jax.random.normal(jax.random.key(1), grid), s.scale)),
        r"resized must keep what was learned.*\.scores",
        "keeps_what_was_learned_when_resized",
    ),
    "forgets its scale when resized": Wrong(
        gridded(lambda s, grid: (interpolate(s.scores, grid), s.scale if s.grid == grid else jnp.ones_like(s.scale))),
        r"resized must keep what was learned.*\.scale",
        "keeps_what_was_learned_when_resized",
    ),
    "turns its scores when resized": Wrong(
        gridded(lambda s, grid: (interpolate(s.scores if s.grid == grid else s.scores[::-1, ::-1], grid), s.scale)),
        r"resized must keep what was learned.*\.scores",
        "keeps_what_was_learned_when_resized",
    ),
    "mixes rows and columns when resized": Wrong(
        gridded(
            lambda s, grid: (
                interpolate(s.scores if s.grid == grid else s.scores.T.reshape(s.grid), grid),
                s.scale,
            )
        ),
        r"resized must keep what was learned.*\.scores",
        "keeps_what_was_learned_when_resized",
    ),
    "changes when resized to its own grid": Wrong(
        gridded(lambda s, grid: (interpolate(s.scores, grid) * (2.0 if s.grid == grid else 1.0), s.scale)),
        "resized to its own grid, it must stay the same",
        "keeps_what_was_learned_when_resized",
    ),
}


# Parts that draw -------------------------------------------------------------------------------------------------


@final
class OneKeyPool(vitrail.AbstractPool):
    """It draws two parameters with one key."""

    scale: Float[Array, " dim"]
    shift: Float[Array, " dim"]
    out_dim: int = eqx.field(static=True)
    needs_class_token: ClassVar[bool] = False
    order_invariant: ClassVar[bool] = True

    def __init__(self, dim: int, *, key: Any):
        self.scale = jax.random.normal(key, (dim,))
        self.shift = 0.02 * jax.random.normal(key, (dim,))
        self.out_dim = dim

    def __call__(self, tokens: Tokens, *, key: Any = None) -> Float[Array, " dim"]:
        return self.scale * mean_of(tokens) + self.shift


POOLS["draws two parameters with one key"] = Wrong(
    OneKeyPool, r"\.scale and \.shift .*the same key", "parameters_follow_the_key"
)
