"""The checks of parts of every kind."""

import copy
import dataclasses
import inspect
import io
from collections.abc import Iterator
from itertools import combinations
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._spec import PartSpec
from ..encoder import EncoderSize
from ..model import ViTConfig
from ._gradients import differentiate, gradients_are_slopes, gradients_reach_every_parameter
from ._kinds import parameter_kinds_name_its_arrays
from ._subject import (
    Check,
    Subject,
    are_equal,
    describe_error,
    differ,
    draw_array,
    draw_part,
    find_obstacle,
    is_finite,
    list_parameters,
    randomise,
    redraw,
    run_compiled,
    to_bfloat16,
    to_device,
    to_host,
    trace,
    tree,
)

_KEY_SEED = 3


def can_be_built_and_called(subject: Subject) -> Iterator[str]:
    """It is built for a model, and takes what the model passes. If it does not, no other check can say why."""
    if obstacle := find_obstacle(subject):
        yield obstacle


def is_a_final_class(subject: Subject) -> Iterator[str]:
    """The class is decorated with `@final`."""
    kind = cast("type[object]", type(subject.made))
    if not getattr(kind, "__final__", False):
        yield f"{kind.__name__} must be decorated with typing.final: wrap a part instead of inheriting from it"


def options_are_keyword_only(subject: Subject) -> Iterator[str]:
    """Options, and all arguments but the first, are keyword-only. There is no `**kwargs`."""
    kind = cast("type[object]", type(subject.made))
    given = {"key", *(field.name for field in dataclasses.fields(subject.registry.context))}
    for position, parameter in enumerate(inspect.signature(kind).parameters.values()):
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            yield f"{kind.__name__} must not take **{parameter.name}, which hides a mistyped option"
        elif parameter.kind is not inspect.Parameter.KEYWORD_ONLY and (position or parameter.name not in given):
            yield f"{parameter.name} of {kind.__name__} must be keyword-only: write * before it"


def fields_are_arrays_or_static(subject: Subject) -> Iterator[str]:
    """All leaves of the PyTree are arrays, and static fields hash. The part can be saved and loaded."""
    part, other = (to_host(draw_part(subject, seed=seed)) for seed in range(2))
    leaves, structure = tree.flatten(part)
    for leaf in leaves:
        if not isinstance(leaf, np.ndarray):
            yield f"its fields must be arrays or eqx.field(static=True), got {leaf!r}"
            return
        if not leaf.size:
            yield "its arrays must not have size zero, which optimisers and checkpoints refuse: use None instead"
    if tree.structure(copy.deepcopy(part)) != structure:
        yield "a deep copy must have the same structure: its static fields must be equal to their copies"
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if callable(value) and not dataclasses.is_dataclass(value) and field.metadata.get("static", False):
            yield f"its static field {field.name} must not be a function: use its name, which is pickled and copied"
        try:
            hash(value if field.metadata.get("static", False) else None)
        except TypeError as error:
            yield f"its static field {field.name} must hash, because jax.jit looks programs up by it: {error}"
    if not are_equal(tree.unflatten(structure, leaves), part):
        yield "tree.unflatten after tree.flatten must return an equal part"
    file = io.BytesIO()
    eqx.tree_serialise_leaves(file, part)
    file.seek(0)
    loaded: Any = cast(Any, eqx.tree_deserialise_leaves)(file, other)
    if not are_equal(loaded, part):
        yield "eqx.tree_deserialise_leaves must return an equal part"


def starts_finite_and_in_float32(subject: Subject) -> Iterator[str]:
    """Its parameters are made in float32, and they and the result are finite before any training."""
    part = subject.made
    parameters = list_parameters(eqx.filter(part, eqx.is_inexact_array))
    for path, leaf in parameters.items():
        if leaf.dtype != jnp.float32:
            yield f"the parameter {path} must be made in float32, got {leaf.dtype}: the model is cast as a whole"
        if not is_finite(leaf):
            yield f"the parameter {path} must be finite as it is made, got NaN or infinity"
    if is_finite(parameters) and not is_finite(subject.call(part, subject.inputs, None)):
        yield "the result must be finite with the parameters as they are made"


def parameters_follow_the_key(subject: Subject) -> Iterator[str]:
    """The same key draws the same parameters, another key draws others, and no two are drawn with one key."""
    parts = subject.made, subject.make(jax.random.key(0)), subject.make(jax.random.key(1))
    one, same, other = (list_parameters(part) for part in parts)
    for path in one:
        if not np.array_equal(one[path], same[path], equal_nan=True):
            yield f"the parameter {path} must be the same for the same key, but two parts have different ones"
    wide = {path: np.asarray(leaf, np.float64).ravel() for path, leaf in one.items() if is_finite(leaf)}
    varied = [path for path, numbers in wide.items() if np.ptp(numbers) > 0]
    if varied and all(np.array_equal(one[path], other[path], equal_nan=True) for path in one):
        yield f"the parameters {', '.join(varied)} must be drawn with the key, but two keys draw the same"
    drawn = [path for path in varied if wide[path].size >= 8 and not np.array_equal(one[path], other[path])]
    for first, second in combinations(drawn, 2):
        if one[first].shape == one[second].shape and abs(np.corrcoef(wide[first], wide[second])[0, 1]) > 0.999:
            yield f"the parameters {first} and {second} are drawn with the same key: use jax.random.split"


def jit_equals_eager(subject: Subject) -> Iterator[str]:
    """The result is the same under `jax.jit`."""
    part = draw_part(subject)
    eager = subject.call(part, subject.inputs, None)
    if difference := differ(run_compiled(subject.call, part, subject.inputs, None), eager, 2e-5):
        yield f"the result must be the same under jax.jit, but {difference}"


