"""Explains arguments that are missing, unknown or too many."""

import inspect
import re
from collections.abc import Mapping, Sequence
from types import FunctionType
from typing import Any, Final

from ._advise import advise_unknown
from ._describe import describe_hint, is_key_hint, join_words, name_object, shorten

_MOST_LINES: Final = 8


def explain_binding(
    function: FunctionType, signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any], problem: str
) -> str:
    """Returns why arguments do not fit a signature. `problem` is what Python says about it."""
    name = name_object(function.__module__, function.__qualname__)
    parameters = [p for p in signature.parameters.values() if p.name != "self"]
    known = {p.name for p in parameters}
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    given = len(args) - int("self" in signature.parameters)
    for key in kwargs:
        if key not in known:
            return f"{name}() has no argument {key}: {advise_unknown(parameters, key, kwargs[key])}"
        if key in positional[:given]:
            return f"{name}() got {key} twice: pass it by its place or by its name, not both"
    if given > len(positional):
        takes = f"takes {len(positional)} without a name ({', '.join(positional)})" if positional else "takes none"
        rest = ", ".join(f"{p.name}=" for p in parameters if p.kind is p.KEYWORD_ONLY)
        advice = f"pass the others by name ({rest})" if rest else "leave the others out"
        return f"{name}() {takes}, got {given}: {advice}"
    missing = [p for p in parameters if _is_required(p) and p.name not in {*positional[:given], *kwargs}]
    return _explain_missing(function, name, missing) if missing else f"{name}(): {problem}"


def _is_required(parameter: inspect.Parameter) -> bool:
    several = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and not several


def _explain_missing(function: FunctionType, name: str, missing: Sequence[inspect.Parameter]) -> str:
    about = {p.name: ", ".join(filter(None, (_describe(p), _quote(function, p.name)))) for p in missing}
    advice = ", ".join(f"{p.name}={'jax.random.key(0)' if is_key_hint(p.annotation) else '...'}" for p in missing)
    if len(missing) == 1:
        (words,) = about.values()
        return f"{name}() needs {missing[0].name}{f' ({words})' if words else ''}: pass {advice}"
    if len(missing) > _MOST_LINES:
        advice = "each by its name"
    lines = [f"{name}() needs {join_words([p.name for p in missing], 'and')}: pass {advice}"]
    return "\n".join([*lines, *(f"  {key}: {words}" for key, words in list(about.items())[:_MOST_LINES] if words)])


def _describe(parameter: inspect.Parameter) -> str:
    hint = parameter.annotation
    return "" if hint in (Any, parameter.empty) else shorten(describe_hint(hint), 120)


def _quote(function: FunctionType, argument: str) -> str:
    """What the docstring says about an argument, up to the end of its first clause."""
    text = inspect.cleandoc(function.__doc__ or "")
    found = re.search(rf"^- (?:`\w+`, )*`{argument}`(?:, `\w+`)*: (.+(?:\n +\S.*)*)", text, re.MULTILINE)
    return shorten(re.split(r"[;:.](?:\s|$)", found[1])[0].replace("`", ""), 120) if found else ""
