"""What is compared: each model at each resolution, its layers, and the pools that read them."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._factory import list_bound
from .._spec import PartSpec
from ..model import Readout, ViT
from ..pool import POOLS, AbstractPool, PoolFactory
from ._probe import make_probe
from ._rows import Skipped, name_layer, name_resolution
from ._tokens import SequenceForm

PoolChoice = str | PartSpec | PoolFactory
"""A pool: a name, a name with options, a class, or a `functools.partial` of one."""


@dataclass(frozen=True)
class Group:
    """A model at one resolution: what one pass over the images is for."""

    model: str
    """The name of the model."""
    resolution: tuple[int, int]
    """Height and width of the images."""
    layers: tuple[int, ...]
    """The blocks whose tokens are read."""
    pools: Mapping[str, PoolChoice]
    """The pools that read them, by their names."""

    def __str__(self) -> str:
        return f"{self.model} at {name_resolution(self.resolution)}"

    @property
    def cells(self) -> list[tuple[int, str]]:
        """All pairs of a layer and the name of a pool."""
        return [(layer, pool) for layer in self.layers for pool in self.pools]


def choose_groups(
    models: Mapping[str, ViT],
    layers: Sequence[int],
    resolutions: Sequence[int | tuple[int, int]] | None,
    pools: Sequence[PoolChoice] | None,
) -> tuple[list[Group], list[Skipped]]:
    """Combines models, layers, resolutions and pools, as `compare` does before it runs.

    Only shapes are computed, so the models may have shapes in place of arrays.

    **Arguments:** as in `compare`.

    **Returns:**

    The groups, and what does not fit some of the models, with the reason.

    **Raises:** `ValueError` if an axis is empty or has a value twice, or if a value fits no model; what
    `POOLS.describe` raises for a pool that does not exist.
    """
    if not models:
        raise ValueError("models must have at least one model, got none")
    choices = name_pools(pools)
    sizes = None if resolutions is None else [_to_pair(size) for size in resolutions]
    for axis, values in (("layers", layers), ("resolutions", sizes)):
        if values is not None:
            _check_once(axis, values)
    skipped: list[Skipped] = []

    def sift(axis: str, values: Sequence[Any], name: Callable[[Any], str], find: Callable[[ViT, Any], str | None]):
        """The values that fit each model. One that fits none is an error, unless it is one of all pools."""
        fitting: dict[str, list[Any]] = {model: [] for model in models}
        for value in values:
            reasons = {model: find(models[model], value) for model in models}
            wrong = {model: reason for model, reason in reasons.items() if reason is not None}
            if len(wrong) == len(models) and not (axis == "pools" and pools is None):
                raise ValueError(f"{axis} has {name(value)}, which fits no model: {next(iter(wrong.values()))}")
            skipped.extend(Skipped(f"{model}, {axis[:-1]} {name(value)}", why) for model, why in wrong.items())
            for model in models.keys() - wrong.keys():
                fitting[model].append(value)
        return fitting

    def find_wrong_pool(model: ViT, label: str) -> str | None:
        return _find_misfit(model, choices[label])

    of_layers = sift("layers", layers, name_layer, _find_wrong_layer)
    of_pools = sift("pools", list(choices), str, find_wrong_pool)
    of_sizes = (
        {name: [model.config.image_size] for name, model in models.items()}
        if sizes is None
        else sift("resolutions", sizes, name_resolution, _find_wrong_size)
    )
    groups = [
        Group(name, size, _unify(models[name], of_layers[name]), {label: choices[label] for label in of_pools[name]})
        for name in models
        for size in of_sizes[name]
        if of_layers[name] and of_pools[name]
    ]
    if not groups:
        reasons = "; ".join(f"{s.name}: {s.reason}" for s in skipped)
        raise ValueError(f"no layer, resolution and pool fit one model together: {reasons}")
    return groups, skipped


def name_pools(pools: Sequence[PoolChoice] | None) -> dict[str, PoolChoice]:
    """The pools by what they are called in tables: all that are registered for `None`.

    **Raises:** `ValueError` if there is none, or one twice; what `POOLS.describe` raises for one that does not exist.
    """
    if isinstance(pools, str):
        raise ValueError(f"pools must be a sequence of names, got {pools!r}: pass ({pools!r},)")
    chosen = list(POOLS) if pools is None else list(pools)
    labels = [_name_pool(choice, is_asked=pools is not None) for choice in chosen]
    _check_once("pools", labels)
    return dict(zip(labels, chosen, strict=True))


def _name_pool(choice: PoolChoice, *, is_asked: bool) -> str:
    if is_asked:
        POOLS.describe(choice)
    if isinstance(choice, str | PartSpec):
        spec = PartSpec(choice) if isinstance(choice, str) else choice
        return str(dataclasses.replace(spec, name=POOLS.aliases.get(spec.name, spec.name)))
    function: Any = choice
    bound = ", ".join(f"{name}={function.keywords[name]!r}" for name in sorted(list_bound(choice)))
    name = str(getattr(getattr(choice, "func", choice), "__name__", type(choice).__name__))
    return f"{name}({bound})" if bound else name


def _check_once(axis: str, values: Sequence[object]) -> None:
    if not values:
        raise ValueError(f"{axis} must have at least one {axis[:-1]}, got none")
    twice = [value for i, value in enumerate(values) if value in values[:i]]
    if twice:
        raise ValueError(f"{axis} must have each {axis[:-1]} once, got {twice[0]!r} twice: remove one")


def _to_pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _unify(model: ViT, layers: Sequence[int]) -> tuple[int, ...]:
    """Each block once, as it was given first; the last as -1."""
    blocks = {find_block(model, layer): layer for layer in reversed(layers)}
    return tuple(-1 if block == model.config.size.depth - 1 else layer for block, layer in reversed(blocks.items()))


def find_block(model: ViT, layer: int) -> int:
    """The number of a block, counted from zero."""
    return layer + model.config.size.depth if layer < 0 else layer


def _find_wrong_layer(model: ViT, layer: int) -> str | None:
    depth = model.config.size.depth
    if not 0 <= find_block(model, layer) < depth:
        return f"the model has {depth} blocks: use {-depth} to {depth - 1}"
    if model.config.neck_dim is not None and find_block(model, layer) < depth - 1:
        return "the model has a neck, which reads the last block alone: use the last"
    return None


def _find_wrong_size(model: ViT, size: tuple[int, int]) -> str | None:
    patch = model.config.patch_size
    if any(side % step for side, step in zip(size, patch, strict=True)):
        lower, upper = (
            name_resolution(
                (max(size[0] // patch[0] + more, 1) * patch[0], max(size[1] // patch[1] + more, 1) * patch[1])
            )
            for more in (0, 1)
        )
        return f"patches of {patch[0]} x {patch[1]} do not divide it: use {lower} or {upper}"
    try:
        eqx.filter_eval_shape(resize, model, size)
    except ValueError as error:
        return str(error)
    return None


def resize(model: ViT, size: tuple[int, int]) -> ViT:
    """The model for images of that size."""
    return model if size == model.config.image_size else model.resized(size)


def _find_misfit(model: ViT, choice: PoolChoice) -> str | None:
    """Why a pool does not fit the model; `None` if it does."""
    try:
        probe = cast(Readout, eqx.filter_eval_shape(make_probe, model.config, choice, 2, key=jax.random.key(0)))
        form = SequenceForm.from_backbone(model.backbone)
        if probe.pool.needs_class_token and not form.has_class_token:
            return "it reads the class token, and the backbone has none"

        def run(pool: AbstractPool, sequence: Float[Array, "tokens dim"]) -> Float[Array, "..."]:
            return pool(form.divide(sequence))

        sequence = jax.ShapeDtypeStruct((form.length, model.backbone.dim), jnp.float32)
        pooled = cast(jax.ShapeDtypeStruct, eqx.filter_eval_shape(run, probe.pool, sequence))
    except Exception as error:  # of any kind: pools are anybody's code
        return describe_error(error)
    return None if pooled.ndim == 1 else f"it returns shape {pooled.shape}, not one vector"


def describe_error(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
