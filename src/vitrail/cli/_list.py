"""`vitrail list`: which parts there are."""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal

from .._registry import Registry
from ..head import HEADS
from ..patch import PATCHES
from ..pool import POOLS
from ..position import POSITIONS

_REGISTRIES: Final[Mapping[str, Registry[Any]]] = MappingProxyType(
    {"pools": POOLS, "patches": PATCHES, "positions": POSITIONS, "heads": HEADS}
)


@dataclass(frozen=True)
class List:
    """Shows the registered parts of one kind: their names, where they come from, what they are, and their options."""

    kind: Literal["pools", "patches", "positions", "heads"]
    """Which parts."""


def list_parts(command: List) -> None:
    """Prints every name of a registry. A plugin that does not load is shown with its error; the others go on."""
    registry = _REGISTRIES[command.kind]
    for name in registry:
        print(f"{name}  ({', '.join(registry.entry(name).origins)})")
        try:
            options = registry.options(name).values()
            lines = [_summary(registry[name]), *(f"option {option}" for option in options)] + ["no options"] * (
                not options
            )
        except Exception as error:  # a stranger's code is imported here
            lines = [f"error: {' '.join(str(error).split())}"]
        for line in lines:
            print(f"    {line}")


def _summary(factory: Callable[..., object]) -> str:
    """The first sentence of a docstring, without the formulas that only a browser shows."""
    paragraph = " ".join((inspect.getdoc(factory) or "It has no docstring.").split("\n\n")[0].split())
    plain = re.sub(r",? *\$[^$]*\$", "", paragraph)
    return re.split(r"(?<=\.) ", plain, maxsplit=1)[0]
