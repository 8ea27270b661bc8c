"""A `functools.partial` that is compared by what it holds."""

import functools
from typing import TypeVar, cast

_R = TypeVar("_R")


class _ComparablePartial(functools.partial[_R]):
    """A `functools.partial` that is equal to another one of the same function and arguments, as copies are."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, functools.partial):
            return NotImplemented
        theirs = cast("functools.partial[object]", other)
        return (self.func, self.args, self.keywords) == (theirs.func, theirs.args, theirs.keywords)

    def __hash__(self) -> int:
        return hash((self.func, self.args, frozenset(self.keywords)))


def make_comparable(factory: "functools.partial[_R]") -> "functools.partial[_R]":
    """Makes a `functools.partial` that is compared by its function and arguments, and not by its identity.

    A configuration with it is equal to its copies, and so are the structures of models.
    """
    return _ComparablePartial(factory.func, *factory.args, **factory.keywords)
