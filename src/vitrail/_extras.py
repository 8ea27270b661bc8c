"""Libraries that only an extra installs, imported where they are used."""

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Literal


class MissingExtraError(ImportError):
    """A library that is not installed, because it belongs to an extra of vitrail that is not."""


def require(library: str, *, extra: Literal["train", "demo", "weights", "hub", "torch", "test"]) -> ModuleType:
    """Imports a library, or says how to install it.

    **Arguments:**

    - `library`: the name it is imported by, dotted for a module within it.
    - `extra`: of vitrail, to which it belongs.

    **Returns:**

    The module.

    **Raises:** `MissingExtraError` that names the library and the command that installs it.
    """
    if find_spec(library.partition(".")[0]) is None:
        raise MissingExtraError(
            f"{library} must be installed for this, but it cannot be found: pip install 'vitrail[{extra}]'"
        )
    return import_module(library)
