"""What a comparison found, and its files."""

import csv
import hashlib
import io
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from jaxtyping import Bool, Float

from .._files import write_whole

_COLUMNS: Final = (
    "pool",
    "accuracy",
    "spread",
    "p_value",
    "knn_accuracy",
    "pool_parameters",
    "head_parameters",
    "microseconds",
    "needs_class_token",
)


@dataclass(frozen=True)
class PoolRow:
    """How one pool did, over the seeds."""

    pool: str
    """Its name, with its options."""
    correct: Bool[np.ndarray, "seeds images"]
    """Which of the held-out images each run got right."""
    pool_parameters: int
    """Of the pool."""
    head_parameters: int
    """Of the linear head, which grows with the width of what the pool gives."""
    microseconds: float
    """For the pool and the head, an image, in batches of 50: the median of repeated calls. Noisy on a busy machine."""
    needs_class_token: bool
    """Whether it reads the class token."""
    knn_accuracy: float | None
    """Of 20 nearest neighbours by its features, for a pool without parameters."""
    looks: Float[np.ndarray, "shown rows cols"] | None
    """How much each patch of the four images counts, by the first run, for a pool that weighs patches."""
    p_value: float | None = None
    """Of the difference to the best pool; `None` for the best."""

    @property
    def accuracies(self) -> tuple[float, ...]:
        """The part of the held-out images that each run got right."""
        return tuple(float(x) for x in np.mean(self.correct, axis=1))

    @property
    def accuracy(self) -> float:
        """The mean over the runs."""
        return float(np.mean(self.accuracies))

    @property
    def spread(self) -> float:
        """The standard deviation over the runs, 0 for one."""
        return float(np.std(self.accuracies, ddof=1)) if len(self.correct) > 1 else 0.0


@dataclass(frozen=True)
class SkippedPool:
    """A registered pool that could not take part."""

    pool: str
    """Its name."""
    reason: str
    """Why."""


@dataclass(frozen=True)
class Comparison:
    """What `compare_pools` returns."""

    rows: tuple[PoolRow, ...]
    """The pools, the best first."""
    skipped: tuple[SkippedPool, ...]
    """Those that could not take part."""
    shown: tuple[int, ...]
    """Which of the held-out images `PoolRow.looks` is about."""

    def to_json(self) -> str:
        """Everything, as JSON: the correct predictions as strings of zeros and ones, one for each run."""
        rows = [_row_values(row) | {"accuracy": row.accuracy, "spread": row.spread} for row in self.rows]
        skipped = {s.pool: s.reason for s in self.skipped}
        return json.dumps({"rows": rows, "skipped": skipped, "shown": self.shown}, indent=1)

    def to_csv(self) -> str:
        """The table, as CSV with a header."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        runs = range(len(self.rows[0].correct) if self.rows else 0)
        writer.writerow([*_COLUMNS, *(f"accuracy_{run}" for run in runs)])
        for r in self.rows:
            p_value, knn_accuracy = ("" if x is None else f"{x:.6f}" for x in (r.p_value, r.knn_accuracy))
            needs = str(r.needs_class_token).lower()
            values = (r.pool, f"{r.accuracy:.6f}", f"{r.spread:.6f}", p_value, knn_accuracy)
            sizes = (r.pool_parameters, r.head_parameters, f"{r.microseconds:.2f}", needs)
            writer.writerow([*values, *sizes, *(f"{accuracy:.6f}" for accuracy in r.accuracies)])
        return text.getvalue()


def _row_values(row: PoolRow) -> dict[str, Any]:
    return {
        "pool": row.pool,
        "correct": ["".join("01"[int(hit)] for hit in run) for run in row.correct],
        "pool_parameters": row.pool_parameters,
        "head_parameters": row.head_parameters,
        "microseconds": row.microseconds,
        "needs_class_token": row.needs_class_token,
        "knn_accuracy": row.knn_accuracy,
        "looks": None if row.looks is None else row.looks.tolist(),
        "p_value": row.p_value,
    }


def _row(values: Mapping[str, Any]) -> PoolRow:
    correct = np.array([[hit == "1" for hit in run] for run in values["correct"]])
    looks = None if values["looks"] is None else np.asarray(values["looks"], np.float64)
    given: dict[str, Any] = {**values, "correct": correct, "looks": looks}
    return PoolRow(**given)


class Finished:
    """The pools that are done, in a folder, so that a second run goes on where the first was interrupted."""

    def __init__(self, folder: Path, run: Mapping[str, str]):
        """**Arguments:**

        - `folder`: is made where there is none.
        - `run`: what the results depend on besides the pool, by name.

        **Raises:** `ValueError` where the folder holds the results of another run.
        """
        self._folder = folder / "pools"
        self._folder.mkdir(parents=True, exist_ok=True)
        path = folder / "run.json"
        before = cast("Mapping[str, str]", json.loads(path.read_text())) if path.exists() else dict(run)
        differs = sorted(name for name in before.keys() | run.keys() if before.get(name) != run.get(name))
        if differs:
            raise ValueError(
                f"folder must be new, or hold the results of this comparison, but {folder} holds those of another: "
                f"{', '.join(differs)} changed. Take another folder, or remove that one"
            )
        write_whole(path, lambda part: part.write_text(json.dumps(run, indent=1)))

    def read(self, label: str) -> PoolRow | None:
        """The row of a pool, where it is done. A file that cannot be read counts as none, with a warning."""
        path = self._path(label)
        if not path.exists():
            return None
        try:
            row = _row(json.loads(path.read_text()))
            if row.pool == label:
                return row
        except (ValueError, KeyError, TypeError):
            pass
        warnings.warn(f"{path} cannot be read as the result of {label}: that pool is done again", stacklevel=2)
        return None

    def write(self, row: PoolRow) -> None:
        """Keeps a row."""
        write_whole(self._path(row.pool), lambda part: part.write_text(json.dumps(_row_values(row))))

    def _path(self, label: str) -> Path:
        if re.fullmatch(r"\w+", label):
            return self._folder / f"{label}.json"
        digest = hashlib.sha256(label.encode()).hexdigest()[:12]
        return self._folder / f"{re.sub(r'[^A-Za-z0-9]+', '_', label)[:40]}-{digest}.json"
