"""The finished cells in a folder, so that a second run goes on where the first was interrupted."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from .._check import warn
from .._files import check_facts, claim_folder, read_object, write_whole
from ._candidates import Group
from ._cost import Cost
from ._rows import Row, from_values, name_layer, to_values

_RECORD: Final = "group.json"


class SavedGroup:
    """The finished cells of a group, in a folder of their own."""

    def __init__(self, folder: Path, group: Group, model: str):
        """**Arguments:**

        - `folder`: of the whole comparison.
        - `group`: the model and the resolution.
        - `model`: the digest of what the results depend on besides the data and the options.

        **Raises:** `ValueError` if the folder has results of another model of that name.
        """
        self.folder = folder
        self._place = folder / "cells" / _make_name(str(group))
        self._group = group
        self._facts = {"model": model}
        self.has_cells = bool(_list_cells(self._place))
        """Whether there are results."""
        self._check()

    def _check(self) -> None:
        if not self.has_cells:
            return  # there is nothing that others would be mixed with
        record = self._place / _RECORD
        if not record.exists():
            raise ValueError(f"{self._place} has results without {_RECORD}, which says of what: pass a new folder")
        check_facts(record, self._facts)

    def check_data(self, data: str, hits_shape: tuple[int, int], maps_shape: tuple[int, int, int]) -> None:
        """Raises a `ValueError` if the results are of other data, which has another digest."""
        self._facts["data"] = data
        self._shapes = hits_shape, maps_shape
        self._check()

    def claim(self) -> None:
        """Notes what the results depend on, before the first of them is written."""
        if not self.has_cells:
            for path in (*self._place.glob("cost-*.json"), self._place / _RECORD):
                path.unlink(missing_ok=True)
        claim_folder(self._place / _RECORD, self._facts)

    def is_finished(self, layer: int, pool: str) -> bool:
        """Whether there is a result of a cell."""
        return self._make_path(layer, pool).exists()

    def read(self, layer: int, pool: str, computes: str | None) -> Row | None:
        """The row of a cell if it is finished. A file that is not its result is ignored, with a warning.

        **Raises:** `ValueError` if it is of a pool that `computes` something else.
        """
        path = self._make_path(layer, pool)
        if not path.exists():
            return None
        try:
            found = read_object(path)
            before = found.pop("computes")
            row = from_values(found)
            self._check_row(row, layer, pool)
        except (ValueError, KeyError, TypeError) as error:
            reason = " ".join(str(error).removeprefix(f"{path} ").split())[:100]
        else:
            if before != computes:
                raise ValueError(
                    f"{path} has the result of another pool {pool}: pass a new folder, or remove that file"
                )
            return row
        warn(f"{path} cannot be read as the result of {pool}, so the pool is trained again: {reason}")
        return None

    def _check_row(self, row: Row, layer: int, pool: str) -> None:
        """Raises a `ValueError` if a row is not the result of this cell in such a run."""
        hits_shape, maps_shape = self._shapes
        expected = (self._group.model, layer, self._group.resolution, pool)
        if (row.model, row.layer, row.resolution, row.pool) != expected:
            raise ValueError(f"it must be the result of {expected}, got {row.name!r}")
        if row.correct.shape != hits_shape:
            raise ValueError(f"correct must have shape {hits_shape}, got {row.correct.shape}")
        if row.maps is not None and row.maps.shape != maps_shape:
            raise ValueError(f"maps must have shape {maps_shape}, got {row.maps.shape}")

    def write(self, row: Row, computes: str | None) -> None:
        """Saves a row."""
        _write(self._make_path(row.layer, row.pool), {**to_values(row), "computes": computes})

    def read_cost(self, layer: int) -> Cost | None:
        """The cost of the backbone up to a block if it was measured."""
        path = self._make_cost_path(layer)
        if not self.has_cells or not path.exists():
            return None
        found: Any = read_object(path)
        try:
            return Cost(float(found["milliseconds"]), int(found["flops"]), int(found["memory"]))
        except (KeyError, TypeError, ValueError):
            warn(f"{path} cannot be read as a cost, so it is measured again")
            return None

    def write_costs(self, costs: Mapping[int, Cost]) -> None:
        """Saves the cost of the backbone up to each block."""
        for layer, cost in costs.items():
            _write(self._make_cost_path(layer), vars(cost))

    def _make_cost_path(self, layer: int) -> Path:
        return self._place / f"cost-{name_layer(layer)}.json"

    def _make_path(self, layer: int, pool: str) -> Path:
        return self._place / f"{_make_name(f'{name_layer(layer)}-{pool}')}.json"


def count_finished(folder: Path) -> int:
    """The number of finished cells in the folder of a comparison."""
    return sum(len(_list_cells(place)) for place in folder.glob("cells/*"))


def _list_cells(place: Path) -> list[Path]:
    """The results of the cells of a group."""
    return [path for path in place.glob("*.json") if path.name != _RECORD and not path.name.startswith("cost-")]


def _make_name(label: str) -> str:
    """A file name for a label: the label itself, or what is left of it and a digest."""
    if re.fullmatch(r"[\w-]{1,60}", label):
        return label
    digest = hashlib.sha256(label.encode()).hexdigest()[:12]
    return f"{re.sub(r'[^A-Za-z0-9]+', '_', label)[:40]}-{digest}"


def _write(path: Path, values: Mapping[str, Any]) -> None:
    write_whole(path, lambda part: part.write_text(json.dumps(values)))
