"""Configurations to JSON and back: dataclasses of names, numbers, tuples and other such dataclasses."""

import dataclasses
import json
import typing
from typing import Any, TypeVar, cast

from .._check import listed
from .._registry import PartSpec

_C = TypeVar("_C")


def to_json(config: object) -> str:
    """A configuration as JSON.

    **Raises:** `ValueError` where a value is code: a class, a function or a `functools.partial`.
    """
    return json.dumps(_encode("configuration", config), indent=2)


def from_json(kind: type[_C], text: str) -> _C:
    """The configuration that `to_json` wrote.

    **Raises:** `ValueError` where the text is not JSON, or its names are not those of `kind`; `TypeError` where a value
    has the wrong type.
    """
    try:
        values: object = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise ValueError(f"text must be JSON as to_json writes it, but {error}") from error
    return cast(_C, _decode(kind.__name__, kind, values))


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object, or a `ValueError` where a name stands in it twice, of which json would keep the last."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(
            f"text must have each name once, but {listed({n for n in names if names.count(n) > 1})} came twice"
        )
    return values


def _encode(name: str, value: object) -> object:
    if isinstance(value, PartSpec):
        return {"name": value.name, "options": dict(value.options)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _encode(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)}
    if value is None or isinstance(value, bool | int | float | str | tuple):
        return cast(object, value)
    raise ValueError(
        f"{name} must be a registered name to be written as JSON, but it is {value!r}: JSON must not hold code, so "
        "register the part in an entry point of your package and give its name"
    )


def _decode(name: str, kind: Any, value: object) -> object:
    if dataclasses.is_dataclass(kind):
        return _decode_fields(name, kind, value)
    inner = next((each for each in typing.get_args(kind) if dataclasses.is_dataclass(each)), None)
    if inner is not None and isinstance(value, dict):
        return _decode_fields(name, inner, cast(object, value))
    return _tuples(value)


def _decode_fields(name: str, kind: Any, value: object) -> object:
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be a JSON object with {listed(fields)}, but {value!r} came")
    given = cast("dict[str, object]", value)
    required = {n for n, f in fields.items() if f.default is dataclasses.MISSING}
    if unknown := given.keys() - fields.keys():
        raise ValueError(f"{name} has no {listed(sorted(unknown))}: what there is are {listed(fields)}")
    if missing := required - given.keys():
        raise ValueError(f"{name} lacks {listed(sorted(missing))}: to_json writes every field")
    if kind is PartSpec:
        options = given.get("options", {})
        if not isinstance(options, dict):
            raise ValueError(f"options of {name} must be a JSON object, but {options!r} came")
        pairs = cast("dict[str, object]", options).items()
        return PartSpec(cast(str, given["name"]), tuple(sorted((o, cast(Any, _tuples(v))) for o, v in pairs)))
    return kind(**{n: _decode(n, fields[n].type, v) for n, v in given.items()})


def _tuples(value: object) -> object:
    """JSON's lists as tuples, which hash."""
    return tuple(_tuples(v) for v in cast("list[object]", value)) if isinstance(value, list) else value
