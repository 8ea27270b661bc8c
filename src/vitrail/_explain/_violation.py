"""Explains arguments and results that do not fit their annotations."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, cast, get_args, get_origin

from beartype.door import is_bearable

from .._typecheck import make_conf
from ._advise import advise_argument
from ._describe import (
    PACKAGE,
    bind_sizes,
    describe_hint,
    describe_value,
    fill_in,
    is_a,
    is_array,
    join_words,
    list_arrays,
    list_members,
    name_object,
    name_type,
    shorten,
    show_hint,
    show_shape,
)

_CONF: Final = make_conf()
_MOST_CALLERS: Final = 4
_MOST_ITEMS: Final = 1000


def explain_violation(
    function: Callable[..., Any],
    signature: inspect.Signature,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    problem: Exception,
    *result: object,
) -> str:
    """Returns which argument, or the result, does not fit its annotation. `problem` is what beartype says about it."""
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    values = list(_list_values(signature, bound.arguments))
    values += [(None, signature.return_annotation, value) for value in result]
    name = name_object(function.__module__, getattr(function, "__qualname__", "function"))
    # beartype looks at one item of many, and not at the same one each time.
    wrong = [each for each in values if not _fits(each[2], each[1]) or _find_wrong_item(each[1], each[2])]
    if not wrong:
        return f"{name}() got a value of a wrong type: {shorten(str(problem), 300)}"
    key, hint, value = wrong[0]
    hint = fill_in(hint, bound.arguments, _bind_all(values[: values.index(wrong[0])]))
    callers = list(_list_callers())
    lines = [
        _blame_pool([bound.arguments, *(frame for _, frame in callers)], hint, value, is_result=key is None)
        or _write_sentence(name, key, hint, value, bound.arguments, _find_swapped(wrong)),
        f"  {'the result' if key is None else f'argument {key}'} of {name}: {shorten(show_hint(hint), 300)}",
    ]
    if (got := describe_value(value)) not in lines[0]:
        lines.append(f"  got: {got}")
    if callers:
        lines.append(f"  called by: {', '.join(caller for caller, _ in callers[:_MOST_CALLERS])}")
    return "\n".join(lines)


def _list_values(signature: inspect.Signature, arguments: Mapping[str, Any]) -> Iterator[tuple[str | None, Any, Any]]:
    """The name, the annotation and the value of each argument."""
    for p in signature.parameters.values():
        hint = Any if p.annotation is p.empty else p.annotation
        if p.kind is p.VAR_POSITIONAL:
            yield from ((p.name, hint, item) for item in arguments[p.name])
        elif p.kind is p.VAR_KEYWORD:
            yield from ((key, hint, item) for key, item in arguments[p.name].items())
        else:
            yield p.name, hint, arguments[p.name]


def _fits(value: object, hint: Any) -> bool:
    try:
        return hint is Any or is_bearable(value, hint, conf=_CONF)
    except Exception:  # an annotation that beartype or jaxtyping cannot read
        return True


def _bind_all(values: Sequence[tuple[str | None, Any, Any]]) -> dict[str, int]:
    """The sizes of the axes that the earlier arguments name."""
    sizes: dict[str, int] = {}
    for _, hint, value in values:
        for member in list_arrays(hint) if is_array(value) else ():
            sizes = {**(bind_sizes(member.dim_str, value.shape) or {}), **sizes}
    return sizes


def _write_sentence(
    name: str, key: str | None, hint: Any, value: Any, arguments: Mapping[str, Any], swapped: str
) -> str:
    must, got = _contrast(hint, value)
    if key == "image" and not is_array(value):
        must = f"be one image, an array of shape {_find_image_shape(arguments.get('self'))}"
    advice = swapped or advise_argument(key, hint, value, lambda item, member: _fits(item, member))
    what = "the result" if key is None else key
    return f"{what} of {name}() must {must}, got {got}{f': {advice}' if advice else ''}"


def _contrast(hint: Any, value: Any) -> tuple[str, str]:
    """What a value must be or have, and what it is or has instead."""
    arrays = list_arrays(hint)
    if is_array(value) and any(isinstance(value, member.array_type) for member in arrays):
        fitting = [member for member in arrays if bind_sizes(member.dim_str, value.shape) is not None]
        if not fitting:
            shapes = join_words(list(dict.fromkeys(show_shape(member.dim_str) for member in arrays)))
            return f"have shape {shapes}", str(tuple(value.shape))
        if not any(isinstance(value, member.dtype[member.array_type, "..."]) for member in fitting):
            return f"be {describe_hint(hint)}", f"dtype {value.dtype}"
    item = _find_wrong_item(hint, value)
    return f"be {describe_hint(hint)}", describe_value(value) if item is None else item


def _find_wrong_item(hint: Any, value: Any) -> str | None:
    """The first item of a tuple, list or mapping that does not fit, with its place."""
    if len(members := list_members(hint)) > 1:
        return next((found for member in members if (found := _find_wrong_item(member, value))), None)
    origin, args = get_origin(hint), get_args(hint)
    if not (isinstance(origin, type) and is_a(value, origin) and args):
        return None
    items: list[tuple[Any, Any]] = []
    if issubclass(origin, Mapping):
        items = list(value.items())
    elif is_a(value, list, tuple) and (len(args) == 1 or args[-1] is ...):
        items = list(enumerate(cast("Sequence[Any]", value)))
    expected = args[-1] if issubclass(origin, Mapping) else args[0]
    for place, item in items[:_MOST_ITEMS]:
        if not _fits(item, expected):
            return f"{describe_value(item)} as item {place!r}"
    return None


def _find_swapped(wrong: Sequence[tuple[str | None, Any, Any]]) -> str:
    """The advice for two arguments in each other's place."""
    if len(wrong) != 2 or wrong[1][0] is None:
        return ""
    (first, first_hint, first_value), (second, second_hint, second_value) = wrong
    fits = _fits(first_value, second_hint) and _fits(second_value, first_hint)
    return f"{first} and {second} are in each other's place, swap them" if fits else ""


