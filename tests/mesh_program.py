"""The losses of all objectives over several devices, beside those of one device: the proof on the page on devices.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python tests/mesh_program.py data=8 data=2,fsdp=4

With JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID it is one of several hosts. With `--x64` all is
computed in float64, in which the order of sums does not matter. It prints the largest difference of a loss, relative to
that of one device, for each objective that is named, or all, and each mesh, as JSON.
"""

import contextlib
import dataclasses
import functools
import json
import os
import sys
from collections.abc import Mapping
from typing import Any
from unittest import mock

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import test_train_state as cases

import vitrail
from vitrail import train

STEPS = 20
RECIPE = dataclasses.replace(cases.PLAIN, average=0.9, learning_rate=1e-3, batch_size=16)
OBJECTIVES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    **{name: (name, options) for name, options in cases.OBJECTIVES.items()},
    "dino, Sinkhorn": ("dino", {**cases.OBJECTIVES["dino"], "centring": "sinkhorn"}),
    "clip, sigmoid": ("clip", {"loss": "sigmoid"}),
}


def widen(model: Any) -> Any:
    """The model with its arrays in float64, in which it computes, if that is asked for."""
    if not is_wide():
        return model
    execution = vitrail.Execution()
    object.__setattr__(execution, "compute_dtype", "float64")  # which vitrail does not offer
    model = model.with_execution(execution)
    return jax.tree.map(lambda x: x.astype(jnp.float64) if eqx.is_inexact_array(x) else x, model)


def is_wide() -> bool:
    return "--x64" in sys.argv


@functools.cache
def prepare(title: str) -> tuple[train.AbstractObjective, Any]:
    """An objective, and what it trains."""
    name, options = OBJECTIVES[title]
    objective = cases.make_training(name, RECIPE, **options).objective
    model = eqx.filter_jit(cases.small_config(size=cases.SIZE).build)(key=jax.random.key(0))
    return objective, widen(objective.prepare(cases.make_system(model, name), key=jax.random.key(1)))


def find_losses(title: str, axes: str | None) -> np.ndarray:
    """The losses of the steps of a run."""
    objective, prepared = prepare(title)
    mesh = None if axes is None else train.make_mesh(axes)
    share = (0, 1) if mesh is None else (jax.process_index(), jax.process_count())
    training = train.Training(objective, RECIPE, 2 * STEPS, mesh)
    # Also what vitrail computes in float32 whatever the model has.
    wide = mock.patch.object(jnp, "float32", jnp.float64) if is_wide() else contextlib.nullcontext()
    with wide:
        return take_steps(training, prepared, share)


def take_steps(training: train.Training, prepared: Any, share: tuple[int, int]) -> np.ndarray:
    """The losses of the first steps."""
    objective, losses = training.objective, list[float]()
    state = training.start(prepared, key=jax.random.key(2))
    for seed in range(STEPS):
        whole = cases.make_batch(seed, RECIPE.batch_size)
        part = {name: np.split(array, share[1])[share[0]] for name, array in whole.items()}
        part = objective.add_inputs(prepared, part, seed=seed, share=share)
        wanted = (*objective.inputs, "hidden")
        state, metrics = training.step(state, {name: part[name] for name in wanted if name in part})
        losses.append(float(metrics["loss"]))
    return np.array(losses)


def main() -> None:
    """Compares the runs, and prints on the first host."""
    jax.config.update("jax_enable_x64", is_wide())
    jax.config.update("jax_numpy_dtype_promotion", "standard" if is_wide() else "strict")
    if "JAX_PROCESS_ID" in os.environ:
        train.join_hosts(timeout=60)
    meshes = [argument for argument in sys.argv[1:] if "=" in argument]
    found: dict[str, dict[str, float]] = {}
    for title in [argument for argument in sys.argv[1:] if argument in OBJECTIVES] or OBJECTIVES:
        alone = find_losses(title, None)
        found[title] = {axes: float(np.max(np.abs(find_losses(title, axes) / alone - 1))) for axes in meshes}
    if jax.process_index() == 0:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
