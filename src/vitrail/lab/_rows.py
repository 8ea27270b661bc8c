"""The result of one readout."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Float

_NORMAL: Final = 1.96


def name_layer(layer: int) -> str:
    """Names a block: `last`, or its number."""
    return "last" if layer == -1 else str(layer)


def name_resolution(size: tuple[int, int]) -> str:
    """Names a size: `224`, or `224x160`."""
    return str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"


@dataclass(frozen=True, kw_only=True)
class Row:
    """The results of one readout: a pool with a linear head on the tokens of a model."""

    model: str
    """The name of the model."""
    layer: int
    """The block whose tokens are read, counted from the end if negative: -1 is the last."""
    resolution: tuple[int, int]
    """Height and width of the images."""
    pool: str
    """The name of the pool, with its options."""
    correct: Bool[np.ndarray, "seeds images"]
    """Whether each run classified each test image correctly."""
    learning_rate: float
    """The learning rate that the search chose."""
    few_shot: Mapping[int, tuple[float, ...]]
    """For each number of training images of a class, the accuracy of each draw of these images."""
    knn_accuracy: float | None
    """The accuracy of nearest neighbours by the pooled vectors, for a pool without parameters."""
    pool_parameters: int
    """The number of parameters of the pool."""
    head_parameters: int
    """The number of parameters of the linear head, which grows with the width of the pool's output."""
    backbone_milliseconds: float
    """The time of the backbone up to that block for an image, in batches of 8: the median of repeated calls. It is
    noisy on a busy machine, as is the next."""
    readout_milliseconds: float
    """The time of the pool and the head for an image, in batches of 50."""
    flops: int
    """The floating-point operations of the backbone's matrix products for an image; of pool and head are far fewer."""
    memory: int
    """The bytes that the whole backbone takes for a batch of 8: weights, images and what is computed. Blocks after the
    layer count here, as their weights are in memory too."""
    needs_class_token: bool
    """Whether the pool reads the class token."""
    maps: Float[np.ndarray, "drawn rows cols"] | None
    """The weights of the patches of the images `Comparison.map_images` in the first run, for a pool with weights."""
    p_value: float | None = None
    """The p-value of the difference to the best; `None` for the best."""

    def __repr__(self) -> str:
        return f"<Row of {self.name}: accuracy {self.accuracy:.3f}, {self.milliseconds:.3g} ms>"

    @property
    def name(self) -> str:
        """Model, layer, resolution and pool."""
        return f"{self.model} {name_layer(self.layer)} {name_resolution(self.resolution)} {self.pool}"

    @property
    def accuracies(self) -> tuple[float, ...]:
        """The accuracy of each run."""
        return tuple(float(x) for x in np.mean(self.correct, axis=1))

    @property
    def accuracy(self) -> float:
        """The mean accuracy over the runs."""
        return float(np.mean(self.correct))

    @property
    def spread(self) -> float:
        """The standard deviation of the accuracy over the runs; 0 for one run."""
        return float(np.std(self.accuracies, ddof=1)) if len(self.correct) > 1 else 0.0

    @property
    def margin(self) -> float:
        """Half of the 95 % interval of the accuracy: 1.96 standard errors, of the choice of the test images (binomial)
        and of the runs together. Two images more of each kind keep it from vanishing where all are correct (Agresti and
        Coull 1998)."""
        (runs, images), more = self.correct.shape, 4
        share = (self.accuracy * images + more / 2) / (images + more)
        return _NORMAL * math.sqrt(share * (1 - share) / (images + more) + self.spread**2 / runs)

    @property
    def milliseconds(self) -> float:
        """The time of backbone, pool and head for an image."""
        return self.backbone_milliseconds + self.readout_milliseconds


@dataclass(frozen=True)
class Skipped:
    """What was left out."""

    name: str
    """What it is."""
    reason: str
    """Why it was left out."""


def tell_axis(row: Row, axis: str) -> str:
    """Names the value of a row on one axis.

    **Arguments:**

    - `row`: a row of a `Comparison`.
    - `axis`: `"model"`, `"layer"`, `"resolution"` or `"pool"`.

    **Returns:**

    The name, such as `last` for layer -1.
    """
    value = getattr(row, axis)
    names: dict[str, Any] = {"layer": name_layer, "resolution": name_resolution}
    return str(names.get(axis, str)(value))


def shorten(number: float | None) -> float | None:
    """Four digits of a number that is not whole; six places of one below one."""
    if number is None or isinstance(number, int):
        return number
    return float(f"{number:.4g}") if abs(number) >= 1 else round(float(number), 6 if number > 0.001 else 9)


def to_values(row: Row) -> dict[str, Any]:
    """A row as JSON has it."""
    return {
        "model": row.model,
        "layer": row.layer,
        "resolution": list(row.resolution),
        "pool": row.pool,
        "correct": ["".join("01"[int(hit)] for hit in run) for run in row.correct],
        "learning_rate": row.learning_rate,
        "few_shot": {str(shots): list(accuracies) for shots, accuracies in row.few_shot.items()},
        "knn_accuracy": row.knn_accuracy,
        "pool_parameters": row.pool_parameters,
        "head_parameters": row.head_parameters,
        "backbone_milliseconds": shorten(row.backbone_milliseconds),
        "readout_milliseconds": shorten(row.readout_milliseconds),
        "flops": row.flops,
        "memory": row.memory,
        "needs_class_token": row.needs_class_token,
        "maps": None if row.maps is None else row.maps.tolist(),
    }


def from_values(values: Mapping[str, Any]) -> Row:
    """A row from what `to_values` made.

    **Raises:** `ValueError`, `KeyError` or `TypeError` if it is something else.
    """
    if not all(set(run) <= set("01") for run in values["correct"]):
        raise ValueError("correct must be strings of 0 and 1")
    read: dict[str, Any] = {
        **values,
        "resolution": tuple(values["resolution"]),
        "correct": np.array([[hit == "1" for hit in run] for run in values["correct"]]),
        "few_shot": {int(shots): tuple(accuracies) for shots, accuracies in values["few_shot"].items()},
        "maps": None if values["maps"] is None else np.asarray(values["maps"], np.float64),
    }
    return Row(**read)