def _find_image_shape(owner: Any) -> str:
    """The shape of the images of a model or a backbone, with its numbers if it has them."""
    owner = getattr(owner, "backbone", owner)
    size: Any = getattr(owner, "image_size", None)
    return f"({size[0]}, {size[1]}, {owner.channels})" if isinstance(size, tuple) else "(height, width, channels)"


def _list_callers() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The functions of vitrail that were running, from the inside, each with its variables."""
    frame = inspect.currentframe()
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        code = frame.f_code
        if module.startswith(PACKAGE) and not module.startswith((f"{PACKAGE}._explain", f"{PACKAGE}._typecheck")):
            yield name_object(module, code.co_qualname), frame.f_locals
        frame = frame.f_back


def _blame_pool(scopes: Sequence[Mapping[str, Any]], hint: Any, value: Any, *, is_result: bool) -> str | None:
    """The sentence for a pool that got tokens of another width than it was built for, or returns another."""
    pools: list[tuple[Any, int]] = [
        (scope["self"], scope["tokens"].patches.shape[-1])
        for scope in scopes
        if hasattr(scope.get("self"), "needs_class_token") and hasattr(scope.get("tokens"), "patches")
    ]
    expected = {dims[-1] for member in list_arrays(hint) if (dims := member.dim_str.split())}
    if not pools or not is_array(value) or value.ndim == 0 or len(expected) != 1:
        return None
    (pool, width), (built,), got = pools[0], expected, value.shape[-1]
    if not built.isdigit() or int(built) == got:
        return None
    name, advice = (
        name_type(pool.__class__),
        f"build it with dim={width}, or let vitrail.replace(model, pool=...) do it",
    )
    if got == width and not is_result:
        return f"the pool {name} is built for tokens of {built} channels, got tokens of {width}: {advice}"
    return (
        f"the pool {name} must return {built} channels, got {got} from tokens of {width}: {advice}"
        if is_result
        else None
    )