def vmap_equals_a_loop(subject: Subject) -> Iterator[str]:
    """The result of a batch is that of its examples one by one."""
    part = draw_part(subject)
    both = to_device(tree.map(_make_pair, to_host(subject.inputs)))

    def run_example(index: int) -> Any:
        def take(x: Any) -> Any:
            return x[index]

        example = to_device(tree.map(take, to_host(both)))
        return to_host(run_compiled(subject.call, part, example, None))

    def run_batch(part: Any, inputs: Any, key: Any) -> Any:
        def call(inputs: Any) -> Any:
            return subject.call(part, inputs, None)

        return jax.vmap(call)(inputs)

    def stack(first: Any, second: Any) -> Any:
        return np.stack([first, second])

    expected = tree.map(stack, run_example(0), run_example(1))
    if difference := differ(run_compiled(run_batch, part, both, None), expected, 2e-5):
        yield f"the result must be the same under jax.vmap as in a loop, but {difference}"


def keeps_the_dtype(subject: Subject) -> Iterator[str]:
    """The output has the dtype of the input, float32 or bfloat16, with nearly the same numbers."""
    part = draw_part(subject, seed=1)
    wide = run_compiled(subject.call, part, subject.inputs, None)
    half, inputs = to_bfloat16((part, subject.inputs))
    narrow = run_compiled(subject.call, half, inputs, None)
    for name, out in (("float32", wide), ("bfloat16", narrow)):
        dtypes = {str(leaf.dtype) for leaf in tree.leaves(out)}
        if dtypes != {name}:
            yield f"for inputs in {name} the output must be in {name}, got {', '.join(sorted(dtypes))}"
    largest = max((float(np.max(np.abs(np.asarray(x)))) for x in tree.leaves(wide) if x.size), default=0.0)

    def scale(x: Any) -> Any:
        return np.asarray(x).astype(np.float32) / np.float32(max(largest, 1e-30))

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


def a_key_changes_what_is_drawn(subject: Subject) -> Iterator[str]:
    """With a key the result has the same shape and dtype, is finite, and, if it is random, another for another key."""
    if not subject.takes_key:
        return
    part = draw_part(subject)
    without = subject.call(part, subject.inputs, None)
    drawn = [subject.call(part, subject.inputs, jax.random.key(seed)) for seed in range(2)]
    if differ(drawn[0], without, 0) and not differ(drawn[1], drawn[0], 0):  # what is seldom random may be so by chance
        drawn += [subject.call(part, subject.inputs, jax.random.key(seed)) for seed in range(2, 10)]
    key = jax.random.key(_KEY_SEED)
    for inputs, module in ((subject.inputs, part), to_bfloat16((subject.inputs, part))):
        shapes, expected = (trace(subject.call, module, inputs, k) for k in (key, None))
        if shapes != expected:
            yield f"with a key the output must have the shape and dtype that it has without: {expected}, got {shapes}"
            return
    if not is_finite(drawn):
        yield "with a key the output must be finite"
    elif any(differ(x, without, 0) for x in drawn) and not any(differ(x, drawn[0], 0) for x in drawn[1:]):
        yield "two keys must draw different results, but each key gives the same: draw with the key of the call"


def every_channel_says_something(subject: Subject) -> Iterator[str]:
    """Each channel of the output depends on the input, and each channel of the input reaches the output."""
    part, inputs = draw_part(subject), [redraw(subject.inputs, seed=seed) for seed in (100, 200, 300)]
    outs = np.stack([np.asarray(run_compiled(subject.call, part, x, None)) for x in inputs])
    if np.any(np.all(np.ptp(outs, axis=0).reshape(-1, outs.shape[-1]) == 0, axis=0)):
        yield "every channel of the output must depend on the input, but some are always the same"
    both = differentiate(subject.call)
    gradients = [tree.leaves(run_compiled(both, part, x, None)[1]) for x in inputs]
    read = [np.any(np.asarray(x) != 0, axis=tuple(range(x.ndim - 1))) for leaves in gradients for x in leaves]
    if not np.all(np.any(np.stack(read), axis=0)):
        yield "the output must depend on every channel of the input, but some change nothing"


def for_another_width(subject: Subject, check: Check) -> Iterator[str]:
    """Yields what a check says about the part for twice the width, unless the part refuses that width."""
    width = 2 * subject.context.dim
    yield from with_context(f"for a width of {width}", subject, subject.of_width(width), check)


def with_context(when: str, subject: Subject, other: Subject, check: Check) -> Iterator[str]:
    """Yields what a check says, or raises, about a part in another context, with the words that say which.

    It yields nothing if the part refuses that context with a `ValueError`, or breaks the check in its own one already.
    """
    if any(check(subject)):
        return
    try:
        _ = other.outline
    except ValueError:
        return
    except Exception as error:
        yield f"{when}, it must be built or raise a ValueError, but it raised {describe_error(error)}"
        return
    try:
        for sentence in check(other):
            yield f"{when}, {sentence}"
    except Exception as error:
        yield f"{when}, it must work as well, but it raised {describe_error(error)}"


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
    can_be_built_and_called,
    is_a_final_class,
    options_are_keyword_only,
    fields_are_arrays_or_static,
    parameter_kinds_name_its_arrays,
    starts_finite_and_in_float32,
    parameters_follow_the_key,
    jit_equals_eager,
    vmap_equals_a_loop,
    gradients_reach_every_parameter,
    gradients_are_slopes,
    keeps_the_dtype,
    nothing_is_random_without_a_key,
    a_key_changes_what_is_drawn,
    builds_from_a_configuration,
)


def _make_pair(x: Any) -> Any:
    return np.stack([x, 2 * x + 1])


def _call_model(model: Any, image: Any) -> Any:
    return model(image)
