"""A factory of a part: a class, a function, or a `functools.partial` of one, and the arguments that it names."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, cast

from ._check import describe_value, join_names


def check_factory(factory: object, part: type, kind: str, who: str, error: type[Exception]) -> None:
    """Raises an error unless this can be a factory.

    **Arguments:**

    - `factory`: what was given.
    - `part`: the abstract class of the parts that it has to make.
    - `kind`: what one part is called.
    - `who`: what follows the expectation in the message: `got`, `but ... is`.
    - `error`: the class of the error.
    """
    from ._explain import add_article, name_type

    a_part = add_article(kind)
    if isinstance(factory, part) or (dataclasses.is_dataclass(factory) and not isinstance(factory, type)):
        raise error(
            f"{a_part} must be given as a name, a class or a functools.partial, {who} an instance of "
            f"{type(factory).__name__}: pass the class, and bind its options with functools.partial"
        )
    is_class = isinstance(factory, type)
    if not callable(factory) or (is_class and (not issubclass(factory, part) or inspect.isabstract(factory))):
        raise error(
            f"{a_part} must be a class that extends {name_type(part)}, or a function that returns "
            f"one, {who} {describe_value(cast(object, factory))}"
        )
    try:
        list_parameters(factory)
    except (TypeError, ValueError) as cause:
        bound = list_bound(factory)
        unknown = bound.difference(inspect.signature(cast(Any, factory).func).parameters) if bound else bound
        why = f"it has no argument {join_names(sorted(unknown))}" if unknown else cause
        given = describe_value(factory)
        raise error(f"{a_part} must have a signature that fits, {who} {given}: {why}") from cause


def list_parameters(factory: Callable[..., object]) -> Mapping[str, inspect.Parameter]:
    """The parameters that a factory names. `*args` and `**kwargs` name none.

    **Raises:** `TypeError` for a parameter that cannot be passed by name.
    """
    parameters = inspect.signature(factory).parameters
    if positional := [name for name, p in parameters.items() if p.kind is p.POSITIONAL_ONLY]:
        raise TypeError(f"{join_names(positional)} cannot be passed by name")
    unnamed = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {name: p for name, p in parameters.items() if p.kind not in unnamed}


def list_bound(factory: object) -> frozenset[str]:
    """The names of the arguments that a `functools.partial` binds; none for any other factory."""
    if not isinstance(factory, functools.partial):
        return frozenset()
    return frozenset(cast("functools.partial[object]", factory).keywords)
