"""The checks of parts of every kind."""

import copy
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
    draw_array,
    draw_part,
    list_parameters,
    randomise,
    run_compiled,
    trace,
    tree,
)

_KEY_SEED = 3


def is_a_final_class(subject: Subject) -> Iterator[str]:
    """The class is decorated with `@final`."""
    kind = cast("type[object]", type(subject.make(jax.random.key(0))))
    if not getattr(kind, "__final__", False):
        yield f"{kind.__name__} must be decorated with typing.final: wrap a part instead of inheriting from it"


def options_are_keyword_only(subject: Subject) -> Iterator[str]:
    """Options, and all arguments but the first, are keyword-only. There is no `**kwargs`."""
    kind = cast("type[object]", type(subject.make(jax.random.key(0))))
    given = {"key", *(field.name for field in dataclasses.fields(subject.registry.context))}
    for position, parameter in enumerate(inspect.signature(kind).parameters.values()):
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            yield f"{kind.__name__} must not take **{parameter.name}, which hides a mistyped option"
        elif parameter.kind is not inspect.Parameter.KEYWORD_ONLY and (position or parameter.name not in given):
            yield f"{parameter.name} of {kind.__name__} must be keyword-only: write * before it"


def fields_are_arrays_or_static(subject: Subject) -> Iterator[str]:
    """All leaves of the PyTree are arrays, and static fields hash. The part can be saved and loaded."""
    part, other = draw_part(subject), draw_part(subject, seed=1)
    leaves, structure = tree.flatten(part)
    for leaf in leaves:
        if not eqx.is_array(leaf):
            yield f"its fields must be arrays or eqx.field(static=True), got {leaf!r}"
            return
        if not leaf.size:
            yield "its arrays must not have size zero, which optimisers and checkpoints refuse: use None instead"
    if tree.structure(copy.deepcopy(part)) != structure:
        yield "a deep copy must have the same structure: its static fields must be equal to their copies"
    for field in dataclasses.fields(part):
        if callable(getattr(part, field.name)) and field.metadata.get("static", False):
            yield f"its static field {field.name} must not be a function: use its name, which is pickled and copied"
        try:
            hash(getattr(part, field.name) if field.metadata.get("static", False) else None)
        except TypeError as error:
            yield f"its static field {field.name} must hash, because jax.jit looks programs up by it: {error}"
    if not eqx.tree_equal(tree.unflatten(structure, leaves), part):
        yield "tree.unflatten after tree.flatten must return an equal part"
    file = io.BytesIO()
    eqx.tree_serialise_leaves(file, part)
    file.seek(0)
    loaded: Any = cast(Any, eqx.tree_deserialise_leaves)(file, other)
    if not eqx.tree_equal(loaded, part):
        yield "eqx.tree_deserialise_leaves must return an equal part"


def parameters_follow_the_key(subject: Subject) -> Iterator[str]:
    """The same key draws the same parameters, and another key draws others."""
    one, same, other = (list_parameters(subject.make(jax.random.key(k))) for k in (0, 0, 1))
    for path in one:
        if not np.array_equal(one[path], same[path]):
            yield f"the parameter {path} must be the same for the same key, but two parts have different ones"
    varied = [path for path, leaf in one.items() if np.ptp(np.asarray(leaf, np.float64)) > 0]
    if varied and all(np.array_equal(one[path], other[path]) for path in one):
        yield f"the parameters {', '.join(varied)} must be drawn with the key, but two keys draw the same"


def jit_equals_eager(subject: Subject) -> Iterator[str]:
    """The result is the same under `jax.jit`."""
    part = draw_part(subject)
    eager = subject.call(part, subject.inputs, None)
    if difference := differ(run_compiled(subject.call, part, subject.inputs, None), eager, 2e-5):
        yield f"the result must be the same under jax.jit, but {difference}"


def vmap_equals_a_loop(subject: Subject) -> Iterator[str]:
    """The result of a batch is that of its examples one by one."""
    part = draw_part(subject)
    both = tree.map(_make_pair, subject.inputs)

    def run_example(index: int) -> Any:
        def take(x: Any) -> Any:
            return x[index]

        return run_compiled(subject.call, part, tree.map(take, both), None)

    def run_batch(part: Any, inputs: Any, key: Any) -> Any:
        def call(inputs: Any) -> Any:
            return subject.call(part, inputs, None)

        return jax.vmap(call)(inputs)

    def stack(first: Any, second: Any) -> Any:
        return jnp.stack([first, second])

    expected = tree.map(stack, run_example(0), run_example(1))
    if difference := differ(run_compiled(run_batch, part, both, None), expected, 2e-5):
        yield f"the result must be the same under jax.vmap as in a loop, but {difference}"


