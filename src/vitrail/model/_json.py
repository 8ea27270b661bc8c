"""Writes configurations as JSON and reads them: dataclasses of names, numbers, tuples, paths and other dataclasses."""

import dataclasses
import functools
import json
import typing
from pathlib import Path
from typing import Any, TypeVar, cast

from .._check import describe_value, join_names
from .._spec import PartSpec
from ._comparable import make_comparable

_C = TypeVar("_C")


class JSONConfig:
    """A configuration that can be written as JSON: a frozen dataclass. Configurations with equal `functools.partial`
    parts compare equal. A subclass with a `__post_init__` of its own calls this one."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(cast(Any, self)):
            object.__setattr__(self, field.name, _make_comparable(getattr(self, field.name)))

    def to_json(self) -> str:
        """Writes the configuration as JSON, for `from_json`.

        **Returns:**

        A JSON object, indented.

        **Raises:** `ValueError` if a part is a class, a function or a `functools.partial`.
        """
        return json.dumps(_encode("configuration", self), indent=2)

    @classmethod
    def from_json(cls: type[_C], text: str) -> _C:
        """Reads a configuration that `to_json` wrote.

        **Arguments:**

        - `text`: a JSON object.

        **Returns:**

        An equal configuration.

        **Raises:** `ValueError` if the text is not JSON, or a field is unknown, given twice or missing; `TypeError` if
        a value has the wrong type. Parts are looked up by `build`.
        """
        try:
            values: object = json.loads(text, object_pairs_hook=_collect)
        except json.JSONDecodeError as error:
            raise ValueError(f"text must be JSON as to_json writes it, got invalid JSON: {error}") from error
        return cast(_C, _decode(cls.__name__, cls, values))


def _make_comparable(choice: object) -> object:
    if isinstance(choice, tuple):
        return tuple(map(_make_comparable, cast("tuple[object, ...]", choice)))
    return make_comparable(cast(Any, choice)) if isinstance(choice, functools.partial) else choice


def _collect(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """The values of a JSON object; a `ValueError` for a name that it has twice, of which json would keep the last."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(
            f"text must have each name once, got {join_names({n for n in names if names.count(n) > 1})} twice: remove "
            "one"
        )
    return values


def _encode(name: str, value: object) -> object:
    if isinstance(value, PartSpec):
        return {"name": value.name, "options": dict(value.options)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _encode(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [_encode(name, item) for item in cast("tuple[object, ...]", value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(
        f"{name} must be a registered name to be written as JSON, got {describe_value(value)}: register the part in an "
        "entry point of your package, and use its name"
    )


def _decode(name: str, kind: Any, value: object) -> object:
    if dataclasses.is_dataclass(kind):
        return _decode_fields(name, kind, value)
    if typing.get_origin(kind) is tuple and isinstance(value, list):
        of_each = typing.get_args(kind)[0]  # alike in all tuples that hold parts
        return tuple(_decode(name, of_each, item) for item in cast("list[object]", value))
    inner = next((option for option in typing.get_args(kind) if dataclasses.is_dataclass(option)), None)
    if inner is not None and isinstance(value, dict):
        return _decode_fields(name, inner, cast(object, value))
    if isinstance(value, str) and Path in (kind, *typing.get_args(kind)):
        return Path(value)
    return _to_tuples(value)


def _decode_fields(name: str, kind: Any, value: object) -> object:
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be a JSON object with {join_names(fields)}, got {describe_value(value)}")
    given = cast("dict[str, object]", value)
    required = {n for n, f in fields.items() if f.default is dataclasses.MISSING}
    if unknown := given.keys() - fields.keys():
        raise ValueError(f"{name} has no field {join_names(sorted(unknown))}: its fields are {join_names(fields)}")
    if missing := required - given.keys():
        raise ValueError(f"{name} is missing {join_names(sorted(missing))}: to_json writes every field")
    if kind is PartSpec:
        options = given.get("options", {})
        if not isinstance(options, dict):
            raise ValueError(f"the options of {name} must be a JSON object, got {describe_value(options)}")
        pairs = cast("dict[str, object]", options).items()
        return PartSpec(cast(str, given["name"]), tuple(sorted((o, cast(Any, _to_tuples(v))) for o, v in pairs)))
    return kind(**{n: _decode(n, fields[n].type, v) for n, v in given.items()})


def _to_tuples(value: object) -> object:
    """Turns lists into tuples, which can be hashed."""
    return tuple(_to_tuples(v) for v in cast("list[object]", value)) if isinstance(value, list) else value
