"""The error of a file of weights."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from .._registry import PluginError, UnknownPartError


class CheckpointError(ValueError):
    """A file of weights cannot be read, or does not fit. The message names the file and the tensor."""


@contextmanager
def blame_file(path: Path, plugins: Mapping[str, str] = MappingProxyType({})) -> Generator[None, None, None]:
    """Turns any error of a model that is built as a file says into a `CheckpointError` that names the file.

    An `UnknownPartError` or a `PluginError` stays one, because that a part is not installed is not the file's fault. It
    names the file, and the package that the part was from when the file was written: `plugins` says which.
    """
    try:
        yield
    except CheckpointError:
        raise
    except (UnknownPartError, PluginError) as error:
        origins = [
            f"{part} was from {origin} when the file was written: install that package"
            for part, origin in plugins.items()
            if part.removeprefix("the ") in str(error)
        ]
        message = f"{path} needs a part that is missing: {error}"
        raise type(error)(". ".join([message, *origins])) from error
    except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
        raise CheckpointError(f"{path} describes a model that cannot be built: {shorten_error(error)}") from error


def shorten_error(error: Exception) -> str:
    """The message of an error on one line: those of a type checker and of JAX fill pages."""
    return " ".join(str(error).split())[:300] or type(error).__name__
