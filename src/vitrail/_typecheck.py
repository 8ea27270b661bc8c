"""What checks every signature of the package when it is called, by way of the import hook."""

import functools
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")

_started = False


def start() -> None:
    """Checks from now on. The package's own constants, made while it is imported, are not checked: beartype, a fifth of
    the time that the import takes, is imported when a user calls something."""
    global _started
    _started = True


def typecheck(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """The function with its arguments and result checked.

    The check is written at the first call: for all functions at once it would be half of the time that importing the
    package takes.
    """

    @functools.cache
    def checked() -> Callable[_P, _R]:
        from beartype import BeartypeConf, beartype

        # The numeric tower of PEP 484: an int is welcome where a float is asked for, as it is to a type checker.
        return beartype(conf=BeartypeConf(is_pep484_tower=True))(function)

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        return (checked() if _started else function)(*args, **kwargs)

    return call


TYPECHECKER: Final = f"{__name__}.typecheck"
"""Where the import hook finds it."""
