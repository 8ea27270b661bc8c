"""The state of a run, and a step of it."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, cast, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int, PRNGKeyArray

from .._check import check_positive, describe_value
from .._extras import require
from ..model import ViT
from ..systems import AbstractSystem, find_image_model, update_teacher
from ._mesh import constrain, divide_batch, find_share, gather_loose, make_divided, use_mesh
from ._optimiser import find_trained, make_optimiser
from ._recipe import Recipe
from .objectives import AbstractObjective, Batch, Outcome, Scalar, check_kept, check_returned


@final
class TrainState(eqx.Module):
    """All that a step changes: one PyTree."""

    model: Any
    """What is trained."""
    average: Any
    """The running mean of the arrays that are trained; `None` if the recipe has none."""
    optimiser: Any
    """The state of the optimiser."""
    carried: Any
    """What the objective carries from step to step."""
    step: Int[Array, ""]
    """The number of steps done."""
    key: PRNGKeyArray
    """The key of the run, from which each step makes its own. It does not change."""

    def __init__(self, model: Any, average: Any, optimiser: Any, carried: Any, step: Int[Array, ""], key: PRNGKeyArray):
        """**Arguments:** the fields."""
        self.model = model
        self.average = average
        self.optimiser = optimiser
        self.carried = carried
        self.step = step
        self.key = key


@final
class Training(eqx.Module):
    """The training step, and what is the same in all steps: the objective, the recipe and the number of steps.

    !!! example

        ```python
        training = vitrail.train.Training(objective, recipe, steps=1000)
        state = training.start(model, key=key)
        for batch in batches:
            state, metrics = training.step(state, batch)
        ```
    """

    objective: AbstractObjective
    """What the model is trained for."""
    recipe: Recipe = eqx.field(static=True)
    """How it is trained."""
    steps: int = eqx.field(static=True)
    """The number of steps of the whole run: the schedules depend on it."""
    mesh: Mesh | None = eqx.field(static=True)
    """The devices over which the state and the batches are divided; `None` for one device."""

    def __init__(self, objective: AbstractObjective, recipe: Recipe, steps: int, mesh: Mesh | None = None):
        """**Arguments:** the fields.

        **Raises:** `ValueError` if `steps` is not positive, if `recipe.accumulate` divides a batch whose images the
        objective compares, or if the devices of the mesh cannot share a batch.
        """
        check_positive(steps=steps)
        if recipe.accumulate > 1 and not objective.is_mean:
            raise ValueError(
                f"accumulate must be 1 for the objective {type(objective).__name__}, which compares the images of a "
                f"batch with each other, got {recipe.accumulate}"
            )
        find_share(mesh)
        if mesh is not None and recipe.batch_size % (parts := mesh.size * recipe.accumulate):
            raise ValueError(
                f"batch_size must be a multiple of {parts}, the {mesh.size} devices of the mesh times "
                f"accumulate={recipe.accumulate}, got {recipe.batch_size}"
            )
        self.objective = objective
        self.recipe = recipe
        self.steps = steps
        self.mesh = mesh

    def start(self, model: Any, *, key: PRNGKeyArray) -> TrainState:
        """Makes the state before the first step.

        **Arguments:**

        - `model`: what `objective.prepare` returned.
        - `key`: for all that is random.

        **Returns:**

        The state, divided as `find_shardings` says if there is a mesh. It has copies of the arrays of the model,
        because a step reuses their memory.

        **Raises:** `ValueError` if nothing of the model is trained, or the recipe sets `compute_dtype` or `dropout` and
        the model is neither a `ViT` nor a system; `MissingExtraError` if optax is not installed.
        """
        return self._start(model, key) if self.mesh is None else make_divided(self.mesh, self._start, model, key)

    def _start(self, model: Any, key: PRNGKeyArray) -> TrainState:
        model = _copy(_set_options(model, self.recipe))
        trained = cast(Any, eqx.filter(model, find_trained(model, self.recipe)))
        average = _copy(trained) if self.recipe.average else None
        optimiser = make_optimiser(self.recipe, self.steps).init(trained)
        carried = _copy(self.objective.start(model))
        return TrainState(model, average, optimiser, carried, jnp.zeros((), jnp.int32), jnp.array(key))

    def step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Mapping[str, Scalar]]:
        """Takes one step. It is a pure function, compiled once for each shape of a batch.

        **Arguments:**

        - `state`: the state before the step. Its memory is reused: do not use it again.
        - `batch`: the arrays in `objective.inputs`, with the axis of the batch first.

        **Returns:**

        The state after the step; the loss, the norm of the gradient before clipping, and the metrics of the objective.
        """
        with use_mesh(self.mesh):
            return _step((self, self.place(batch)), state)

    def choose_model(self, state: TrainState) -> Any:
        """**Arguments:**

        - `state`: of a step.

        **Returns:**

        The model that a run returns and saves: with the averaged arrays if there are any, and else what the objective
        chooses, which is the teacher in DINO.
        """
        if state.average is not None:
            return eqx.combine(state.average, state.model)
        return self.objective.choose_model(state.model, state.carried)

    def place(self, batch: Batch) -> Batch:
        """**Arguments:**

        - `batch`: NumPy arrays: of several hosts, the part of this one.

        **Returns:**

        The whole batch on the device, or divided over the mesh.
        """
        if self.mesh is not None:
            return divide_batch(batch, self.mesh)
        return {name: jnp.asarray(array) for name, array in batch.items()}


@eqx.filter_jit(donate="all-except-first")
def _step(given: tuple[Training, Batch], state: TrainState) -> tuple[TrainState, Mapping[str, Scalar]]:
    (training, batch), recipe = given, given[0].recipe
    chosen = find_trained(state.model, recipe)
    trained, fixed = cast(tuple[Any, Any], eqx.partition(state.model, chosen))
    progress = state.step / training.steps
    augment_key, key = jax.random.split(jax.random.fold_in(state.key, state.step))
    if "image" in batch:
        image = recipe.augmentation(batch["image"].astype(jnp.float32), key=augment_key)
        batch = {**batch, "image": image}

    gradient, outcome, loss = _differentiate(training, trained, fixed, batch, state.carried, progress, key)
    optimiser = make_optimiser(recipe, training.steps)
    # optax mixes integers and floats, which strict promotion forbids.
    with jax.numpy_dtype_promotion("standard"):
        updates, optimiser_state = optimiser.update(gradient, state.optimiser, trained)
        norm = require("optax", extra="train").tree.norm(gradient)
    model: Any = eqx.combine(cast(Any, eqx.apply_updates(trained, updates)), fixed)
    model, carried = _finish(training.objective, state, model, outcome.carried, progress)

    average = state.average
    if average is not None:
        average = update_teacher(average, cast(Any, eqx.filter(model, chosen)), _find_share(recipe, state.step))
    state = TrainState(model, average, optimiser_state, carried, state.step + 1, state.key)
    state = state if training.mesh is None else constrain(state, training.mesh)
    return state, {"loss": loss, "gradient": norm, **outcome.metrics}


def _differentiate(
    training: Training, trained: Any, fixed: Any, batch: Batch, carried: Any, progress: Scalar, key: PRNGKeyArray
) -> tuple[Any, Outcome, Scalar]:
    """The gradient, the outcome and the loss of a batch, all of it at once or in parts one after the other."""

    def compute(trained: Any, batch: Batch, key: PRNGKeyArray) -> tuple[Scalar, Outcome]:
        model, given = gather_loose((eqx.combine(trained, fixed), carried))
        returned = training.objective(model, batch, carried=given, progress=progress, key=key)
        return check_returned(training.objective, returned)

    differentiate = cast(Any, eqx.filter_value_and_grad(compute, has_aux=True))
    parts = training.recipe.accumulate
    if parts > 1 and jax.tree.leaves(carried):
        raise ValueError(
            f"accumulate must be 1 for the objective {type(training.objective).__name__}, which carries arrays from "
            f"step to step, got {parts}"
        )
    if parts == 1:
        (loss, outcome), gradient = differentiate(trained, batch, key)
        return gradient, outcome, loss

    def add(total: Any, part: tuple[Batch, PRNGKeyArray]) -> tuple[Any, None]:
        (loss, outcome), gradient = differentiate(trained, *part)
        return jax.tree.map(_add, total, (gradient, outcome.metrics, loss)), None

    divided = jax.tree.map(functools.partial(_divide, parts), batch)
    keys = jax.random.split(key, parts)
    first = jax.tree.map(_get_first, (divided, keys))
    (loss, outcome), gradient = cast(Any, eqx.filter_eval_shape(differentiate, trained, *first))
    zeros = jax.tree.map(_make_zeros, (gradient, outcome.metrics, loss))
    total, _ = jax.lax.scan(add, zeros, (divided, keys))
    gradient, metrics, loss = jax.tree.map(functools.partial(_scale, parts), total)
    return gradient, Outcome(metrics, carried), loss


def _finish(
    objective: AbstractObjective, state: TrainState, model: Any, carried: Any, progress: Scalar
) -> tuple[Any, Any]:
    """What `finish` returns, in the form of the step before."""
    check_kept(objective, "carried values", state.carried, carried)
    returned: Any = objective.finish(model, carried, progress=progress)
    if not isinstance(returned, tuple) or len(cast("tuple[object, ...]", returned)) != 2:
        raise TypeError(
            f"finish of {type(objective).__name__} must return the model and the carried values, got "
            f"{describe_value(cast(object, returned))}"
        )
    model, carried = cast("tuple[Any, Any]", returned)
    check_kept(objective, "model of finish", state.model, model)
    check_kept(objective, "carried values of finish", state.carried, carried)
    return model, carried


def _set_options(model: Any, recipe: Recipe) -> Any:
    """The same arrays, computed as the recipe says."""
    if recipe.compute_dtype is None and recipe.dropout is None:
        return model
    if not isinstance(model, ViT | AbstractSystem):
        raise ValueError(
            f"compute_dtype and dropout of a recipe need a ViT or a system, got a {type(model).__name__}: set them in "
            "the model, and leave them out of the recipe"
        )
    if recipe.compute_dtype is not None:
        execution = cast(ViT, find_image_model(model)).backbone.execution
        model = model.with_execution(dataclasses.replace(execution, compute_dtype=recipe.compute_dtype))
    return model if recipe.dropout is None else model.with_dropout(recipe.dropout)


def _add(one: Any, other: Any) -> Any:
    return one + other


def _scale(parts: int, total: Any) -> Any:
    return total / parts


def _divide(parts: int, x: Any) -> Any:
    """The parts of a batch, along a first axis. Each has images of all places of the batch, so that a batch that is
    divided over devices stays so."""
    return jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0)


def _get_first(x: Any) -> Any:
    return x[0]


def _make_zeros(x: Any) -> Any:
    return jnp.zeros(x.shape, x.dtype)


def _find_share(recipe: Recipe, step: Int[Array, ""]) -> Scalar:
    """The share of the mean that stays: less at first, so that it forgets the fresh weights."""
    done = step.astype(jnp.float32)
    return jnp.minimum(recipe.average, (1 + done) / (10 + done))


def _copy(tree: Any) -> Any:
    def copy(leaf: Any) -> Any:
        return jnp.array(leaf) if isinstance(leaf, jax.Array | np.ndarray) else leaf

    return jax.tree.map(copy, tree)
