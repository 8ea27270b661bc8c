"""Checks the arguments and the result of every function of the package, by jaxtyping's import hook."""

import functools
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")

_started = False


def start() -> None:
    """Starts the checks. Nothing is checked while the package is imported, so that beartype, a fifth of the import
    time, is imported at the first call of a user."""
    global _started
    _started = True


def typecheck(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Returns the function with its arguments and result checked.

    The check is generated at the first call: for all functions at once it would take half of the import time.
    """

    @functools.cache
    def checked() -> Callable[_P, _R]:
        from beartype import BeartypeConf, beartype

        # The numeric tower of PEP 484: an int is accepted as a float, as by a type checker.
        return beartype(conf=BeartypeConf(is_pep484_tower=True))(function)

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        return (checked() if _started else function)(*args, **kwargs)

    return call


TYPECHECKER: Final = f"{__name__}.typecheck"
"""The name by which the import hook finds it."""
