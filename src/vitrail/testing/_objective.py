"""The contract of an objective, as checks."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._spec import PartSpec
from ..encoder import EncoderSize
from ..images import Preprocess
from ..model import ViTConfig
from ..nn import list_arrays
from ..systems import ImageTextConfig, TextConfig
from ..train import OBJECTIVES, ObjectiveContext, ObjectiveFactory
from ._common import can_be_built_and_called, fields_are_arrays_or_static, is_a_final_class, options_are_keyword_only
from ._subject import Check, Subject, check_contract, is_finite, make_test, run_compiled, trace, tree

_IMAGES: Final = 6
_SIZE: Final = (8, 12)
_CLASSES: Final = 3
_EMBED: Final = 7
_CONTEXT: Final = 5
_VOCABULARY: Final = 11
_PROGRESS: Final = (0.0, 0.5, 1.0)
_CHANGE: Final = 1e-2
"""By what share of itself a loss is changed to measure its slope."""
_TOLERANCE: Final = 3e-2
"""Of that slope."""


def check_objective(
    objective: str | PartSpec | ObjectiveFactory, *, model: Any = None, batch: Mapping[str, Any] | None = None
) -> None:
    """Checks the whole contract of an objective.

    **Arguments:**

    - `objective`: a name, a `PartSpec`, a class or a `functools.partial`, as for `vitrail.train.Recipe`.
    - `model`: what its `prepare` gets; `None` for a small `ViT`, or a small `ImageText` if it reads texts.
    - `batch`: NumPy arrays by name; `None` for random images, labels and texts.

    **Raises:** `ContractError` with a line for each breach; `UnknownPartError`, `OptionError` or `TypeError` if this is
    not a factory of an objective.
    """
    check_contract(_make_subject(objective, model, batch), OBJECTIVE_CHECKS)


def objective_checks(
    objective: str | PartSpec | ObjectiveFactory, *, model: Any = None, batch: Mapping[str, Any] | None = None
) -> Callable[..., None]:
    """Makes a test for pytest of what `check_objective` checks, with a case for each check.

    **Arguments:** those of `check_objective`.

    **Returns:**

    A parametrised test function. Assign it to a name that begins with `test`.

    **Raises:** `MissingExtraError` if pytest is not installed.
    """
    return make_test(lambda: _make_subject(objective, model, batch), OBJECTIVE_CHECKS)


def _make_subject(objective: str | PartSpec | ObjectiveFactory, model: Any, batch: Mapping[str, Any] | None) -> Subject:
    context = ObjectiveContext(preprocess=Preprocess("cover", "bicubic", (0.5,) * 3, (0.25,) * 3))
    built = OBJECTIVES.build(objective, context, key=jax.random.key(0))
    inputs = built.inputs
    model = _make_model(has_text="text" in inputs) if model is None else model
    drawn = _draw_batch() if batch is None else dict(batch)
    if missing := [name for name in inputs if name not in drawn]:
        raise ValueError(
            f"batch must have {', '.join(missing)}, which the objective reads, got {', '.join(drawn)}: fix its "
            "inputs, or pass batch= with these arrays"
        )
    given = {name: drawn[name] for name in inputs}

    @functools.cache
    def start() -> tuple[Any, Any, Any, Any]:
        return model, *_start(built, model, given)

    def call(part: Any, inputs: Callable[[], Any], key: Any) -> Any:
        return _lose(part, *inputs()[1:], key=jax.random.key(1))[0]

    return Subject(
        who=OBJECTIVES.describe(objective),
        field="objective",
        choice=objective,
        registry=OBJECTIVES,
        context=context,
        inputs=start,
        call=call,
        takes_key=True,
        config={},
        of_width=lambda _: _make_subject(objective, model, batch),
    )


def _make_model(*, has_text: bool) -> Any:
    size = EncoderSize(dim=16, depth=2, num_heads=2, mlp_dim=24)
    classes = _EMBED if has_text else _CLASSES
    image = ViTConfig(image_size=_SIZE, patch_size=(4, 4), size=size, num_classes=classes, pool="mean")
    if not has_text:
        return image.build(key=jax.random.key(2))
    text = TextConfig(size=size, vocabulary=_VOCABULARY, context=_CONTEXT, embed_dim=_EMBED, end_of_text=10)
    return ImageTextConfig(image=image, text=text).build(key=jax.random.key(2))


def _draw_batch() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (_IMAGES, *_SIZE, 3)).astype(np.uint8),
        "label": rng.integers(0, _CLASSES, _IMAGES).astype(np.int32),
        "text": rng.integers(0, _VOCABULARY, (_IMAGES, _CONTEXT)).astype(np.int32),
    }


def _start(part: Any, model: Any, batch: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """What a first call gets: the prepared model, the batch, and what is carried."""
    prepared = part.prepare(model, key=jax.random.key(3))
    arrays = {name: jnp.asarray(array) for name, array in part.add_inputs(prepared, batch, seed=0).items()}
    if "image" in arrays:
        arrays["image"] = arrays["image"].astype(jnp.float32)
    return prepared, arrays, part.start(prepared)


def _lose(part: Any, model: Any, batch: Any, carried: Any, *, key: Any, progress: float = 0.5) -> tuple[Any, Any]:
    return run_compiled(_call, part, model, batch, carried, jnp.asarray(progress, jnp.float32), key)


def _call(part: Any, model: Any, batch: Any, carried: Any, progress: Any, key: Any) -> tuple[Any, Any]:
    return part(model, batch, carried=carried, progress=progress, key=key)


def prepare_keeps_the_arrays_of_the_model(subject: Subject) -> Iterator[str]:
    """What is trained has the backbone that was passed, and is what `prepare` returns for it again."""
    part, (given, prepared, *_) = subject.made, subject.inputs()
    backbone = given.backbone if hasattr(given, "backbone") else given.image.backbone
    kept = {array.tobytes() for array in map(np.asarray, list_arrays(prepared).values())}
    for name, array in list_arrays(backbone).items():
        if np.asarray(array).tobytes() not in kept:
            yield f"prepare must keep the arrays of the model, but changes {name} of the backbone"
    if tree.structure(part.prepare(prepared, key=jax.random.key(4))) != tree.structure(prepared):
        yield "prepare must return what is trained as it is: a run that goes on passes it again"


def the_loss_and_the_metrics_are_finite_numbers(subject: Subject) -> Iterator[str]:
    """The loss and each metric are numbers in float32, finite from the first step to the last."""
    part = subject.made
    _, model, batch, carried = subject.inputs()
    for progress in _PROGRESS:
        loss, outcome = _lose(part, model, batch, carried, key=jax.random.key(1), progress=progress)
        for name, value in {"loss": loss, **outcome.metrics}.items():
            if jnp.shape(value) != () or jnp.result_type(value) != jnp.float32:
                yield f"{name} must be one number in float32, got {jnp.shape(value)} in {jnp.result_type(value)}"
            elif not is_finite(value):
                yield f"{name} must be finite, got {value} at progress {progress}"


def what_is_carried_keeps_its_form(subject: Subject) -> Iterator[str]:
    """A call and `finish` return what `start` returns: the same structure, shapes and dtypes. So does the model."""
    part = subject.made
    _, model, batch, carried = subject.inputs()

    def step(model: Any, carried: Any) -> Any:
        progress = jnp.asarray(0.5, jnp.float32)
        _, outcome = _call(part, model, batch, carried, progress, jax.random.key(1))
        return outcome.carried, part.finish(model, outcome.carried, progress=progress)

    after, (model_after, last) = trace(step, model, carried)
    expected, outline = trace(_return, carried), trace(_return, model)
    for name, one, other in (
        ("what a call returns as carried", after, expected),
        ("what finish returns as carried", last, expected),
        ("the model that finish returns", model_after, outline),
    ):
        if _describe(one) != _describe(other):
            yield f"{name} must have the structure, shapes and dtypes of the step before, but they differ"


def _return(x: Any) -> Any:
    return x


def _describe(outline: Any) -> Any:
    return tree.structure(outline), [
        (leaf.shape, leaf.dtype) for leaf in tree.leaves(outline) if hasattr(leaf, "shape")
    ]


def the_same_key_gives_the_same_loss(subject: Subject) -> Iterator[str]:
    """The loss depends on what the call gets, and on nothing else."""
    one, other = (subject.call(subject.made, subject.inputs, None) for _ in range(2))
    if not np.array_equal(one, other):
        yield f"the same key must give the same loss, got {one} and {other}"


def the_gradient_is_the_slope(subject: Subject) -> Iterator[str]:
    """The gradient is finite and not zero, and as large as the slope of the loss along it."""
    part = subject.made
    _, model, batch, carried = subject.inputs()
    trained, fixed = cast(tuple[Any, Any], eqx.partition(model, eqx.is_inexact_array))

    def lose(trained: Any) -> Any:
        return _lose(part, eqx.combine(trained, fixed), batch, carried, key=jax.random.key(1))[0]

    loss, gradient = cast(Any, eqx.filter_value_and_grad(lose))(trained)
    if not is_finite(gradient):
        yield "the gradient must be finite, got NaN or infinity"
        return
    square = sum(float(np.sum(np.square(np.asarray(leaf, np.float64)))) for leaf in tree.leaves(gradient))
    if square == 0:
        yield "the gradient must reach an array of the model, got zeros only"
        return
    length = _CHANGE * max(abs(float(loss)), 1e-3) / square

    def move(distance: float) -> float:
        return float(lose(tree.map(functools.partial(_add, distance), trained, gradient)))

    slope = (move(length) - move(-length)) / (2 * length)
    if abs(slope / square - 1) > _TOLERANCE:
        yield f"the loss must rise along its gradient by its square, {square:.4g}, got {slope:.4g}"


def _add(distance: float, x: Any, direction: Any) -> Any:
    return x + distance * direction


def is_mean_says_whether_parts_add_up(subject: Subject) -> Iterator[str]:
    """If `is_mean` is true, and nothing is drawn, the loss of a batch is the mean of the losses of its halves."""
    part = subject.made
    _, model, batch, carried = subject.inputs()

    def lose(start: int, stop: int, seed: int = 1) -> float:
        chosen = {name: array[start:stop] for name, array in batch.items()}
        return float(_lose(part, model, chosen, carried, key=jax.random.key(seed))[0])

    half = len(next(iter(batch.values()))) // 2
    if not part.is_mean or not half or (whole := lose(0, 2 * half)) != lose(0, 2 * half, seed=2):
        return
    halves = lose(0, half), lose(half, 2 * half)
    if abs(sum(halves) / 2 - whole) > 1e-4 * max(abs(whole), 1e-3):
        yield (
            f"is_mean is true, but the loss of a batch is {whole:.6g} and of its halves {halves[0]:.6g} and "
            f"{halves[1]:.6g}: set is_mean = False"
        )


OBJECTIVE_CHECKS: Final[tuple[Check, ...]] = (
    can_be_built_and_called,
    is_a_final_class,
    options_are_keyword_only,
    fields_are_arrays_or_static,
    prepare_keeps_the_arrays_of_the_model,
    the_loss_and_the_metrics_are_finite_numbers,
    what_is_carried_keeps_its_form,
    the_same_key_gives_the_same_loss,
    the_gradient_is_the_slope,
    is_mean_says_whether_parts_add_up,
)
