"""Training a model on images."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray

from .._check import check_positive, join_names, warn
from ..images import Dataset, Examples, Preprocess, describe_equal, find_equal, raise_problems
from ..model import ViT, replace
from ..systems import ImageText
from ._batches import count_steps
from ._classifier import check_classifier
from ._evaluate import evaluate
from ._feed import make_feed, make_host_transforms, name_images, read_texts
from ._hosts import share_failure
from ._loop import Progress, run_steps
from ._match import match_texts
from ._mesh import find_share, make_divided
from ._recipe import Recipe
from ._run import Run, catch_signals
from ._state import Training, TrainState
from .objectives import OBJECTIVES, AbstractObjective, ObjectiveContext

_NO_NOTES: Final[Mapping[str, object]] = MappingProxyType({})


def fit(
    model: Any,
    data: Dataset,
    recipe: Recipe,
    *,
    key: PRNGKeyArray,
    report: Callable[[Progress], object] | None = None,
    folder: Path | str | None = None,
    validation: Examples | None = None,
    keep_every: int | None = None,
    notes: Mapping[str, object] = _NO_NOTES,
    licence: str | None = None,
    mesh: Mesh | None = None,
) -> Any:
    """Trains a model on the training images of a data set, for the objective of the recipe.

    !!! example

        ```python
        data = vitrail.images.load_mnist()
        model = vitrail.train.fit(model, data, vitrail.train.Recipe(), key=key)
        print(vitrail.train.evaluate(model, data).accuracy)
        ```

    **Arguments:**

    - `model`: a `ViT`, or the system that the objective trains, such as a `MaskedAutoencoder` for `mae`. An objective
        that trains a system builds one around a `ViT`. To classify, any module that takes one image, normalised by
        `data.preprocess`, with shape `(height, width, channels)`, and returns one logit for each class.
    - `data`: the data set. The model learns from `data.train`; `data.test` is not read. `data.check_files()` is called
        before the first step.
    - `recipe`: the settings of the run.
    - `key`: for the order of the images, their augmentation and what is random in the model. The same key gives the
        same weights on the same machine.
    - `report`: a function that is called with the `Progress` after the first step, after every tenth, and after the
        last. If it raises `StopTraining`, the run ends there.
    - `folder`: where to save checkpoints, `metrics.jsonl`, and the last and the best model. The same call continues an
        interrupted run, and gives the same numbers to the bit. After SIGTERM or Ctrl-C the state is saved before the
        program ends. `None` to save nothing.
    - `validation`: images with labels or texts that are neither in `data.train` nor in `data.test`, to choose the best
        model. At each checkpoint the accuracy on them is measured, or for `clip` the share that `match_texts` returns.
    - `keep_every`: the number of steps between two checkpoints; `None` for one epoch.
    - `notes`: further entries for `run.json` in the folder, of types that JSON has.
    - `licence`: the licence to write into the models in the folder, as in `vitrail.save`. It depends on that of the
        weights that you begin with.
    - `mesh`: the devices over which the model and the batches are divided, as `make_mesh` arranges them; `None` for one
        device. With several hosts, each makes the same call, with a folder that all can access.

    **Returns:**

    The trained model, with the running mean of its weights if `recipe.average` is not 0. The configuration of a `ViT`
    has the preprocessing and the class names of the data. The model that was passed is not changed.

    **Raises:** `DataError` that lists broken files; `ValueError` if the objective cannot train the model or needs
    labels or texts that the data does not have, if the model does not take the images or return one logit for each
    class, if the transforms make crops that the objective does not take, if a batch is larger than all epochs together,
    or if the folder has another run; `FloatingPointError` that names the first step whose loss or gradient is not
    finite, and the images of its batch: no later state is kept; `OSError` or `CheckpointError` if the run cannot be
    written, with the last complete checkpoint; `MissingExtraError` if optax, grain or, for transforms, Pillow is not
    installed.
    """
    if keep_every is not None:
        check_positive(keep_every=keep_every)
    if folder is None and (validation is not None or keep_every is not None or notes or licence is not None):
        raise ValueError(
            "validation, keep_every, notes and licence have no effect without folder: pass one, or leave them out"
        )
    _check_devices(mesh)
    with share_failure():
        return _fit(
            model,
            data,
            recipe,
            key=key,
            report=report,
            folder=None if folder is None else Path(folder),
            validation=validation,
            keep_every=keep_every,
            notes=notes,
            licence=licence,
            mesh=mesh,
        )


def _fit(
    model: Any,
    data: Dataset,
    recipe: Recipe,
    *,
    key: PRNGKeyArray,
    report: Callable[[Progress], object] | None,
    folder: Path | None,
    validation: Examples | None,
    keep_every: int | None,
    notes: Mapping[str, object],
    licence: str | None,
    mesh: Mesh | None,
) -> Any:
    """What `fit` does on each host."""
    order_key, steps_key, fresh_key = jax.random.split(key, 3)
    objective = make_objective(recipe, data.preprocess)
    _check_inputs(recipe, objective.inputs, data)
    transforms = make_host_transforms(objective, model, data, recipe)
    if "label" in objective.inputs:
        check_classifier(model, data)
    steps = count_steps(len(data.train), epochs=recipe.epochs, batch_size=recipe.batch_size)
    training = Training(objective, recipe, steps, mesh)
    data.check_files()
    judged = None if validation is None else _check_validation(recipe, objective.inputs, data, validation)
    prepared = _describe_data(_prepare(objective, model, mesh, key=fresh_key), data)
    measure = None if judged is None else _make_measure(training, prepared, judged)
    if "text" in objective.inputs:  # of a thousand texts, to warn if texts are cut
        read_texts(prepared, data, slice(None, None, -(-len(data.train) // 1000)), quiet=False)
    seed = int(jax.random.bits(order_key, dtype=jnp.uint32))
    feed_options: dict[str, Any] = {"transforms": transforms, "seed": seed, "share": find_share(mesh)}
    state = training.start(prepared, key=steps_key)

    def describe(step: int) -> str:
        images = name_images(data, recipe, seed=seed, step=step)
        return f"its images are {', '.join(images)}" if run is None else run.note_batch(step, images)

    run = None
    if folder is None:
        feed = make_feed(objective, prepared, data, recipe, **feed_options)
        return training.choose_model(run_steps(training, state, feed, report=report, describe=describe))
    images = f"{data.train} of {len(data.classes)} classes, {data.preprocess}, {data.train.digest}"  # wherever they are
    run = Run(folder, training, state, data=images, seed=seed, notes=notes, licence=licence)
    with contextlib.closing(run.checkpoints):
        state = run.restore(state)
        feed = make_feed(objective, prepared, data, recipe, start=int(state.step), **feed_options)

        def write(progress: Progress) -> None:
            run.report(progress)
            if report is not None:
                report(progress)

        every = keep_every or max(1, round(steps / recipe.epochs))
        with catch_signals() as signals:
            options: dict[str, Any] = {"keep": run.keep, "keep_every": every, "measure": measure, "describe": describe}
            state = run_steps(training, state, feed, report=write, stop=signals, **options)
            run.checkpoints.wait()
    return training.choose_model(state)


def _check_devices(mesh: Mesh | None) -> None:
    """Says how many devices are not used, unless a mesh chooses them."""
    if mesh is None and (devices := jax.device_count()) > 1:
        advice = f"pass mesh=vitrail.train.make_mesh('data={devices}') to use all"
        if (hosts := jax.process_count()) > 1:
            raise ValueError(f"mesh must have the {devices} devices of {hosts} hosts, got None: {advice}")
        warn(f"fit uses 1 of {devices} devices: {advice}")


def _check_inputs(recipe: Recipe, inputs: tuple[str, ...], data: Dataset) -> None:
    there = {"image": True, "label": bool(data.classes), "text": data.train.texts is not None}
    for name in inputs:
        if name not in there:
            raise ValueError(
                f"inputs of {OBJECTIVES.describe(recipe.objective)} must be {join_names(there)} for fit, got {name!r}: "
                "take its steps with `Training` on batches of your own"
            )
        if not there.get(name, False):
            found = " and ".join(f"{name}s" for name, is_there in there.items() if is_there)
            raise ValueError(
                f"{OBJECTIVES.describe(recipe.objective)} needs a {name} with each image, got {found}: load data with "
                f"{name}s or take its steps with `Training` on batches of your own"
            )


def _check_validation(recipe: Recipe, inputs: tuple[str, ...], data: Dataset, validation: Examples) -> Dataset:
    """The images of validation in place of those of a data set, checked before the first step."""
    if "label" not in inputs and "text" not in inputs:
        raise ValueError(
            f"validation must be None for {OBJECTIVES.describe(recipe.objective)}, got images: its model tells neither "
            "classes nor texts apart, so no accuracy chooses the best"
        )
    if "text" in inputs and validation.texts is None:
        raise ValueError(f"validation must have texts for {OBJECTIVES.describe(recipe.objective)}, got none")
    judged = dataclasses.replace(data, train=validation, test=validation)
    if judged.image_size != data.image_size:
        raise ValueError(f"validation must have images of {data.image_size}, as data has, got {judged.image_size}")
    pairs = find_equal(data.train.images, validation.images)
    if len(pairs):
        raise ValueError(
            f"validation must have other images than data.train, got {len(pairs):,} that are in both, as "
            f"{describe_equal(data.train.images, validation.images, pairs)} (there and here): leave them out of one"
        )
    raise_problems(validation.find_broken())
    return judged


def _make_measure(training: Training, prepared: Any, judged: Dataset) -> Callable[[TrainState], dict[str, float]]:
    """Returns what measures the accuracy on the images of validation."""
    if isinstance(prepared, ImageText):
        return lambda state: {"validation": float(match_texts(training.choose_model(state), judged)[0].mean())}
    if not judged.classes:
        raise ValueError(
            f"validation must be None for {OBJECTIVES.describe(training.recipe.objective)}, which trains a "
            f"{type(prepared).__name__}: with texts an accuracy is known for an ImageText"
        )
    return lambda state: {"validation": evaluate(training.choose_model(state), judged).accuracy}


def _prepare(objective: AbstractObjective, model: Any, mesh: Mesh | None, *, key: PRNGKeyArray) -> Any:
    """What is trained, divided over the mesh when it is made."""

    def prepare(model: Any, key: PRNGKeyArray) -> Any:
        return objective.prepare(model, key=key)

    return prepare(model, key) if mesh is None else make_divided(mesh, prepare, model, key)


def make_objective(recipe: Recipe, preprocess: Preprocess) -> AbstractObjective:
    """Makes the objective of a recipe.

    **Arguments:**

    - `recipe`: names it.
    - `preprocess`: how pixels are normalised.

    **Returns:**

    The objective.

    **Raises:** what `OBJECTIVES.build` raises.
    """
    return OBJECTIVES.build(recipe.objective, ObjectiveContext(preprocess=preprocess), key=jax.random.key(0))


def _describe_data(model: Any, data: Dataset) -> Any:
    """The model with the preprocessing and the class names of the data in its configuration, if it has one."""
    if not isinstance(model, ViT):
        return model
    # A head of the user's own may count the classes elsewhere.
    classes = data.classes if model.config.num_classes == len(data.classes) else None
    return replace(model, classes=classes, preprocess=data.preprocess)
