"""Runs the command of a command line, and prints errors."""

import os
import signal
import sys
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Final

from jaxtyping import TypeCheckError

from .. import __version__
from .._extras import MissingExtraError
from .._registry import PluginError, UnknownPartError
from ..images import DataError
from ._compare import Compare, run_compare
from ._convert import Convert, run_convert
from ._evaluate import Evaluate, run_evaluate
from ._export import Export, run_export
from ._knn import Knn, run_knn
from ._list import List, run_list
from ._look import Look, run_look
from ._parser import Command, parse
from ._predict import Predict, run_predict
from ._reconstruct import Reconstruct, run_reconstruct
from ._search import Search, run_search
from ._segment import Segment, run_segment
from ._train import run_train
from ._train_options import Train
from ._verify import Verify, run_verify
from ._weights import Inspect, run_inspect

_EXPECTED: Final = (
    ValueError,
    TypeError,
    OSError,
    UnknownPartError,
    PluginError,
    MissingExtraError,
    FloatingPointError,
)


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command `vitrail`.

    **Arguments:**

    - `args`: the arguments after the name of the command; `None` for those of the process.

    **Returns:**

    The exit status: 0, or 1 after an error, which is printed on standard error, or if `vitrail verify` says no. A
    command line that cannot be parsed exits with status 2.
    """
    if list(sys.argv[1:] if args is None else args) == ["--version"]:
        print(f"vitrail {__version__}")
        return 0
    try:
        with _end_at_signals():
            status = _run(parse(args))
            sys.stdout.flush()
    except BrokenPipeError:  # a reader of the output that stops, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left goes there at exit
        return 141  # what a shell calls the end by SIGPIPE
    except KeyboardInterrupt:
        print("vitrail: stopped", file=sys.stderr)
        return 130
    except TypeCheckError:
        raise  # a bug in vitrail, for which a traceback is more useful
    except _EXPECTED as error:
        print(f"vitrail: error: {_format_error(error)}", file=sys.stderr)
        return 1
    return status


def _format_error(error: Exception) -> str:
    """An error in one line, without the number of a system error. A list of files has a line for each."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error) if isinstance(error, DataError) else " ".join(str(error).split())


def _run(command: Command) -> int:
    """Runs a command and returns the exit status."""
    match command:
        case Verify():
            return run_verify(command)
        case Train():
            run_train(command)
        case Evaluate():
            run_evaluate(command)
        case Compare():
            run_compare(command)
        case Knn():
            run_knn(command)
        case List():
            run_list(command)
        case Inspect():
            run_inspect(command)
        case Predict():
            run_predict(command)
        case Look():
            run_look(command)
        case Reconstruct():
            run_reconstruct(command)
        case Search():
            run_search(command)
        case Convert():
            run_convert(command)
        case Segment():
            run_segment(command)
        case Export():
            run_export(command)
    return 0


@contextmanager
def _end_at_signals() -> Generator[None]:
    """Ends the program at SIGTERM as at any exit, so that temporary files are removed.

    Python drops an exception that is raised within a callback of the garbage collector, where JAX has one: a SIGTERM or
    a Ctrl-C that comes just then is sent again.
    """
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if not ours:
        yield
        return

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    def send_again(dropped: "sys.UnraisableHookArgs") -> None:
        if not isinstance(dropped.exc_value, SystemExit | KeyboardInterrupt):
            hook(dropped)
            return
        number = signal.SIGINT if isinstance(dropped.exc_value, KeyboardInterrupt) else signal.SIGTERM
        # Not before the callback is over, also on a busy machine.
        threading.Timer(0.5, os.kill, [os.getpid(), number]).start()

    hook, sys.unraisablehook = sys.unraisablehook, send_again
    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        sys.unraisablehook = hook
