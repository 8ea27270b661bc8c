"""What the pages of parts take from the registries."""

import inspect
import re
from typing import Any

import vitrail


def builtins(registry: Any) -> list[str]:
    """The names that come with vitrail: what is installed where the site is built is not documented here."""
    return [name for name in registry if registry.get_entry(name).origins == ("vitrail",)]


def document_parts(registry: Any) -> str:
    """The documentation of each built-in part, and of the methods that it documents itself, as Markdown."""
    blocks: list[str] = []
    for name in builtins(registry):
        cls = registry[name]
        path = cls.__name__ if hasattr(vitrail, cls.__name__) else f"{cls.__module__[8:]}.{cls.__name__}"
        functions = {m: f for m, f in vars(cls).items() if inspect.isfunction(f) and not m.startswith("_")}
        methods = [method for method, function in functions.items() if function.__doc__]
        blocks.append(f"::: vitrail.{path}\n    options:\n      members: {methods}\n")
    return "\n".join(blocks)


def advise(cls: type) -> str:
    """When to use a part: the sentence of its docstring that begins with "Use it"."""
    text = " ".join((inspect.getdoc(cls) or "").split())
    found = re.search(r"\bUse it (.*?)\.(?: |$)", text)
    return "" if found is None else found[1]
