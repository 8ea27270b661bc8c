"""What is wrong with a file of weights."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from .._registry import UnknownPartError


class CheckpointError(ValueError):
    """A file of weights that is not what it should be. The message names the file, and the tensor if it is one."""


@contextmanager
def describing(path: Path) -> Generator[None, None, None]:
    """Where a model is made out of what a file, or the settings beside it, say: what goes wrong is a `CheckpointError`.

    A part that is not to be had stays the error that it is, as that is not the file's fault.
    """
    try:
        yield
    except (CheckpointError, UnknownPartError):
        raise
    except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
        raise CheckpointError(f"{path} describes no model that there can be: {in_short(error)}") from error


def in_short(error: Exception) -> str:
    """What an error says, on one line: a type checker's and JAX's have pages."""
    return " ".join(str(error).split())[:300] or type(error).__name__
