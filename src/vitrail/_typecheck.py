"""Checks the arguments and the result of every function of the package, by jaxtyping with beartype.

A function that names no array has no shapes to compare: beartype alone checks it, in a tenth of the time. The messages
of both print every argument whole. Those of vitrail are written by `_explain`, and raised as `CallError`.
"""

import dataclasses
import functools
import inspect
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from types import FunctionType
from typing import TYPE_CHECKING, Any, ForwardRef, ParamSpec, Self, TypeVar, cast, get_args

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


@contextmanager
def pause() -> Generator[None]:
    """Checks nothing for a while, in which more of the package is imported."""
    global _started
    _started = False
    try:
        yield
    finally:
        _started = True


def check(value: _T) -> _T:
    """Returns a function, or a class whose dataclass has made its `__init__`, with its calls checked."""
    made = vars(value).get("__init__") if dataclasses.is_dataclass(value) else value
    if not isinstance(made, FunctionType) or hasattr(made, "__wrapped__"):
        return value
    made.__signature__ = _Signature.make(made)  # pyright: ignore[reportFunctionMemberAccess]
    if made is value:
        return cast(_T, _check_calls(made))
    cast(Any, value).__init__ = _check_calls(made)
    return value


def _check_calls(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Returns a function that is checked from its first call on: to make all checks at once takes half of the import
    time."""
    checked: Callable[_P, _R] | None = None

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        nonlocal checked
        if checked is None:
            if not _started:
                return function(*args, **kwargs)
            shaped = any(map(_names_an_array, function.__annotations__.values()))
            # What a generator yields is not its result.
            if shaped or inspect.isgeneratorfunction(function):
                checked = cast("Callable[_P, _R]", jaxtyping.jaxtyped(function, typechecker=_check_shapes))
            else:
                checked = _check_types(function)
        return checked(*args, **kwargs)

    return call


def _names_an_array(hint: Any) -> bool:
    """Whether an annotation has one of jaxtyping in it, or is a text, which jaxtyping knows to read."""
    if isinstance(hint, TypeVar):
        hint = (hint.__bound__, *hint.__constraints__)
    if isinstance(hint, list | tuple):  # the arguments of a Callable
        return any(map(_names_an_array, cast("Sequence[Any]", hint)))
    return (
        isinstance(hint, str | ForwardRef)
        or type(hint).__module__.startswith("jaxtyping")
        or any(map(_names_an_array, get_args(hint)))
    )


def _check_types(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Returns a function with its arguments and result checked by beartype."""
    from beartype import beartype

    conf = make_conf(violation_param_type=_WrongArgumentError, violation_return_type=_WrongResultError)
    checked = beartype(conf=conf)(function)
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return checked(*args, **kwargs)
        except TypeError:
            signature.bind(*args, **kwargs)  # raises if it was this
            raise
        except (_WrongArgumentError, _WrongResultError) as error:
            problem = error
        signature.bind(*args, **kwargs)  # raises if another argument is missing or unknown
        result = [_find_result(problem)] if isinstance(problem, _WrongResultError) else []
        raise _make_error(function, signature, args, kwargs, problem, *result) from None

    return call


class _WrongArgumentError(Exception):
    """An argument does not fit its annotation."""


class _WrongResultError(Exception):
    """The result does not fit its annotation."""


def _find_result(error: Exception) -> object:
    """The result that beartype found wrong, which its error does not hold."""
    frames = [frame.f_locals for frame, _ in traceback.walk_tb(error.__traceback__)]
    return next((found["__beartype_pith_0"] for found in frames if "__beartype_pith_0" in found), error)


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


def _check_shapes(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """What jaxtyping calls to check the arguments of a function, and its result, which it passes as one more."""
    from beartype import beartype

    checked = beartype(conf=make_conf())(function)

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return checked(*args, **kwargs)
        except AnnotationError:
            raise
        except Exception as error:
            problem = error
        signature = inspect.signature(function)
        if signature.return_annotation in (Any, signature.empty):
            raise _make_error(function, signature, args, kwargs, problem) from None
        *parameters, last = signature.parameters.values()
        signature = signature.replace(parameters=parameters)
        result = kwargs.pop(last.name)
        raise _make_error(function, signature, args, kwargs, problem, result) from None

    return call


def _make_error(
    function: Callable[..., Any],
    signature: inspect.Signature,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    problem: Exception,
    *result: object,
) -> CallError:
    from ._explain import explain_violation

    try:
        return CallError(explain_violation(function, signature, args, kwargs, problem, *result))
    except Exception:  # a value that cannot even be described must not hide that it is wrong
        name = getattr(function, "__qualname__", "a function")
        return CallError(f"{name}() got a value of a wrong type: {problem}"[:400])


def make_conf(**options: Any) -> "BeartypeConf":
    """How beartype checks: by the numeric tower of PEP 484, an int is accepted as a float, as by a type checker."""
    from beartype import BeartypeConf

    return BeartypeConf(is_pep484_tower=True, is_color=False, **options)
