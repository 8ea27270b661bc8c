"""Checkpoints of models for dense prediction, with random weights, and the maps that the originals give."""

import dataclasses
import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path

import equinox as eqx
import numpy as np
from checkpoint_cases import FIXTURES, Arrays, Case, case_from, drawn, image_of

import vitrail


def fixed_of(shapes: Mapping[str, tuple[int, ...]]) -> Arrays:
    """What is drawn in another way: variances, and kernels, which keep the size of what they read; that of a depth is
    above zero, so that few pixels are zero."""
    found = {
        name: 0.5 + np.abs(drawn(name, tuple(shape))) for name, shape in shapes.items() if name.endswith("running_var")
    }
    kernels = {name: shape for name, shape in shapes.items() if len(shape) == 4}
    found |= {n: np.float32(math.sqrt(2 / math.prod(s[1:])) / 0.3) * drawn(n, tuple(s)) for n, s in kernels.items()}
    # What ends a depth reads numbers above zero and gives one channel, perhaps before a sigmoid.
    ends = {name for name, array in found.items() if array.ndim == 4 and array.shape[::2] == (1, 1)}
    return {name: 0.2 * np.abs(array) if name in ends else array for name, array in found.items()}


def map_differences(
    case: Case, path: Path, images: dict[tuple[int, int], np.ndarray] | None = None
) -> dict[str, float]:
    """By size, the largest difference from the original's map, relative to the largest number."""
    model: vitrail.Dense = vitrail.load(path, **case.options)
    found: dict[str, float] = {}
    for size, expected in case.outputs.items():
        resized = model if size == model.config.image.image_size else model.resized(size)
        actual = np.asarray(eqx.filter_jit(resized)((images or {}).get(size, image_of(size))))
        assert actual.shape == expected["map"].shape
        assert np.mean(expected["map"] == 0) < 0.5
        assert np.ptp(expected["map"]) > 0.01 * np.abs(expected["map"]).max()
        difference = np.abs(actual - expected["map"]).max() / np.abs(expected["map"]).max()
        found[f"{size[0]}x{size[1]} map"] = float(difference)
    return found


@functools.cache
def load_dense_cases() -> dict[str, Case]:
    """The cases of the fixture, which `tests/oracles/make_fixtures.py` writes."""
    with np.load(FIXTURES / "dense.npz") as file:
        kept, arrays = json.loads(str(file["cases"])), dict(file)
    cases = {name: case_from(values, _select(arrays, name)) for name, values in kept.items()}
    return {name: dataclasses.replace(case, fixed=fixed_of(case.shapes)) for name, case in cases.items()}


def _select(arrays: Arrays, name: str) -> Arrays:
    return {key.removeprefix(f"{name}/"): array for key, array in arrays.items() if key.startswith(f"{name}/")}
