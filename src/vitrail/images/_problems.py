"""The error of a data set."""


class DataError(ValueError):
    """A file or folder of images is not what it should be. The message names it."""


def raise_problems(problems: list[str]) -> None:
    """Raises a `DataError` that lists problems, one a line, if there are any."""
    if len(problems) == 1:
        raise DataError(problems[0])
    if problems:
        raise DataError("\n  ".join((f"{len(problems)} files or folders cannot be used:", *problems)))


def describe_error(error: Exception) -> str:
    """What an error says, for a message: of an error of the system without its number and the path."""
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
