"""`vitrail list`: the registered parts, and the published models."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal, get_args, get_origin

from .._explain import list_members, show_hint
from .._registry import Registry
from ..dense import READOUTS
from ..head import HEADS
from ..images import TRANSFORMS
from ..patch import PATCHES
from ..pool import POOLS
from ..position import POSITIONS
from ..train import OBJECTIVES
from ..weights import Task, list_models
from ._list_models import print_models
from ._options import refuse_options

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
    """Lists the published models that vitrail reads, or the parts of one kind.

    A part is listed with its aliases, its summary and its options, or with the package that registered it. The table of
    models has as many columns as fit the terminal.
    """

    kind: Literal["models", "pools", "patches", "positions", "heads", "readouts", "objectives", "transforms"]
    """What to list: `models`, or a kind of part."""
    patterns: tuple[str, ...]
    """For models: texts that the name contains, such as dinov2, or patterns with * or ? for the whole name, such as
    "timm/*large*". A model is listed if one of them fits."""
    task: Task | None = None
    """For models: those that return the scores of classes (classify), features, an embedding without texts (embed),
    embeddings of images and texts, reconstructions (MAE) or masks (SAM)."""
    family: str | None = None
    """For models: those of this family, such as DINOv2."""
    max_parameters: str | None = None
    """For models: those with at most so many parameters, such as 90M or 1.2G."""
    commercial: bool = False
    """For models: only those with a licence known to allow commercial use by everyone: Apache 2.0 or MIT."""


def run_list(command: List) -> None:
    """Prints the models that are asked for, or every name of a registry."""
    filters = {name: getattr(command, name) for name in ("patterns", "task", "family", "max_parameters", "commercial")}
    if command.kind != "models":
        refuse_options(f"with {command.kind}", **filters)
        _list_parts(_REGISTRIES[command.kind])
        return
    most = None if command.max_parameters is None else _parse_number(command.max_parameters)
    found = dict.fromkeys(
        model
        for pattern in command.patterns or (None,)
        for model in list_models(
            pattern, task=command.task, family=command.family, max_parameters=most, commercial=command.commercial
        )
    )
    print_models(list(found), command.patterns)


def _parse_number(text: str) -> float:
    """Reads 90M, 1.2G or a plain number."""
    match = re.fullmatch(r"([0-9.]+)([KMGB]?)", text.upper())
    try:
        return float(match[1]) * {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9}[match[2]] if match else float(text)
    except ValueError:
        raise ValueError(f"max-parameters must be a number as 90M or 1.2G, got {text!r}") from None


def _list_parts(registry: Registry[Any, Any]) -> None:
    """Prints every name of a registry. No plugin is imported: the metadata of a package says what it declares."""
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
    for option in options:
        default = "" if option.default is option.empty else f" = {option.default!r}"
        yield f"option {option.name}: {_format_type(option.annotation)}{default}"
    if not options:
        yield "no options"


def _format_type(annotation: object) -> str:
    """Returns a type as one types its values: `bool | 'class'` for `bool | Literal["class"]`."""
    return " | ".join(
        word
        for member in list_members(annotation)
        for word in (map(repr, get_args(member)) if get_origin(member) is Literal else [show_hint(member)])
    )


def _summarise(factory: Callable[..., object]) -> str:
    """Returns the first sentence of a docstring, without its formulas, which only a browser shows."""
    paragraph = " ".join((inspect.getdoc(factory) or "It has no docstring.").split("\n\n")[0].split())
    plain = re.sub(r"[,:]? *\$[^$]*\$", "", paragraph)
    return re.split(r"(?<=\.) ", plain, maxsplit=1)[0]
