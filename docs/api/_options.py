"""The tables of the page of the command line, made of what `--help` is made of."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from types import NoneType
from typing import Any, Literal, cast, get_args, get_origin

from vitrail._spec import PartSpec
from vitrail.cli._options import ReadOptions
from vitrail.cli._parser import COMMANDS, EXTRAS, read_help, summarise
from vitrail.cli._segment import Segment
from vitrail.cli._train_options import make_defaults
from vitrail.nn import Dropout

_WORDS = {int: "INT", float: "FLOAT", str: "STR", Path: "PATH"}


def list_commands() -> str:
    """A table of the commands: what each does, and the extra that it needs."""
    page = Path(__file__).with_name("cli.md").read_text(encoding="utf-8")
    headings = {
        name: heading
        for heading, name in re.findall(r"^## (.*`vitrail (\w+)`)$", page, re.MULTILINE)
    }
    rows = ["| command | what it does | extra |", "|---|---|---|"]
    for name in COMMANDS:
        anchor = re.sub(r"\W+", "-", headings[name].lower()).strip("-")
        extra = f"`{EXTRAS.get(name, 'weights')}`" + (
            " or `onnx`" if name == "export" else ""
        )
        rows.append(
            f"| [`{name}`](cli.html#{anchor}) | {_escape(summarise(name))} | {extra} |"
        )
    return "\n".join(rows)


def document_options(name: str) -> str:
    """The arguments of a command, and a table for each group of its options."""
    options = COMMANDS[name]
    defaults = vars(make_defaults([name])) if name in ("demo", "train") else {}
    arguments = [
        f"{_name_option(f)} ..." if _is_tuple(f) else _name_option(f)
        for f in _list_positional(options)
    ]
    blocks = [f"`{' '.join(['vitrail', name, *arguments, '[OPTIONS]'])}`"]
    for title, groups in _group(options).items():
        rows = [
            f"**{title}**\n" if title else "",
            "| option | value | default | meaning |",
            "|---|---|---|---|",
        ]
        for cls, prefix, fields in groups:
            texts = read_help(cls)
            values = vars(defaults[prefix]) if prefix in defaults else defaults
            for field in fields:
                option = f"`{_name_option(field, prefix)}`"
                default = _show_default(values.get(field.name, field.default))
                value = _show_type(field.type)
                if options is Segment:  # several points are several options
                    value = value.removesuffix(" ...")
                rows.append(
                    f"| {option} | {value} | {default} | {_escape(texts[field.name])} |"
                )
        blocks.append("\n".join(rows))
    return "\n\n".join(['<div class="options" markdown>', *blocks, "</div>"])


def _group(options: type) -> dict[str, list[tuple[type, str, list[Any]]]]:
    """The fields of a command by title: its own, those of each class that it extends, and those of each field that is a
    dataclass, with the name of that field."""
    found: dict[str, list[tuple[type, str, list[Any]]]] = {}
    fields = {field.name: field for field in dataclasses.fields(options)}
    for cls in (options, *filter(dataclasses.is_dataclass, reversed(options.__mro__[1:]))):
        own = [fields.pop(name) for name in cls.__annotations__ if name in fields]
        nested = [field for field in own if dataclasses.is_dataclass(field.type)]
        title = (
            ""
            if cls is options
            else _title(ReadOptions if issubclass(cls, ReadOptions) else cls)
        )
        if own:
            found.setdefault(title, []).append(
                (cls, "", [field for field in own if field not in nested])
            )
        for field in nested:
            part = cast(type, field.type)
            found[_title(part)] = [(part, field.name, list(dataclasses.fields(part)))]
    return found


def _title(cls: type) -> str:
    """The first sentence of a docstring."""
    return " ".join((cls.__doc__ or "").split()).partition(". ")[0].rstrip(".")


def _list_positional(options: type) -> list[Any]:
    return [field for field in dataclasses.fields(options) if _is_positional(field)]


def _is_positional(field: Any) -> bool:
    return field.default is dataclasses.MISSING


def _is_tuple(field: Any) -> bool:
    return get_origin(field.type) is tuple


def _name_option(field: Any, prefix: str = "") -> str:
    name = field.name.replace("_", "-")
    return (
        name.upper()
        if _is_positional(field)
        else f"--{prefix}.{name}"
        if prefix
        else f"--{name}"
    )


def _show_type(kind: Any) -> str:
    """What to write after an option, with the words of `--help`."""
    kinds = get_args(kind)
    if PartSpec in kinds:
        return "NAME"
    if set(kinds) == {Dropout, NoneType}:
        return "`dropout(rate=FLOAT, drop_path=FLOAT)` or `none`"
    if set(kinds) == {float, NoneType}:
        return "FLOAT or `none`"
    if get_origin(kind) is tuple:
        return f"{_show_type(kinds[0])} ..."
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in kinds)
    if kinds:
        return " or ".join(_show_type(one) for one in kinds if one is not NoneType)
    return _WORDS.get(kind, "")


def _show_default(value: object) -> str:
    if value is dataclasses.MISSING or value is None or value is False or value == ():
        return ""
    if isinstance(value, tuple):
        return f"`{' '.join(map(str, cast('tuple[object, ...]', value)))}`"
    return f"`{value:.3g}`" if isinstance(value, float) else f"`{value}`"


def _escape(text: str) -> str:
    """Plain text as Markdown: what looks like an option becomes code, and no other character means anything."""
    return _change_words(
        lambda words: re.sub(r"[*<_|\[]", r"\\\g<0>", words),
        _change_words(_code_options, text),
    )


def _code_options(words: str) -> str:
    return re.sub(r"--[a-z][\w.=,-]*\w", r"`\g<0>`", words)


def _change_words(change: Callable[[str], str], text: str) -> str:
    """A text with what is between its pieces of code changed."""
    pieces = text.split("`")
    return "`".join(
        piece if number % 2 else change(piece) for number, piece in enumerate(pieces)
    )
