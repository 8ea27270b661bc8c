"""What checks every signature of the package when it is called, by way of the import hook."""

import functools
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

from beartype import BeartypeConf, beartype

_P = ParamSpec("_P")
_R = TypeVar("_R")

# The numeric tower of PEP 484: an int is welcome where a float is asked for, as it is to a type checker.
_CONF: Final = BeartypeConf(is_pep484_tower=True)


def typecheck(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """The function with its arguments and result checked.

    The check is written at the first call: for all functions at once it would be half of the time that importing the
    package takes.
    """

    @functools.cache
    def checked() -> Callable[_P, _R]:
        return beartype(conf=_CONF)(function)

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        return checked()(*args, **kwargs)

    return call


TYPECHECKER: Final = f"{__name__}.typecheck"
"""Where the import hook finds it."""
