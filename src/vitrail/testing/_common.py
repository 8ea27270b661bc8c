"""The checks that hold for a part of every kind."""

import dataclasses
import functools
import inspect
import io
from collections.abc import Callable, Iterator
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._registry import PartSpec
from ..encoder import EncoderSize
from ..model import ViTConfig
from ._subject import (
    Check,
    Subject,
    differ,
    parameters,
    random_array,
    random_part,
    randomised,
    run_compiled,
    shape_of,
    tree,
)

_KEY_SEED = 3


def is_a_final_class_of_its_kind(subject: Subject) -> Iterator[str]:
    """It extends the abstract class, and nobody extends it."""
    kind = cast("type[object]", type(subject.make(jax.random.key(0))))
    if not issubclass(kind, subject.abstract):
        yield f"it must extend vitrail.{subject.abstract.__name__}, but {kind.__name__} does not"
    if not getattr(kind, "__final__", False):
        yield f"{kind.__name__} must be decorated with typing.final: a part is wrapped, not inherited from"


def options_are_keyword_only(subject: Subject) -> Iterator[str]:
    """All arguments but the first have to be named, and none is swallowed."""
    kind = cast("type[object]", type(subject.make(jax.random.key(0))))
    _, *others = inspect.signature(kind).parameters.values()
    for parameter in others:
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            yield f"{kind.__name__} must not take **{parameter.name}: a mistyped option would be ignored"
        elif parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            yield f"{parameter.name} of {kind.__name__} must be keyword-only: put * before it"


def fields_are_arrays_or_static(subject: Subject) -> Iterator[str]:
    """As a PyTree it holds arrays alone; all else is static and hashes. It comes back from a file."""
    part, other = random_part(subject), random_part(subject, seed=1)
    leaves, structure = tree.flatten(part)
    for leaf in leaves:
        if not eqx.is_array(leaf):
            yield f"its fields must be arrays or eqx.field(static=True), but {leaf!r} is neither"
            return
    for field in dataclasses.fields(part):
        try:
            hash(getattr(part, field.name) if field.metadata.get("static", False) else None)
        except TypeError as error:
            yield f"its static field {field.name} must hash, as jax.jit looks programs up by it, but {error}"
    if not eqx.tree_equal(tree.unflatten(structure, leaves), part):
        yield "it must equal itself after tree.flatten and unflatten"
    file = io.BytesIO()
    eqx.tree_serialise_leaves(file, part)
    file.seek(0)
    loaded: Any = cast(Any, eqx.tree_deserialise_leaves)(file, other)
    if not eqx.tree_equal(loaded, part):
        yield "it must come back equal from eqx.tree_serialise_leaves"


def parameters_follow_the_key(subject: Subject) -> Iterator[str]:
    """The same key draws the same parameters, and another key others."""
    one, same, other = (parameters(subject.make(jax.random.key(k))) for k in (0, 0, 1))
    for path in one:
        if not np.array_equal(one[path], same[path]):
            yield f"the parameter {path} must be the same for the same key, but two calls drew it differently"
    patterned = [path for path, leaf in one.items() if np.ptp(np.asarray(leaf, np.float64)) > 0]
    if patterned and all(np.array_equal(one[path], other[path]) for path in one):
        yield f"the parameters {', '.join(patterned)} must be drawn with the key, but are the same for two keys"


def jit_equals_eager(subject: Subject) -> Iterator[str]:
    """Compiled and as it stands it gives the same."""
    part = random_part(subject)
    eager = subject.call(part, subject.inputs, None)
    if difference := differ(run_compiled(subject.call, part, subject.inputs, None), eager, 2e-5):
        yield f"it must give the same under jax.jit, but {difference}"


def vmap_equals_a_loop(subject: Subject) -> Iterator[str]:
    """A batch gives what its examples give one by one."""
    part = random_part(subject)
    both = tree.map(_with_another, subject.inputs)

    def example(index: int) -> Any:
        def take(x: Any) -> Any:
            return x[index]

        return run_compiled(subject.call, part, tree.map(take, both), None)

    def batch(part: Any, inputs: Any, key: Any) -> Any:
        def call(inputs: Any) -> Any:
            return subject.call(part, inputs, None)

        return jax.vmap(call)(inputs)

    def pair(first: Any, second: Any) -> Any:
        return jnp.stack([first, second])

    expected = tree.map(pair, example(0), example(1))
    if difference := differ(run_compiled(batch, part, both, None), expected, 2e-5):
        yield f"it must give the same under jax.vmap as in a loop, but {difference}"


