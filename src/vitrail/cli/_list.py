"""`vitrail list`: the registered parts."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal

from .._registry import Registry
from ..dense import READOUTS
from ..head import HEADS
from ..images import TRANSFORMS
from ..patch import PATCHES
from ..pool import POOLS
from ..position import POSITIONS
from ..train import OBJECTIVES

_REGISTRIES: Final[Mapping[str, Registry[Any, Any]]] = MappingProxyType(
    {
        "pools": POOLS,
        "patches": PATCHES,
        "positions": POSITIONS,
        "heads": HEADS,
        "readouts": READOUTS,
        "objectives": OBJECTIVES,
        "transforms": TRANSFORMS,
    }
)

_CLASH: Final = "to use it, uninstall all but one"


@dataclass(frozen=True)
class List:
    """Shows the registered parts of one kind: names and aliases, the summary and the options of the built-in parts, and
    the packages that the others are from."""

    kind: Literal["pools", "patches", "positions", "heads", "readouts", "objectives", "transforms"]
    """Which parts."""


def list_parts(command: List) -> None:
    """Prints every name of a registry. No plugin is imported: the metadata of a package says what it declares."""
    registry = _REGISTRIES[command.kind]
    for name in registry:
        entry = registry.get_entry(name)
        aliases = [alias for alias, meaning in registry.aliases.items() if meaning == name]
        also = f", also {', '.join(aliases)}" if aliases else ""
        print(f"{name}  ({', '.join(entry.origins)}){also}")
        if len(entry.origins) > 1:
            print(f"    claimed by several packages: {_CLASH}")
        for target in entry.targets:
            print(f"    {target}")
        if entry.origins == ("vitrail",):
            for line in _describe(registry, name):
                print(f"    {line}")
    for alias in registry.aliases:
        _, *claimants = registry.get_entry(alias).origins
        if claimants:
            print(f"{alias}  (vitrail, {', '.join(claimants)})")
            print(f"    an alias of {registry.aliases[alias]}, claimed by another package too: {_CLASH}")


def _describe(registry: Registry[Any, Any], name: str) -> Iterator[str]:
    yield _summarise(registry[name])
    options = registry.list_options(name).values()
    yield from (f"option {option}" for option in options)
    if not options:
        yield "no options"


def _summarise(factory: Callable[..., object]) -> str:
    """Returns the first sentence of a docstring, without its formulas, which only a browser shows."""
    paragraph = " ".join((inspect.getdoc(factory) or "It has no docstring.").split("\n\n")[0].split())
    plain = re.sub(r"[,:]? *\$[^$]*\$", "", paragraph)
    return re.split(r"(?<=\.) ", plain, maxsplit=1)[0]