def gradients_reach_every_parameter(subject: Subject) -> Iterator[str]:
    """The gradients of all parameters and of the inputs are finite and not zero."""
    part = draw_part(subject)
    of_parameters, of_inputs = run_compiled(differentiate(subject.call), part, subject.inputs, None)
    found = list_parameters(of_parameters)
    for path in list_parameters(eqx.filter(part, eqx.is_inexact_array)):
        if path not in found or not np.any(np.asarray(found[path]) != 0):
            yield f"the gradient must reach the parameter {path}, but it is zero: use it, or do not stop its gradient"
        elif not np.all(np.isfinite(np.asarray(found[path]))):
            yield f"the gradient of the parameter {path} must be finite"
    arrays = [np.asarray(leaf) for leaf in tree.leaves(of_inputs)]
    if not all(np.all(np.isfinite(array)) for array in arrays):
        yield "the gradient of the inputs must be finite"
    elif not any(np.any(array != 0) for array in arrays):
        yield "the gradient must reach the inputs, but it is zero: nothing before this part can learn"


def keeps_the_dtype(subject: Subject) -> Iterator[str]:
    """The output has the dtype of the input, float32 or bfloat16, with nearly the same numbers."""
    part = draw_part(subject, seed=1)
    wide = run_compiled(subject.call, part, subject.inputs, None)
    half, inputs = (_to_bfloat16(x) for x in (part, subject.inputs))
    narrow = run_compiled(subject.call, half, inputs, None)
    for name, out in (("float32", wide), ("bfloat16", narrow)):
        dtypes = {str(leaf.dtype) for leaf in tree.leaves(out)}
        if dtypes != {name}:
            yield f"for inputs in {name} the output must be in {name}, got {', '.join(sorted(dtypes))}"
    largest = max((float(jnp.max(jnp.abs(x))) for x in tree.leaves(wide) if x.size), default=0.0)

    def scale(x: Any) -> Any:
        return x.astype(jnp.float32) / max(largest, 1e-30)

    if difference := differ(tree.map(scale, narrow), tree.map(scale, wide), 0.05):
        yield f"the result in bfloat16 must be nearly that in float32, but, relative to the largest, {difference}"


def nothing_is_random_without_a_key(subject: Subject) -> Iterator[str]:
    """Two calls without a key give the same, and so do two calls with the same key."""
    part = draw_part(subject)
    if differ(subject.call(part, subject.inputs, None), subject.call(part, subject.inputs, None), 0):
        yield "two calls without a key must give the same result"
    if subject.takes_key:
        key = jax.random.key(_KEY_SEED)
        if differ(subject.call(part, subject.inputs, key), subject.call(part, subject.inputs, key), 0):
            yield "two calls with the same key must give the same result"


def builds_from_a_configuration(subject: Subject) -> Iterator[str]:
    """A model with this part is built and works in both orders of norm and pool. A named part survives JSON."""
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
            yield f"its configuration must be equal after JSON, got {again}"
    image = draw_array(*config.image_size, config.channels)
    model = randomise(lambda: config.build(key=jax.random.key(0)))
    if not np.all(np.isfinite(np.asarray(run_compiled(_call_model, model, image)))):
        yield "the logits of a model with it must be finite"
    other = dataclasses.replace(config, norm_order="pool_norm")
    trace(lambda: other.build(key=jax.random.key(0))(image))


COMMON: tuple[Check, ...] = (
    is_a_final_class,
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
def differentiate(call: Callable[[Any, Any, Any], Any]) -> Any:
    """Returns a function for the gradients of a random sum of a call's output: of the parameters, and of the inputs."""

    def both(part: Any, inputs: Any, key: Any) -> Any:
        variable, static = cast("tuple[Any, Any]", eqx.partition(part, eqx.is_inexact_array))

        def loss(variable: Any, inputs: Any) -> Any:
            out = call(eqx.combine(variable, static), inputs, key)
            # Random factors, so that no symmetry makes a gradient vanish.
            terms = [jnp.vdot(x, draw_array(*x.shape, seed=9).astype(x.dtype)) for x in tree.leaves(out)]
            return jnp.sum(jnp.stack(terms))

        return cast(Any, jax.grad(loss, argnums=(0, 1))(variable, inputs))

    return both


def _make_pair(x: Any) -> Any:
    return jnp.stack([x, 2 * x + 1])


def _to_bfloat16(module: Any) -> Any:
    def narrow(x: Any) -> Any:
        return x.astype(jnp.bfloat16) if eqx.is_inexact_array(x) else x

    return tree.map(narrow, module)


def _call_model(model: Any, image: Any) -> Any:
    return model(image)