def gradients_reach_every_parameter(subject: Subject) -> Iterator[str]:
    """The gradient of every parameter is finite and not zero, that of the inputs is finite and not zero everywhere."""
    part = random_part(subject)
    of_parameters, of_inputs = run_compiled(gradients(subject.call), part, subject.inputs, None)
    found = parameters(of_parameters)
    for path in parameters(eqx.filter(part, eqx.is_inexact_array)):
        if path not in found or not np.any(np.asarray(found[path]) != 0):
            yield f"the gradient must reach the parameter {path}, but it is zero: is it used, by what can be derived?"
        elif not np.all(np.isfinite(np.asarray(found[path]))):
            yield f"the gradient of the parameter {path} must be finite, but it is not"
    arrays = [np.asarray(leaf) for leaf in tree.leaves(of_inputs)]
    if not all(np.all(np.isfinite(array)) for array in arrays):
        yield "the gradient of the inputs must be finite, but it is not"
    elif not any(np.any(array != 0) for array in arrays):
        yield "the gradient must reach the inputs, but it is zero: nothing before this part would learn"


def keeps_the_dtype(subject: Subject) -> Iterator[str]:
    """What comes in float32 goes out in float32, in bfloat16 in bfloat16, with nearly the same numbers."""
    part = random_part(subject, seed=1)
    wide = run_compiled(subject.call, part, subject.inputs, None)
    half, inputs = (_to_bfloat16(x) for x in (part, subject.inputs))
    narrow = run_compiled(subject.call, half, inputs, None)
    for name, out in (("float32", wide), ("bfloat16", narrow)):
        came = {str(leaf.dtype) for leaf in tree.leaves(out)}
        if came != {name}:
            yield f"what comes in {name} must go out in {name}, but {', '.join(sorted(came))} went out"
    largest = max((float(jnp.max(jnp.abs(x))) for x in tree.leaves(wide) if x.size), default=0.0)

    def share(x: Any) -> Any:
        return x.astype(jnp.float32) / max(largest, 1e-30)

    if difference := differ(tree.map(share, narrow), tree.map(share, wide), 0.05):
        yield f"in bfloat16 it must give nearly what it gives in float32, but of one {difference}"


def nothing_is_random_without_a_key(subject: Subject) -> Iterator[str]:
    """Without a key a call is inference, and with one it can be repeated."""
    part = random_part(subject)
    if differ(subject.call(part, subject.inputs, None), subject.call(part, subject.inputs, None), 0):
        yield "without a key a call must be repeatable, but two gave different results"
    if subject.takes_key:
        key = jax.random.key(_KEY_SEED)
        if differ(subject.call(part, subject.inputs, key), subject.call(part, subject.inputs, key), 0):
            yield "with the same key a call must be repeatable, but two gave different results"


def builds_from_a_configuration(subject: Subject) -> Iterator[str]:
    """A model has it, in both orders of norm and pool; given by name, it comes back from JSON."""
    fields: dict[str, Any] = {
        "image_size": (8, 12),
        "patch_size": (4, 4),
        "size": EncoderSize(dim=24, depth=1, num_heads=2, mlp_dim=8),
        "num_classes": 5,
        **subject.config,
        subject.field: subject.choice,
    }
    config = ViTConfig(**fields)
    if isinstance(subject.choice, str | PartSpec):
        again = ViTConfig.from_json(config.to_json())
        if again != config:
            yield f"its configuration must come back equal from JSON, but {again} did"
    image = random_array(*config.image_size, config.channels)
    model = randomised(lambda: config.build(key=jax.random.key(0)))
    if not np.all(np.isfinite(np.asarray(run_compiled(_call_model, model, image)))):
        yield "a model with it must give finite logits, but it does not"
    other = dataclasses.replace(config, norm_order="pool_norm")
    shape_of(lambda: other.build(key=jax.random.key(0))(image))


COMMON: tuple[Check, ...] = (
    is_a_final_class_of_its_kind,
    options_are_keyword_only,
    fields_are_arrays_or_static,
    parameters_follow_the_key,
    jit_equals_eager,
    vmap_equals_a_loop,
    gradients_reach_every_parameter,
    keeps_the_dtype,
    nothing_is_random_without_a_key,
    builds_from_a_configuration,
)


@functools.cache  # the same function, so that it compiles once for all checks
def gradients(call: Callable[[Any, Any, Any], Any]) -> Any:
    """The gradients of a random sum of what comes out of a call: of the parameters, and of the inputs."""

    def both(part: Any, inputs: Any, key: Any) -> Any:
        variable, static = cast("tuple[Any, Any]", eqx.partition(part, eqx.is_inexact_array))

        def loss(variable: Any, inputs: Any) -> Any:
            out = call(eqx.combine(variable, static), inputs, key)
            # Random factors, so that no symmetry makes a gradient vanish.
            terms = [jnp.vdot(x, random_array(*x.shape, seed=9).astype(x.dtype)) for x in tree.leaves(out)]
            return jnp.sum(jnp.stack(terms))

        return cast(Any, jax.grad(loss, argnums=(0, 1))(variable, inputs))

    return both


def _with_another(x: Any) -> Any:
    return jnp.stack([x, 2 * x + 1])


def _to_bfloat16(module: Any) -> Any:
    def narrowed(x: Any) -> Any:
        return x.astype(jnp.bfloat16) if eqx.is_inexact_array(x) else x

    return tree.map(narrowed, module)


def _call_model(model: Any, image: Any) -> Any:
    return model(image)
