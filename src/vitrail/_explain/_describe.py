"""Says in a few words what a value is, and what an annotation accepts."""

import dataclasses
import functools
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FunctionType, NoneType, UnionType
from typing import Any, Final, Literal, TypeVar, Union, cast, get_args, get_origin

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

PACKAGE: Final = __name__.removesuffix("._explain._describe")
"""`vitrail`, unless this is a copy within another package."""
_MOST_TEXT: Final = 60
_DTYPES: Final = {
    "Bool": "boolean array",
    "Float": "floating-point array",
    "Inexact": "floating-point or complex array",
    "Int": "integer array",
    "Integer": "integer array",
    "Key": "PRNG key",
    "Num": "numeric array",
    "Shaped": "array",
    "UInt": "unsigned integer array",
}
"""What jaxtyping's dtypes are called."""


def shorten(text: str, most: int = _MOST_TEXT) -> str:
    """Returns the text in one line, with its end cut off if it is too long."""
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 4]} ..."


def add_article(noun: str) -> str:
    """Returns the noun after `a` or `an`."""
    return f"{'an' if noun[0] in 'aeioAEIO' or noun.startswith('un') else 'a'} {noun}"


def join_words(words: Sequence[str], last: str = "or") -> str:
    """Returns `a, b or c`."""
    return f" {last} ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def is_a(value: Any, *kinds: type) -> bool:
    """`isinstance`, after which a type checker still takes the value for anything."""
    return isinstance(value, kinds)


def is_array(value: Any) -> bool:
    """Whether a value is an array of JAX or NumPy, or one that JAX traces."""
    return isinstance(value, jax.Array | np.ndarray)


def is_from(value: object, library: str) -> bool:
    """Whether a value's class is defined by a library, which need not be installed."""
    return any(cls.__module__.partition(".")[0] == library for cls in type(value).__mro__)


def name_object(module: str, qualname: str) -> str:
    """Returns the name by which a function or class of vitrail is public, or its own name."""
    name = qualname.replace("<locals>.", "").removesuffix(".__init__")
    parts = module.split(".")
    for length in range(1, len(parts) + 1):
        room = ".".join(parts[:length])
        if parts[length - 1].startswith("_"):
            break
        if name.partition(".")[0] in dir(sys.modules.get(room)):  # with what it imports later
            return f"{room}.{name}"
    return name


def name_type(cls: type) -> str:
    """Returns the name of a class, with its module if it is one of vitrail's."""
    return name_object(cls.__module__, cls.__qualname__) if cls.__module__.startswith(PACKAGE) else cls.__name__


def describe_value(value: Any) -> str:
    """Describes a value by its type, and by its shape or its number of items."""
    kind: Any = value.__class__
    if value is None or isinstance(value, bool):
        return repr(value)
    if is_a(value, np.generic):
        return f"the {kind.__name__} {shorten(repr(value.item()))}"
    if isinstance(value, int | float | complex | str | bytes):
        return f"the {kind.__name__.replace('str', 'string')} {shorten(repr(value))}"
    if is_array(value):
        return _describe_array(value)
    if is_from(value, "torch") and hasattr(value, "shape"):
        return f"a PyTorch tensor of shape {tuple(value.shape)}"
    if is_from(value, "PIL") and hasattr(value, "size"):
        return f"a Pillow picture of {value.size[0]} x {value.size[1]} pixels"
    if is_a(value, type):
        return f"the class {name_type(value)}"
    if isinstance(value, list | tuple | set | frozenset | Mapping):
        return _describe_items(cast(Any, value))
    if is_a(value, functools.partial):
        return f"a functools.partial of {describe_value(value.func)}"
    if is_a(value, FunctionType):
        return f"the function {value.__qualname__}"
    if hasattr(value, "patches") and hasattr(value, "grid"):
        arrays = [(name, x) for name, x in cast("dict[str, Any]", vars(value)).items() if is_array(x)]
        return f"{name_type(kind)} with {', '.join(f'{name} {x.dtype} {x.shape}' for name, x in arrays)}"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{add_article(name_type(kind))} of shape {tuple(value.shape)} and dtype {value.dtype}"
    return add_article(name_type(kind))


def _describe_array(value: Any) -> str:
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return "a PRNG key" if value.shape == () else f"an array of PRNG keys of shape {value.shape}"
    numpy = "NumPy " if isinstance(value, np.ndarray) else ""
    return f"{add_article(f'{numpy}{value.dtype} array' if numpy else f'{value.dtype} array')} of shape {value.shape}"


def _describe_items(value: Any) -> str:
    kind, size, inner, lengths = type(value).__name__, len(value), value, list[int]()
    if not size:
        return f"an empty {kind}"
    if is_a(value, Mapping):
        return f"{add_article(kind)} with the keys {shorten(join_words([repr(key) for key in value], 'and'))}"
    while type(inner) in (list, tuple) and inner and len(lengths) < 6:
        lengths.append(len(inner))
        inner = inner[0]
    if len(lengths) > 1:
        return f"a nested {kind} of {' x '.join(map(str, lengths))} items"
    if size <= 4 and all(item is None or type(item) in (int, float, str) for item in value):
        return f"the {kind} {shorten(repr(value))}"
    return f"{add_article(kind)} of {size} item{'s' if size > 1 else ''}"


# Annotations -----------------------------------------------------------------------------------------------------


def is_array_hint(hint: Any) -> bool:
    """Whether an annotation is one of jaxtyping's."""
    return isinstance(hint, type) and hasattr(hint, "dim_str") and hasattr(hint, "array_type")


