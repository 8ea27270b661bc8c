"""The commands with their options and help: what the command line, `--help` and the site are made of."""

import ast
import dataclasses
import inspect
import itertools
import sys
import textwrap
from collections.abc import Mapping, Sequence
from types import MappingProxyType, NoneType
from typing import Annotated, Any, Final, Literal, Union, cast, get_args

from .._extras import require
from .._spec import PartSpec
from ..nn import Dropout
from ._compare import Compare
from ._convert import Convert
from ._evaluate import Evaluate
from ._export import Export
from ._knn import Knn
from ._list import List
from ._look import Look
from ._options import parse_part
from ._predict import Predict
from ._reconstruct import Reconstruct
from ._search import Search
from ._segment import Segment
from ._train_options import Train, make_defaults
from ._verify import Verify
from ._weights import Inspect

Command = (
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
COMMANDS: Final[Mapping[str, type[Command]]] = MappingProxyType(
    {
        "demo": Train,
        "train": Train,
        "evaluate": Evaluate,
        "compare": Compare,
        "knn": Knn,
        "predict": Predict,
        "look": Look,
        "search": Search,
        "segment": Segment,
        "reconstruct": Reconstruct,
        "inspect": Inspect,
        "verify": Verify,
        "convert": Convert,
        "export": Export,
        "list": List,
    }
)
"""What each command is parsed into, in the order in which `--help` lists them."""
EXTRAS: Final[Mapping[str, Literal["demo", "export"]]] = MappingProxyType(
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
_DEMO: Final = """Trains a small Vision Transformer on 4,000 handwritten digits of MNIST and prints its accuracy.

It takes one to two minutes on two cores, draws predictions for held-out images, and downloads nothing. The options are
those of `vitrail train`; the defaults of --picture, --save and --out differ, and no folder of the run is kept."""


def describe(name: str) -> str:
    """What a command does: a sentence, and below it what else there is to know."""
    return _DEMO if name == "demo" else inspect.cleandoc(COMMANDS[name].__doc__ or "")


def summarise(name: str) -> str:
    """What a command does, in a sentence."""
    return " ".join(describe(name).split("\n\n")[0].split())


def read_help(options: type) -> dict[str, str]:
    """The docstring of each field of a dataclass and of the dataclasses that it extends, each on one line.

    `None` is written as one types it on the command line.
    """
    found: dict[str, str] = {}
    for cls in reversed(options.__mro__):
        if not dataclasses.is_dataclass(cls):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
        for field, text in itertools.pairwise(cast(ast.ClassDef, tree).body):
            match field, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                    found[name] = " ".join(words.split()).replace("`None`", "`none`")
                case _:
                    pass
    return found


def parse(args: Sequence[str] | None) -> Command:
    """Reads a command line. One that asks for help, or that cannot be read, ends the process as `argparse` does."""
    args = sys.argv[1:] if args is None else args
    first = next(iter(args), "")
    to_onnx = first == "export" and "--format onnx" in " ".join(args).replace("=", " ")
    require("tyro", extra="onnx" if to_onnx else EXTRAS.get(first, "weights"))
    import tyro

    registry = tyro.constructors.ConstructorRegistry()
    registry.primitive_rule(_read_recipe)
    defaults = make_defaults(args) if first in ("train", "demo") else Train()
    commands: list[Any] = []
    for name, options in COMMANDS.items():
        described: dict[str, Any] = {"description": summarise(name)}
        if name == first:  # the only command whose options are listed: to read the sources of all takes 0.1 s
            _set_help(options)
            described["description"] = describe(name)
        if options is Train:
            described["default"] = defaults
        append = (tyro.conf.UseAppendAction,) if options is Segment else ()  # a point is given for each point
        commands.append(Annotated[(options, *append, tyro.conf.subcommand(name, **described))])
    return tyro.cli(
        cast("type[Command]", Union[*commands]),
        prog="vitrail",
        description="Typed Vision Transformers in JAX. `vitrail COMMAND --help` lists the options of a command, "
        "`vitrail --version` prints the version.",
        args=args,
        registry=registry,
        config=(
            tyro.conf.PositionalRequiredArgs,
            tyro.conf.PositionalMetavarFromFieldName,
            tyro.conf.FlagCreatePairsOff,
            tyro.conf.DisallowNone,
        ),
    )


def _set_help(options: type[Any]) -> None:
    """Gives tyro the help of each field: by itself it keeps the line breaks of a docstring that is indented."""
    texts = read_help(options)
    for field in dataclasses.fields(options):
        if field.name in texts:
            field.metadata = MappingProxyType({**field.metadata, "help": texts[field.name]})
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            _set_help(field.type)


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
