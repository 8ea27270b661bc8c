"""What the pages of parts take from the registries."""

import inspect
import re
import sys
from pathlib import Path
from typing import Any

import vitrail

sys.path.append(str(Path(__file__).parents[1]))
from _code import format_code


def builtins(registry: Any) -> list[str]:
    """The names that come with vitrail: what is installed where the site is built is not documented here."""
    return [name for name in registry if registry.get_entry(name).origins == ("vitrail",)]


def document_parts(registry: Any) -> str:
    """The documentation of each built-in part, of the methods that it documents itself, and its source, as Markdown."""
    blocks: list[str] = []
    for name in builtins(registry):
        cls = registry[name]
        path = (
            cls.__name__
            if hasattr(vitrail, cls.__name__)
            else f"{cls.__module__[8:]}.{cls.__name__}"
        )
        functions = {
            m: f
            for m, f in vars(cls).items()
            if inspect.isfunction(f) and not m.startswith("_")
        }
        methods = [method for method, function in functions.items() if function.__doc__]
        options = f"::: vitrail.{path}\n    options:\n      members: {methods}\n      show_source: true\n"
        blocks.append(f"{options}\n{explain_name(registry, name)}")
    return "\n".join(blocks)


def explain_name(registry: Any, name: str) -> str:
    """What a part is called, and how it is chosen with all its options, which are those that it has by default."""
    constant = registry.group.removeprefix("vitrail.").upper()
    aliases = [f"`{alias}`" for alias, of in registry.aliases.items() if of == name]
    also = f", and as {', '.join(aliases)}" if aliases else ""
    options = {key: option.default for key, option in registry.list_options(name).items()}
    registry.configure(name, **options)  # what is printed is accepted
    words = "".join(f", {key}={value!r}" for key, value in options.items())
    code = f'vitrail.{constant}.configure("{name}"{words})'
    told = "with its options and their defaults" if words else "it has no options"
    return f"Registered as `{name}`{also}; {told}:\n\n{format_code(code)}\n"


def advise(cls: type) -> str:
    """When to use a part: the sentence of its docstring that begins with "Use it"."""
    text = " ".join((inspect.getdoc(cls) or "").split())
    found = re.search(r"\bUse it (.*?)\.(?: |$)", text)
    return "" if found is None else found[1]
