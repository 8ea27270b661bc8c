"""The error of a file of weights."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from .._registry import UnknownPartError


class CheckpointError(ValueError):
    """A file of weights cannot be read, or does not fit. The message names the file and the tensor."""


@contextmanager
def blame_file(path: Path) -> Generator[None, None, None]:
    """Turns any error of a model that is built as a file says into a `CheckpointError` that names the file.

    An `UnknownPartError` stays as it is: that a part is not installed is not the file's fault.
    """
    try:
        yield
    except (CheckpointError, UnknownPartError):
        raise
    except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
        raise CheckpointError(f"{path} describes a model that cannot be built: {shorten_error(error)}") from error


def shorten_error(error: Exception) -> str:
    """The message of an error on one line: those of a type checker and of JAX fill pages."""
    return " ".join(str(error).split())[:300] or type(error).__name__
