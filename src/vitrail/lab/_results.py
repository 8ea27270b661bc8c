"""The results of a comparison, and their tables."""

import csv
import io
import json
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import UInt8

from ..show import CERTAIN
from ._rows import Row, Skipped, shorten, tell_axis, to_values
from ._statistics import conclude, tell_p_values

_FASTER: Final = 0.9


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
    def left_out(self) -> dict[str, tuple[str, ...]]:
        """What was left out, by the reason."""
        reasons = dict.fromkeys(each.reason for each in self.skipped)
        return {reason: tuple(each.name for each in self.skipped if each.reason == reason) for reason in reasons}

    @property
    def told_p_values(self) -> tuple[str, ...]:
        """The p-values as tables show them: `best` for the first row, `tie` for one of the same accuracy, and `<0.001`
        for those below."""
        return tell_p_values([row.accuracy for row in self.rows], self._p_values)

    @property
    def _p_values(self) -> list[float]:
        """Of all rows but the first."""
        return [1.0 if row.p_value is None else row.p_value for row in self.rows[1:]]

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
        sentences = conclude(
            names,
            [row.accuracy for row in self.rows],
            self._p_values,
            f"accuracy, {best.accuracy:.1%} ± {best.margin:.1%}",
            best.correct.shape[1],
        )
        if len(self.rows) == 1:
            return sentences
        fastest = self.contenders[-1]
        if fastest is best:
            return *sentences, "No other that may be as good is at least 10% faster."
        name = next(name for name, row in zip(names, self.rows, strict=True) if row is fastest)
        ratio = best.milliseconds / fastest.milliseconds
        return *sentences, f"The fastest of those that may be as good is {name}: {_tell_ratio(ratio)}."

    def to_json(self) -> str:
        """Everything as JSON, with `correct` as a string of zeros and ones for each run."""
        rows = [
            to_values(row)
            | {name: shorten(getattr(row, name)) for name in ("accuracy", "spread", "margin")}
            | {"p_value": shorten(row.p_value), "on_front": front}
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
        told: dict[str, object] = {name: "" if number is None else shorten(number) for name, number in numbers.items()}
        flags: dict[str, object] = {
            "needs_class_token": str(row.needs_class_token).lower(),
            "on_front": str(front).lower(),
        }
        return axes | told | flags | {f"accuracy_{run}": shorten(x) for run, x in enumerate(row.accuracies)}


def _tell_ratio(ratio: float) -> str:
    return f"{ratio:.2f} times as fast" if ratio < 10 else f"{ratio:.0f} times as fast"
