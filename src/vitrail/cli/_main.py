"""Parses a command line, runs the command, and prints errors."""

import os
import signal
import sys
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType, NoneType
from typing import Annotated, Any, Final, Literal, Union, cast, get_args

from jaxtyping import TypeCheckError

from .. import __version__
from .._extras import MissingExtraError, require
from .._registry import PluginError, UnknownPartError
from .._spec import PartSpec
from ..images import DataError
from ..nn import Dropout
from ._compare import Compare, run_compare
from ._convert import Convert, run_convert
from ._evaluate import Evaluate, run_evaluate
from ._export import Export, run_export
from ._knn import Knn, run_knn
from ._list import List, run_list
from ._look import Look, run_look
from ._options import parse_part
from ._predict import Predict, run_predict
from ._reconstruct import Reconstruct, run_reconstruct
from ._search import Search, run_search
from ._segment import Segment, run_segment
from ._train import run_train
from ._train_options import Train, make_defaults
from ._verify import Verify, run_verify
from ._weights import Inspect, run_inspect

_EXTRAS: Final[Mapping[str, Literal["demo", "export"]]] = MappingProxyType(
    {
        "demo": "demo",
        "train": "demo",
        "evaluate": "demo",
        "compare": "demo",
        "knn": "demo",
        "look": "demo",
        "reconstruct": "demo",
        "search": "demo",
        "export": "export",
    }
)
"""The extra that a command needs; `weights` for the others, which has the library that parses all. `export` needs
`onnx` for that format."""
_DEMO: Final = """Trains a small Vision Transformer on 4,000 handwritten digits of MNIST, in one to two minutes on two
cores, prints its accuracy on held-out images, and draws them. Nothing is downloaded.

It is `vitrail train` with other defaults: no folder is kept."""
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
            status = _run(_parse(args))
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


_Command = (
    Train
    | Evaluate
    | Compare
    | Knn
    | List
    | Inspect
    | Verify
    | Predict
    | Look
    | Reconstruct
    | Search
    | Segment
    | Convert
    | Export
)


def _run(command: _Command) -> int:
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


def _parse(args: Sequence[str] | None) -> _Command:
    args = sys.argv[1:] if args is None else args
    first = next(iter(args), "")
    to_onnx = first == "export" and "--format onnx" in " ".join(args).replace("=", " ")
    require("tyro", extra="onnx" if to_onnx else _EXTRAS.get(first, "weights"))
    import tyro

    registry = tyro.constructors.ConstructorRegistry()
    registry.primitive_rule(_read_recipe)
    trains = first in ("train", "demo")
    defaults = make_defaults(args) if trains else Train()
    commands: list[Any] = [
        Annotated[Train, tyro.conf.subcommand("train", default=defaults)],
        Annotated[Train, tyro.conf.subcommand("demo", default=defaults, description=_DEMO)],
        # A point is given as often as there are points.
        *(Annotated[c, tyro.conf.UseAppendAction] if c is Segment else c for c in get_args(_Command) if c is not Train),
    ]
    return tyro.cli(
        cast("type[_Command]", Union[*commands]),
        prog="vitrail",
        description="Vision Transformers, assembled from typed parts. `--version` prints the version.",
        args=args,
        registry=registry,
        config=(
            tyro.conf.PositionalRequiredArgs,
            tyro.conf.PositionalMetavarFromFieldName,
            tyro.conf.FlagCreatePairsOff,
            tyro.conf.DisallowNone,
        ),
    )


def _read_recipe(info: Any) -> Any:
    """How tyro reads fields of a recipe whose types are more than a command line can say: a part as it is printed, and
    `none` in place of a number."""
    from tyro.constructors import PrimitiveConstructorSpec

    kinds = set(get_args(info.type))
    if PartSpec in kinds:
        metavar, parse = "NAME", parse_part
    elif kinds == {float, NoneType}:
        metavar, parse = "FLOAT|none", float
    elif kinds == {Dropout, NoneType}:
        metavar, parse = "dropout(rate=FLOAT,drop_path=FLOAT)|none", _parse_dropout
    else:
        return None
    return PrimitiveConstructorSpec[Any](
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda given: None if given[0] == "none" and NoneType in kinds else parse(given[0]),
        is_instance=lambda value: True,
        str_from_instance=lambda value: ["none" if value is None else str(value)],
    )


def _parse_dropout(text: str) -> Dropout:
    part = parse_part(text)
    if not isinstance(part, PartSpec) or part.name != "dropout":
        raise ValueError(f"dropout must be as dropout(rate=0.1, drop_path=0.1), got {text!r}")
    return Dropout(**cast("dict[str, float]", dict(part.options)))
