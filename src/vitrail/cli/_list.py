"""`vitrail list`: which parts there are."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
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

_CLASH: Final = "an error to use until all but one are uninstalled"


@dataclass(frozen=True)
class List:
    """Shows the registered parts of one kind: names and aliases, what the built-in ones are and their options, and from
    which installed packages the others come."""

    kind: Literal["pools", "patches", "positions", "heads"]
    """Which parts."""


def list_parts(command: List) -> None:
    """Prints every name of a registry. No plugin is imported: what a package declares is in its metadata."""
    registry = _REGISTRIES[command.kind]
    for name in registry:
        entry = registry.entry(name)
        others = [alias for alias, meant in registry.aliases.items() if meant == name]
        also = f", also {', '.join(others)}" if others else ""
        print(f"{name}  ({', '.join(entry.origins)}){also}")
        if len(entry.origins) > 1:
            print(f"    claimed more than once: {_CLASH}")
        for target in entry.targets:
            print(f"    {target}")
        if entry.origins == ("vitrail",):
            for line in _described(registry, name):
                print(f"    {line}")
    for alias in registry.aliases:
        _, *claimants = registry.entry(alias).origins
        if claimants:
            print(f"{alias}  (vitrail, {', '.join(claimants)})")
            print(f"    an alias of {registry.aliases[alias]} that is claimed once more: {_CLASH}")


def _described(registry: Registry[Any], name: str) -> Iterator[str]:
    yield _summary(registry[name])
    options = registry.options(name).values()
    yield from (f"option {option}" for option in options)
    if not options:
        yield "no options"


def _summary(factory: Callable[..., object]) -> str:
    """The first sentence of a docstring, without the formulas that only a browser shows."""
    paragraph = " ".join((inspect.getdoc(factory) or "It has no docstring.").split("\n\n")[0].split())
    plain = re.sub(r"[,:]? *\$[^$]*\$", "", paragraph)
    return re.split(r"(?<=\.) ", plain, maxsplit=1)[0]
