"""Runs the code in the tables of these pages: a cell that does not work ends the build of the site. Not a page."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import equinox as eqx

import vitrail

ROOT = Path(__file__).resolve().parents[2]


def run_column(page: str, column: int, names: dict[str, Any]) -> None:
    """Runs the code of a column of the tables that begin with "to", row by row, in one namespace.

    A cell is Python: its code spans are the lines. A span that starts with `$` is a command, which is left out.
    """
    rows = list(read_rows(page))
    assert rows, f"{page} has no table that begins with 'to'"
    for cells in rows:
        spans = re.findall(r"`([^`]+)`", cells[column])
        assert spans, f"{page}: no code in {cells[column]!r}"
        try:
            exec("\n".join(code for code in spans if not code.startswith("$")), names)
        except Exception as error:
            raise AssertionError(f"{page}: {cells[column]}: {error}") from error


def read_rows(page: str) -> Iterator[list[str]]:
    """The cells of each row of the tables that begin with "to"."""
    inside = False
    for line in (
        (ROOT / "docs" / "coming-from" / page).read_text(encoding="utf-8").splitlines()
    ):
        inside = line.startswith("| to |") or (inside and line.startswith("|"))
        if inside and not line.startswith(("| to |", "|---")):
            yield line.removeprefix("| ").removesuffix(" |").split(" | ")


class Offline:
    """The package where names of published models are those of one folder on this machine.

    A name must be in the list of models, and the arguments those of the real function.
    """

    def __init__(self, folder: Path):
        """Takes the folder of the model that stands in for all."""
        self.folder = folder

    def __getattr__(self, name: str) -> Any:
        return getattr(vitrail, name)

    def find(self, name: Any) -> Any:
        """The folder that stands in for a published model; anything else as it is."""
        if not isinstance(name, str) or Path(name).exists():
            return name
        listed = {
            each
            for model in vitrail.list_models()
            for each in (model.repository, *model.names)
        }
        assert name in listed, f"{name} is not in the list of models"
        return self.folder

    def vit(self, *arguments: Any, **options: Any) -> Any:
        """`vitrail.vit`, without computing the weights."""
        return eqx.filter_eval_shape(vitrail.vit, *arguments, **options)

    def load(self, path: Any, **options: Any) -> Any:
        """`vitrail.load`."""
        return vitrail.load(self.find(path), **options)

    def model_card(self, of: Any) -> Any:
        """`vitrail.model_card`."""
        return vitrail.model_card(self.find(of))

    def from_hub(
        self, repository: str, *, revision: str | None = None, **options: Any
    ) -> Any:
        """`vitrail.from_hub`."""
        inspect.signature(vitrail.from_hub).bind(repository, revision=revision, **options)
        return self.load(repository, **options)

    def push_to_hub(self, *arguments: Any, **options: Any) -> None:
        """`vitrail.push_to_hub`, which uploads nothing."""
        inspect.signature(vitrail.push_to_hub).bind(*arguments, **options)
