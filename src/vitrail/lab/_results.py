"""The results of a comparison, and their files."""

import csv
import hashlib
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Float

from .._check import warn
from .._files import claim_folder, read_object, write_whole

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
    """The results of one pool over all seeds."""

    pool: str
    """The name of the pool, with its options."""
    correct: Bool[np.ndarray, "seeds images"]
    """Whether each run classified each held-out image correctly."""
    pool_parameters: int
    """The number of parameters of the pool."""
    head_parameters: int
    """The number of parameters of the linear head, which grows with the width of the pool's output."""
    microseconds: float
    """The time of the pool and the head for an image, in batches of 50: the median of repeated calls. It is noisy on a
    busy machine."""
    needs_class_token: bool
    """Whether the pool reads the class token."""
    knn_accuracy: float | None
    """The accuracy of 20 nearest neighbours by the pooled vectors, for a pool without parameters."""
    maps: Float[np.ndarray, "drawn rows cols"] | None
    """The weights of the patches of the images `Comparison.map_images` in the first run, for a pool with weights."""
    p_value: float | None = None
    """The p-value of the difference to the best pool; `None` for the best."""

    def __repr__(self) -> str:
        return f"<PoolRow {self.pool}: accuracy {self.accuracy:.3f}, {self.pool_parameters:,} parameters>"

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


@dataclass(frozen=True)
class SkippedPool:
    """A registered pool that was left out."""

    pool: str
    """The name of the pool."""
    reason: str
    """Why it was left out."""


@dataclass(frozen=True)
class Comparison:
    """What `compare_pools` returns."""

    rows: tuple[PoolRow, ...]
    """One for each pool, the best first."""
    skipped: tuple[SkippedPool, ...]
    """The pools that were left out."""
    map_images: tuple[int, ...]
    """The held-out images that `PoolRow.maps` is of."""
    notes: tuple[str, ...] = ()
    """What limits the result, in sentences: that the runs have too few steps for the number of images."""

    def __repr__(self) -> str:
        best = "".join(f"{row.pool} is the best with {row.accuracy:.3f}, " for row in self.rows[:1])
        return f"<Comparison of {len(self.rows)} pools: {best}{len(self.skipped)} skipped>"

    def to_json(self) -> str:
        """Everything as JSON, with `correct` as a string of zeros and ones for each run."""
        rows = [_to_values(row) | {"accuracy": row.accuracy, "spread": row.spread} for row in self.rows]
        skipped = {s.pool: s.reason for s in self.skipped}
        whole = {"rows": rows, "skipped": skipped, "map_images": self.map_images, "notes": self.notes}
        return json.dumps(whole, indent=1)

    def to_csv(self) -> str:
        """The table as CSV with a header."""
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


def _to_values(row: PoolRow) -> dict[str, Any]:
    return {
        "pool": row.pool,
        "correct": ["".join("01"[int(hit)] for hit in run) for run in row.correct],
        "pool_parameters": row.pool_parameters,
        "head_parameters": row.head_parameters,
        "microseconds": row.microseconds,
        "needs_class_token": row.needs_class_token,
        "knn_accuracy": row.knn_accuracy,
        "maps": None if row.maps is None else row.maps.tolist(),
        "p_value": row.p_value,
    }


def _from_values(values: Mapping[str, Any]) -> PoolRow:
    if not all(set(run) <= set("01") for run in values["correct"]):
        raise ValueError("correct must be strings of 0 and 1")
    correct = np.array([[hit == "1" for hit in run] for run in values["correct"]])
    maps = None if values["maps"] is None else np.asarray(values["maps"], np.float64)
    given: dict[str, Any] = {**values, "correct": correct, "maps": maps}
    return PoolRow(**given)


class FinishedPools:
    """The finished pools in a folder, so that a second run continues where the first was interrupted."""

    def __init__(
        self, folder: Path, run: Mapping[str, str], *, hits_shape: tuple[int, int], maps_shape: tuple[int, int, int]
    ):
        """**Arguments:**

        - `folder`: is made if it does not exist.
        - `run`: what the results depend on besides the pool, by name.
        - `hits_shape`: how many runs and held-out images there are.
        - `maps_shape`: how many images are drawn, and their rows and columns of patches.

        **Raises:** `ValueError` if the folder has the results of another run.
        """
        self._folder = folder / "pools"
        self._shapes = hits_shape, maps_shape
        self._folder.mkdir(parents=True, exist_ok=True)
        claim_folder(folder / "run.json", run)

    def read(self, label: str) -> PoolRow | None:
        """The row of a pool if it is finished. A file that is not its result is ignored, with a warning."""
        path = self._make_path(label)
        if not path.exists():
            return None
        try:
            return self._check_row(_from_values(read_object(path)), label)
        except (ValueError, KeyError, TypeError) as error:
            reason = " ".join(str(error).removeprefix(f"{path} ").split())[:100]
        warn(f"{path} cannot be read as the result of {label}, so the pool is trained again: {reason}")
        return None

    def _check_row(self, row: PoolRow, label: str) -> PoolRow:
        """Returns the row, or raises a `ValueError` if it is not the result of this pool in such a run."""
        hits_shape, maps_shape = self._shapes
        if row.pool != label:
            raise ValueError(f"pool must be {label!r}, got {row.pool!r}")
        if row.correct.shape != hits_shape:
            raise ValueError(f"correct must have shape {hits_shape}, got {row.correct.shape}")
        if row.maps is not None and row.maps.shape != maps_shape:
            raise ValueError(f"maps must have shape {maps_shape}, got {row.maps.shape}")
        return row

    def write(self, row: PoolRow) -> None:
        """Saves a row."""
        write_whole(self._make_path(row.pool), lambda part: part.write_text(json.dumps(_to_values(row))))

    def _make_path(self, label: str) -> Path:
        if re.fullmatch(r"\w+", label):
            return self._folder / f"{label}.json"
        digest = hashlib.sha256(label.encode()).hexdigest()[:12]
        return self._folder / f"{re.sub(r'[^A-Za-z0-9]+', '_', label)[:40]}-{digest}.json"
