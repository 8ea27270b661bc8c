"""The results of a comparison, and their tables."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Float, UInt8

from ..show import CERTAIN

_NORMAL: Final = 1.96
_FASTER: Final = 0.9


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
        return float(np.mean(self.accuracies))

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


@dataclass(frozen=True)
class Comparison:
    """What `compare` returns."""

    rows: tuple[Row, ...]
    """One for each readout, the best first."""
    skipped: tuple[Skipped, ...]
    """What was left out."""
    map_images: tuple[int, ...]
    """The test images that `Row.maps` is of."""
    pictures: UInt8[np.ndarray, "drawn height width channels"] | None = None
    """Those images as the model of the first row reads them."""
    notes: tuple[str, ...] = ()
    """What limits the result, in sentences."""

    def __repr__(self) -> str:
        best = "".join(f"{row.name} is the best with {row.accuracy:.3f}, " for row in self.rows[:1])
        return f"<Comparison of {len(self.rows)} readouts: {best}{len(self.skipped)} skipped>"

    @property
    def axes(self) -> tuple[str, ...]:
        """Which of `model`, `layer`, `resolution` and `pool` differ between the rows; `pool` if none does."""
        told = {axis: {getattr(row, axis) for row in self.rows} for axis in ("model", "layer", "resolution", "pool")}
        return tuple(axis for axis, values in told.items() if len(values) > 1) or ("pool",)

    @property
    def names(self) -> tuple[str, ...]:
        """What tells each row from the others."""
        return tuple(" ".join(tell_axis(row, axis) for axis in self.axes) for row in self.rows)

    @property
    def front(self) -> tuple[bool, ...]:
        """Whether each row is on the Pareto front: no other is at least as accurate and takes less time, or is more
        accurate and takes no more."""
        points = [(row.milliseconds, -row.accuracy) for row in self.rows]

        def is_beaten(point: tuple[float, float]) -> bool:
            return any(all(a <= b for a, b in zip(other, point, strict=True)) and other != point for other in points)

        return tuple(not is_beaten(point) for point in points)

    @property
    def shots(self) -> tuple[int, ...]:
        """The numbers of images of a class that rows were tested with."""
        return tuple(sorted({shots for row in self.rows for shots in row.few_shot}))

    @property
    def _open_rows(self) -> list[int]:
        """The places of the best row, and of those that are not certainly worse."""
        return [i for i, row in enumerate(self.rows) if row.p_value is None or row.p_value >= CERTAIN]

    @property
    def contenders(self) -> tuple[Row, ...]:
        """The best row, and the fastest of those that are not certainly worse, if it is faster by a tenth or more."""
        fastest = min((self.rows[i] for i in self._open_rows), key=lambda row: row.milliseconds)
        is_faster = fastest.milliseconds < _FASTER * self.rows[0].milliseconds
        return (self.rows[0], fastest) if is_faster else (self.rows[0],)

    @property
    def conclusion(self) -> tuple[str, ...]:
        """What follows from the p-values and the costs, in sentences."""
        if not self.rows:
            return ()
        best, names = self.rows[0], self.names
        images = best.correct.shape[1]
        first = f"{names[0]} has the highest accuracy, {best.accuracy:.1%} ± {best.margin:.1%}."
        if len(self.rows) == 1:
            return (first,)
        open_rows = self._open_rows
        worse = len(self.rows) - len(open_rows)
        if worse == 0:
            second = f"No difference is certain: {images:,} test images do not tell the others from it."
        elif len(open_rows) == 1:
            second = "It is certainly better than all others."
        else:
            others = _join([names[i] for i in open_rows[1:]])
            second = f"It is certainly better than {worse} of {len(self.rows) - 1} others, but not than {others}."
        fastest = self.contenders[-1]
        if fastest is best:
            return first, second, "None of those that may be as good is faster by a tenth or more."
        name = next(name for name, row in zip(names, self.rows, strict=True) if row is fastest)
        ratio = best.milliseconds / fastest.milliseconds
        return first, second, f"The fastest of those that may be as good is {name}: {_tell_ratio(ratio)}."

    def to_json(self) -> str:
        """Everything as JSON, with `correct` as a string of zeros and ones for each run."""
        rows = [
            to_values(row)
            | {name: _round(getattr(row, name)) for name in ("accuracy", "spread", "margin")}
            | {"p_value": _round(row.p_value), "on_front": front}
            for row, front in zip(self.rows, self.front, strict=True)
        ]
        skipped = {s.name: s.reason for s in self.skipped}
        whole = {"conclusion": self.conclusion, "rows": rows, "skipped": skipped, "map_images": self.map_images}
        return json.dumps(whole | {"notes": self.notes}, indent=1)

    def to_csv(self) -> str:
        """The table as CSV with a header."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        for place, (row, front) in enumerate(zip(self.rows, self.front, strict=True)):
            values = self._tabulate(row, front)
            if place == 0:
                writer.writerow(values)
            writer.writerow(values.values())
        return text.getvalue()

    def _tabulate(self, row: Row, front: bool) -> dict[str, object]:
        """The columns of the CSV."""
        axes: dict[str, object] = {axis: tell_axis(row, axis) for axis in ("model", "layer", "resolution", "pool")}
        numbers: dict[str, float | None] = {
            "accuracy": row.accuracy,
            "margin": row.margin,
            "spread": row.spread,
            "p_value": row.p_value,
            "knn_accuracy": row.knn_accuracy,
            **{f"shots_{n}": float(np.mean(row.few_shot[n])) if n in row.few_shot else None for n in self.shots},
            "learning_rate": row.learning_rate,
            "milliseconds": row.milliseconds,
            "readout_milliseconds": row.readout_milliseconds,
            "flops": row.flops,
            "memory": row.memory,
            "pool_parameters": row.pool_parameters,
            "head_parameters": row.head_parameters,
        }
        told: dict[str, object] = {name: "" if number is None else _round(number) for name, number in numbers.items()}
        flags: dict[str, object] = {
            "needs_class_token": str(row.needs_class_token).lower(),
            "on_front": str(front).lower(),
        }
        return axes | told | flags | {f"accuracy_{run}": _round(x) for run, x in enumerate(row.accuracies)}


def tell_axis(row: Row, axis: str) -> str:
    """What a row is of on one axis."""
    value = getattr(row, axis)
    names: dict[str, Any] = {"layer": name_layer, "resolution": name_resolution}
    return str(names.get(axis, str)(value))


def _join(names: Sequence[str]) -> str:
    shown = ", ".join(names[:4])
    return f"{shown} and {len(names) - 4} more" if len(names) > 4 else shown


def _tell_ratio(ratio: float) -> str:
    return f"{ratio:.2f} times as fast" if ratio < 10 else f"{ratio:.0f} times as fast"


def _round(number: float | None) -> float | None:
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
        "backbone_milliseconds": _round(row.backbone_milliseconds),
        "readout_milliseconds": _round(row.readout_milliseconds),
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
