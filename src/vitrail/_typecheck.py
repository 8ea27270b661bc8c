"""Checks the arguments and the result of every function of the package, by jaxtyping with beartype.

jaxtyping's messages print every argument whole. Those of vitrail are written by `_explain`, and raised as `CallError`.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from types import FunctionType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, cast

import jaxtyping
from jaxtyping import AnnotationError, TypeCheckError

if TYPE_CHECKING:
    from beartype import BeartypeConf

_T = TypeVar("_T")
_P = ParamSpec("_P")
_R = TypeVar("_R")

_started = False


class CallError(TypeCheckError, AnnotationError):
    """A function got a wrong, missing or unknown argument, or returned something else than it declares.

    It is a `TypeError`. The first line of its message says what is wrong and what to do.
    """

    # As an `AnnotationError` it passes through jaxtyping, which would put its own message around any other error.


CallError.__module__ = __name__.rpartition(".")[0]  # where it is public: tracebacks print it


def start() -> None:
    """Starts the checks. Nothing is checked while the package is imported, so that beartype, a fifth of the import
    time, is imported at the first call of a user."""
    global _started
    _started = True


def check(value: _T) -> _T:
    """Returns a function, or a class whose dataclass has made its `__init__`, with its calls checked."""
    made = vars(value).get("__init__") if dataclasses.is_dataclass(value) else value
    if isinstance(made, FunctionType) and not hasattr(made, "__wrapped__"):
        made.__signature__ = _Signature.make(made)  # pyright: ignore[reportFunctionMemberAccess]
    return cast(Any, jaxtyping).jaxtyped(value, typechecker=_typecheck)


class _Signature(inspect.Signature):
    """A signature whose errors name the function. jaxtyping binds the arguments of every call to it."""

    function: Any = None
    """The function; `None` in a copy, which binds as any other signature does."""
    _positional: tuple[str, ...] | None = None
    _names: frozenset[str] = frozenset()
    _required: frozenset[str] = frozenset()

    @classmethod
    def make(cls, function: FunctionType) -> Self:
        """The signature of a function."""
        signature = cls.from_callable(function)
        signature.function = function
        return signature

    def replace(self, **changes: Any) -> Self:
        """Keeps the function."""
        new = super().replace(**changes)
        new.function = self.function
        return new

    def bind(self, /, *args: Any, **kwargs: Any) -> inspect.BoundArguments:
        """Binds in a third of the time, and raises a `CallError` if an argument is missing or unknown."""
        if self._positional is None:
            self._list_names()
        names = self._positional or ()
        if len(args) <= len(names):
            arguments = dict(zip(names, args, strict=False))
            if not kwargs or (kwargs.keys() <= self._names and arguments.keys().isdisjoint(kwargs)):
                arguments.update(kwargs)
                if self._required <= arguments.keys():
                    return inspect.BoundArguments(self, arguments)  # pyright: ignore[reportArgumentType]
        try:
            return super().bind(*args, **kwargs)
        except TypeError as error:
            if self.function is None:
                raise
            problem = str(error)
        from ._explain import explain_binding

        raise CallError(explain_binding(self.function, self, args, kwargs, problem)) from None

    def _list_names(self) -> None:
        """Lists the names of the parameters at the first call. Those of `*args` and `**kwargs` are left to Python."""
        parameters = self.parameters.values()
        several = any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)
        self._names = frozenset(p.name for p in parameters if p.kind is not p.POSITIONAL_ONLY)
        self._required = frozenset(p.name for p in parameters if p.default is p.empty)
        if several:
            self._required |= {""}  # never bound, so that the fast way is not taken
        self._positional = tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))


def _typecheck(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Returns a function with its arguments and result checked.

    The check is generated at the first call: for all functions at once it would take half of the import time.
    """
    checked: Callable[_P, _R] | None = None

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        nonlocal checked
        if checked is None:
            if not _started:
                return function(*args, **kwargs)
            checked = _make_check(function)
        try:
            return checked(*args, **kwargs)
        except AnnotationError:
            raise
        except Exception as error:
            problem = error
        from ._explain import explain_violation

        try:
            message = explain_violation(function, args, kwargs, problem)
        except Exception:  # a value that cannot even be described must not hide that it is wrong
            message = f"{getattr(function, '__qualname__', 'a function')}() got a value of a wrong type: {problem}"[
                :400
            ]
        raise CallError(message) from None

    return call


def _make_check(function: Callable[_P, _R]) -> Callable[_P, _R]:
    from beartype import beartype

    return beartype(conf=make_conf())(function)


def make_conf() -> "BeartypeConf":
    """How beartype checks: by the numeric tower of PEP 484, an int is accepted as a float, as by a type checker."""
    from beartype import BeartypeConf

    return BeartypeConf(is_pep484_tower=True, is_color=False)