def list_members(hint: Any) -> list[Any]:
    """The members of a union, or the annotation alone. A type variable stands for its bound."""
    if isinstance(hint, TypeVar):
        hint = hint.__bound__ or object
    return list(get_args(hint)) if get_origin(hint) in (Union, UnionType) else [hint]


def is_key_hint(hint: Any) -> bool:
    """Whether an annotation accepts a PRNG key."""
    return any(is_array_hint(member) and member.dtype.__name__ == "Key" for member in list_members(hint))


def list_arrays(hint: Any) -> list[Any]:
    """The annotations of arrays in a union, without those of PRNG keys."""
    return [] if is_key_hint(hint) else [member for member in list_members(hint) if is_array_hint(member)]


def fill_in(hint: Any, arguments: Mapping[str, Any], sizes: Mapping[str, int]) -> Any:
    """Returns the annotation with numbers for what is known of its axes: `{self.dim}`, and names that are bound."""
    if is_array_hint(hint):
        dims = re.sub(r"\{([^{}]+)\}", lambda match: _evaluate(match, arguments), hint.dim_str)
        dims = " ".join(str(sizes.get(dim, dim)) for dim in dims.split())
        return hint.dtype[hint.array_type, dims]
    members = list_members(hint)
    return Union[tuple(fill_in(member, arguments, sizes) for member in members)] if len(members) > 1 else members[0]  # noqa: UP007


def _evaluate(match: re.Match[str], arguments: Mapping[str, Any]) -> str:
    try:
        return str(eval(match[1], {}, dict(arguments)))
    except Exception:
        return match[0]


def bind_sizes(dims: str, shape: Sequence[int]) -> dict[str, int] | None:
    """The sizes of the named axes if a shape fits, `None` if it does not."""
    names = dims.split()
    several = [i for i, name in enumerate(names) if name == "..." or name.startswith("*")]
    if several:
        after = len(names) - several[0] - 1
        if len(shape) < len(names) - 1:
            return None
        shape = [*shape[: several[0]], *shape[len(shape) - after :]]
        names = [*names[: several[0]], *names[several[0] + 1 :]]
    if len(names) != len(shape):
        return None
    sizes: dict[str, int] = {}
    for name, size in zip(names, shape, strict=True):
        expected = int(name) if name.isdigit() else sizes.setdefault(name, size)
        if expected != size:
            return None
    return {name: size for name, size in sizes.items() if name.isidentifier() and name != "_"}


def show_shape(dims: str) -> str:
    """Writes axes as a shape: `(tokens, 64)`."""
    names = dims.split()
    return f"({names[0]},)" if len(names) == 1 and not names[0].startswith(("*", "...")) else f"({', '.join(names)})"


def describe_hint(hint: Any) -> str:
    """Describes what an annotation accepts: `an int or None`."""
    if is_key_hint(hint):
        return "a PRNG key" + (" or None" if NoneType in list_members(hint) else "")
    words: dict[str, None] = {}
    arrays = [member for member in list_members(hint) if is_array_hint(member)]
    kinds = {member.array_type for member in arrays}
    for member in list_members(hint):
        if get_origin(member) is Literal:
            words |= dict.fromkeys(map(repr, get_args(member)))
        else:
            words[_describe_array_hint(member, kinds) if is_array_hint(member) else _describe_member(member)] = None
    return join_words(list(words))


def _describe_array_hint(hint: Any, kinds: set[Any]) -> str:
    name = hint.dtype.__name__
    noun = _DTYPES.get(name, f"{name.lower()} array")
    library = {(np.ndarray,): "NumPy ", (jax.Array,): "JAX "}.get(tuple(kinds), "")
    shape = "" if hint.dim_str == "..." else f" of shape {show_shape(hint.dim_str)}"
    return f"{add_article(library + noun)}{shape}"


def _describe_member(hint: Any) -> str:
    if hint is NoneType or hint is None:
        return "None"
    origin, args = get_origin(hint), get_args(hint)
    if hint is Callable or origin is get_origin(Callable[[], int]):
        return "a class or a function"
    if origin is tuple and args and Ellipsis not in args and len(set(args)) == 1:
        return f"a tuple of {len(args)} {show_hint(args[0])}s"
    if is_a(origin, type) and issubclass(origin, Mapping):
        return f"{add_article(origin.__name__.lower())} of {show_hint(args[0])} to {show_hint(args[1])}"
    if origin is not None and args:
        items = join_words([show_hint(arg) for arg in args if arg is not ...])
        return f"{add_article(origin.__name__.lower())} of {items}"
    return add_article(name_type(hint)) if isinstance(hint, type) else show_hint(hint)


def show_hint(hint: Any) -> str:
    """Writes an annotation as code, without the modules that names are from."""
    if is_array_hint(hint):
        return f'{hint.dtype.__name__}[{hint.array_type.__name__.rpartition(".")[2]}, "{hint.dim_str}"]'
    if is_key_hint(hint):
        return "PRNGKeyArray" + (" | None" if NoneType in list_members(hint) else "")
    if len(members := list_members(hint)) > 1:
        return " | ".join(dict.fromkeys(show_hint(member) for member in members))
    if hint is NoneType:
        return "None"
    return (
        hint.__name__ if isinstance(hint, type) and not get_args(hint) else re.sub(r"\b(?:\w+\.)+(?=\w)", "", str(hint))
    )


def list_options(hint: Any) -> Iterator[type]:
    """The classes of options in an annotation: dataclasses, such as `Dropout`."""
    for member in list_members(hint):
        if isinstance(member, type) and dataclasses.is_dataclass(member) and not issubclass(member, eqx.Module):
            yield member
