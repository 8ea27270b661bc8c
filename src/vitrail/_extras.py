"""Imports the libraries of extras when they are used."""

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Literal


class MissingExtraError(ImportError):
    """A library of an extra is not installed."""


def require(library: str, *, extra: Literal["train", "demo", "weights", "hub", "torch", "test"]) -> ModuleType:
    """Imports a library of an extra.

    **Arguments:**

    - `library`: the name of the module to import.
    - `extra`: the extra of vitrail that installs it.

    **Returns:**

    The module.

    **Raises:** `MissingExtraError` with the command that installs the library.
    """
    if find_spec(library.partition(".")[0]) is None:
        raise MissingExtraError(f"{library} is not installed: run pip install 'vitrail[{extra}]'")
    return import_module(library)
