"""The published checkpoints that vitrail reads, from the file that `tests/oracles/make_catalogue.py` writes."""

import csv
import functools
import json
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final, Literal, cast

from .._check import join_names
from ..images import Preprocess

Task = Literal["classify", "features", "embed", "image-text", "reconstruct", "segment"]
"""What a published model returns for an image."""

CATALOGUE: Final = Path(__file__).with_name("catalogue.csv")
"""The file of the catalogue."""
_COMMERCIAL: Final = ("apache-2.0", "mit")
"""The licences of the catalogue that allow commercial use to everyone, without terms of their own."""


@dataclass(frozen=True)
class PublishedModel:
    """A published checkpoint that vitrail reads, as the library that lists it describes it."""

    repository: str
    """The repository of the Hub: `"timm/vit_small_patch14_dinov2.lvd142m"`."""
    file: str
    """The file of tensors in it."""
    names: tuple[str, ...]
    """The short names that `vitrail.load` and `vitrail.from_hub` take, as `"dinov2-s/14"`; empty if there are none."""
    family: str
    """What it is: `"DINOv2"`."""
    task: Task
    """What it returns: scores of classes (`"classify"`), what its pool returns (`"features"`), an embedding without the
    tower of texts (`"embed"`), embeddings of both towers (`"image-text"`), or what MAE and SAM return (`"reconstruct"`,
    `"segment"`)."""
    layout: str
    """The layout of the file."""
    parameters: int
    """The number of parameters, of all that vitrail reads."""
    flops: int
    """The floating-point operations of the image model for one image, as in `ModelCard.flops`."""
    image_size: tuple[int, int]
    """Height and width of the images of the weights in pixels."""
    tokens: int
    """The number of tokens for one image."""
    licence: str | None
    """The licence of the weights; `None` if the library does not say it."""
    organisation: str | None
    """Who made the family; `None` if the names do not say it."""
    data: tuple[str, ...]
    """What it was trained on, the first first; empty if the names do not say it."""
    pool: str
    """The pool of the weights."""
    preprocess: Preprocess | None
    """How it expects its images; `None` if nothing says it. The file beside the weights is right where they differ."""
    notes: str
    """What the library notes; empty if it notes nothing."""

    @property
    def is_commercial(self) -> bool:
        """Whether the licence is known to allow commercial use to everyone: Apache 2.0 or MIT."""
        return self.licence in _COMMERCIAL

    def __repr__(self) -> str:
        name = f" ({', '.join(self.names)})" if self.names else ""
        return (
            f"<PublishedModel {self.repository}{name}: {self.family}, {self.task}, {self.parameters / 1e6:,.1f}M "
            f"parameters, licence {self.licence or 'not known'}>"
        )


def list_models(
    pattern: str | None = None,
    *,
    task: Task | None = None,
    family: str | None = None,
    max_parameters: float | None = None,
    commercial: bool = False,
) -> tuple[PublishedModel, ...]:
    """Lists the published checkpoints that vitrail reads, without a network.

    !!! example

        ```python
        for model in vitrail.list_models("*dinov2*", max_parameters=100e6, commercial=True):
            print(model.repository, model.names, model.tokens)
        ```

    **Arguments:**

    - `pattern`: a text that the repository or a short name contains, or a pattern with `*` and `?` for the whole name.
        Upper and lower case are equal. `None` for all.
    - `task`: what the model returns, as in `PublishedModel.task`.
    - `family`: its family, upper and lower case alike.
    - `max_parameters`: the largest number of parameters, such as `100e6`.
    - `commercial`: whether to list only models whose licence is known to allow commercial use to everyone (Apache 2.0,
        MIT). Models with another licence, such as DINOv3, or without a known one are left out.

    **Returns:**

    The checkpoints, sorted by family and size.

    **Raises:** `ValueError` if there is no such family, or `max_parameters` is not above zero.
    """
    found = read_catalogue()
    if max_parameters is not None and not max_parameters > 0:
        raise ValueError(f"max_parameters must be above zero, got {max_parameters}")
    if family is not None:
        families = dict.fromkeys(model.family for model in found)
        if family.lower() not in (name.lower() for name in families):
            raise ValueError(f"family must be one of {join_names(families)}, got {family!r}")
        found = [model for model in found if model.family.lower() == family.lower()]
    return tuple(
        model
        for model in found
        if (pattern is None or _matches(model, pattern))
        and (task is None or model.task == task)
        and (max_parameters is None or model.parameters <= max_parameters)
        and (model.is_commercial or not commercial)
    )


def _matches(model: PublishedModel, pattern: str) -> bool:
    wanted = pattern.lower()
    if not {*wanted} & {*"*?"}:
        wanted = f"*{wanted}*"
    # In brackets a name of fnmatch is a set of characters, which no name needs.
    wanted = wanted.replace("[", "[[]")
    return any(fnmatchcase(name.lower(), wanted) for name in (model.repository, *model.names))


def find_licence(repository: str) -> str | None:
    """The licence of a repository of the Hub in the catalogue; `None` if it is not there, or has none."""
    return next((model.licence for model in read_catalogue() if model.repository == repository), None)


@functools.cache
def read_catalogue() -> list[PublishedModel]:
    """Reads the whole catalogue."""
    with CATALOGUE.open(encoding="utf-8", newline="") as file:
        return [_read_row(row) for row in csv.DictReader(file)]


def _read_row(row: dict[str, str]) -> PublishedModel:
    said: dict[str, Any] = json.loads(row["preprocess"]) if row["preprocess"] else {}
    options: dict[str, Any] = {
        name: tuple(cast("list[Any]", value)) if isinstance(value, list) else value for name, value in said.items()
    }
    return PublishedModel(
        repository=row["repository"],
        file=row["file"],
        names=tuple(row["names"].split()),
        family=row["family"],
        task=cast(Task, row["task"]),
        layout=row["layout"],
        parameters=int(row["parameters"]),
        flops=int(row["flops"]),
        image_size=(int(row["height"]), int(row["width"])),
        tokens=int(row["tokens"]),
        licence=row["licence"] or None,
        organisation=row["organisation"] or None,
        data=tuple(filter(None, row["data"].split(", "))),
        pool=row["pool"],
        preprocess=Preprocess(**options) if options else None,
        notes=row["notes"],
    )
