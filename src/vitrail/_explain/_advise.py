"""Says what to do about a wrong or unknown argument."""

import dataclasses
import difflib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, cast, get_args, get_origin

import jax
import jax.numpy as jnp
import numpy as np

from ._describe import (
    PACKAGE,
    bind_sizes,
    is_a,
    is_array,
    is_from,
    is_key_hint,
    list_arrays,
    list_members,
    list_options,
    name_type,
    shorten,
)

_OTHER_NAMES: Final = {
    "attn_drop_rate": "rate",
    "drop_path_rate": "drop_path",
    "drop_rate": "rate",
    "dtype": "compute_dtype",
    "global_pool": "pool",
    "img_size": "image_size",
    "in_chans": "channels",
    "lr": "learning_rate",
    "n_classes": "num_classes",
    "reg_tokens": "num_registers",
    "rng": "key",
    "rngs": "key",
    "seed": "key",
    "wd": "weight_decay",
}
"""What other libraries call the arguments of vitrail."""
_METHODS: Final = {
    "dropout": "model.with_dropout(vitrail.Dropout(...))",
    "execution": "model.with_execution(vitrail.Execution(...))",
    "image_size": "model.resized(image_size)",
    "patch_size": "model.resized(image_size, patch_size=...)",
}
"""What changes a model where `vitrail.replace` does not."""
_PICTURE: Final = "convert it with vitrail.model_card(model).preprocess(image)"
Fits = Callable[[Any, Any], bool]
"""Whether a value fits an annotation."""


def write_value(value: object) -> str:
    """Writes a short plain value as code, and any other as `...`."""
    text = repr(value) if isinstance(value, int | float | str | None) else "..."
    return text if len(text) <= 40 else "..."


def advise_unknown(parameters: Sequence[inspect.Parameter], unknown: str, value: object) -> str:
    """Says where an argument goes that a function does not have."""
    names = [p.name for p in parameters]
    name = _OTHER_NAMES.get(unknown, unknown)
    if name in names:
        return f"vitrail calls it {name}"
    fields: dict[str, str] = {}
    for p in parameters:
        for options in list_options(p.annotation):
            fields.update({f: f"{p.name}={name_type(options)}({f}=...)" for f in _list_fields(options)})
    if name in fields:
        return f"pass {fields[name].replace('=...', f'={write_value(value)}')}"
    if "model" in names:
        vitrail: Any = sys.modules[PACKAGE]
        for method, options in (("with_dropout", vitrail.Dropout), ("with_execution", vitrail.Execution)):
            if name in _list_fields(options):
                return f"use model.{method}({name_type(options)}({name}={write_value(value)}))"
        if name in _METHODS:
            return f"use {_METHODS[name]}"
    if near := difflib.get_close_matches(name, [*names, *fields], n=1):
        return f"did you mean {fields.get(near[0], near[0])}?"
    return f"its arguments are {', '.join(names)}" if names else "it has none"


def _list_fields(options: type) -> list[str]:
    return [field.name for field in dataclasses.fields(options) if field.init]  # pyright: ignore


def advise_argument(name: str | None, hint: Any, value: Any, fits: Fits) -> str:
    """Says how to fix the value of an argument, or nothing if that is not known. `name` is `None` for a result."""
    if name is None:
        return ""
    if is_key_hint(hint):
        return _advise_key(name, value)
    for advise in (_advise_literal, _advise_options, _advise_plain, _advise_model):
        if advice := advise(name, hint, value, fits):
            return advice
    return _advise_array(name, hint, value) if list_arrays(hint) else ""


def _advise_key(name: str, value: Any) -> str:
    if is_array(value) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return "pass one key of them, or jax.vmap the function over all"
    seed = int(value) if is_a(value, int, np.integer) and not is_a(value, bool) else 0
    return f"pass {name}=jax.random.key({seed})"


def _advise_literal(name: str, hint: Any, value: Any, fits: Fits) -> str:
    choices = [arg for member in list_members(hint) if get_origin(member) is Literal for arg in get_args(member)]
    if isinstance(value, str) and choices:
        near = difflib.get_close_matches(value.lower(), [str(choice) for choice in choices], n=1)
        return f"did you mean {near[0]!r}?" if near else ""
    return "pass True or False" if bool in list_members(hint) and isinstance(value, str | int | np.bool_) else ""


def _advise_options(name: str, hint: Any, value: Any, fits: Fits) -> str:
    for options in list_options(hint):
        shown, hints = name_type(options), inspect.signature(options).parameters
        if is_a(value, Mapping) and value and all(key in hints for key in value):
            return f"pass {name}={shown}({', '.join(f'{key}={write_value(item)}' for key, item in value.items())})"
        fitting = [field for field, p in hints.items() if fits(value, p.annotation)]
        if str in list_members(hint) or any(p.default is p.empty for p in hints.values()):
            return ""
        if fitting and len(fitting) <= 2 and value is not None:
            return "pass " + " or ".join(f"{name}={shown}({field}={write_value(value)})" for field in fitting)
        return f"pass {name}={shown}({', '.join(f'{field}=' for field in list(hints)[:6])} ...)"
    return ""


def _advise_plain(name: str, hint: Any, value: Any, fits: Fits) -> str:
    for kind in (int, float, str, bool):
        if kind in list_members(hint) and (isinstance(value, np.generic) or (is_array(value) and value.ndim == 0)):
            return f"pass {kind.__name__}({name})"
    if int in list_members(hint) and is_a(value, str) and value.isdigit():
        return f"pass {value} without quotes"
    if int in list_members(hint) and is_a(value, float) and value.is_integer():
        return f"pass {int(value)}"
    if any(_takes_several(member) and fits((value,), member) for member in list_members(hint)):
        written = write_value(value)
        return f"pass ({name if written == '...' else written},)"
    if is_a(value, list) and any(get_origin(m) is tuple and fits(tuple(value), m) for m in list_members(hint)):
        return f"pass {shorten(repr(tuple(value)), 40)}, a tuple"
    return ""


def _takes_several(hint: Any) -> bool:
    origin, args = get_origin(hint), get_args(hint)
    return isinstance(origin, type) and issubclass(origin, Sequence) and (origin is not tuple or Ellipsis in args)


def _advise_model(name: str, hint: Any, value: Any, fits: Fits) -> str:
    expected = {getattr(member, "__name__", "") for member in list_members(hint)}
    if expected & {"ViT", "Configured", "Classifier"}:
        if isinstance(value, type):
            return "pass a model, not its class"
        if not expected & {"str", "Path"} and (hasattr(value, "__fspath__") or isinstance(value, str)):
            return "pass a model: vitrail.vit builds one, vitrail.load reads one from a file"
    if "Tokens" in expected and is_array(value):
        return "pass model.backbone(image), or vitrail.Tokens(patches, grid)"
    return ""


def _advise_array(name: str, hint: Any, value: Any) -> str:
    image, arrays = name == "image", list_arrays(hint)
    library = "numpy" if all(member.array_type is np.ndarray for member in arrays) else "jax.numpy"
    if "label" in name and is_array(value) and (value.ndim == 2 or jnp.issubdtype(value.dtype, jnp.floating)):
        return f"pass the numbers of classes: {name}.astype('int32'), or {name}.argmax(-1) of one-hot rows"
    if is_from(value, "PIL") or isinstance(value, bytes):
        return _PICTURE if image else f"pass {library}.asarray({name})"
    if isinstance(value, str) or hasattr(value, "__fspath__"):
        return "open the file with PIL.Image.open, and " + _PICTURE if image else ""
    if is_from(value, "torch"):
        last = f"{name}.movedim(-3, -1)" if image else name
        return f"pass jax.numpy.asarray({last}.numpy()){', or a picture: ' + _PICTURE if image else ''}"
    if isinstance(value, list | tuple | int | float) and not isinstance(value, bool):
        if image and _holds_whole_numbers(value):
            return _PICTURE.replace("image)", "numpy.asarray(image, numpy.uint8))")
        normalised = ", normalised as vitrail.model_card(model).preprocess does it" if image else ""
        return f"pass {library}.asarray({name}){normalised}"
    if hasattr(value, "patches") and hasattr(value, "grid"):
        return "tokens go into model.backbone.encode(tokens) or model.readout(tokens)"
    if callable(value) and image:
        return "pass an image: the model is what is called with it"
    return _advise_form(name, arrays, value, image) if is_array(value) else ""


def _holds_whole_numbers(value: Any) -> bool:
    """Whether the first number of nested lists is a whole one, as in a picture of bytes."""
    while isinstance(value, list | tuple) and value:
        value = cast("Sequence[Any]", value)[0]
    return isinstance(value, int)


def _advise_form(name: str, arrays: Sequence[Any], value: Any, image: bool) -> str:
    if not any(isinstance(value, member.array_type) for member in arrays):
        numpy = any(member.array_type is np.ndarray for member in arrays)
        return f"pass {'numpy' if numpy else 'jax.numpy'}.asarray({name})"
    if any(bind_sizes(member.dim_str, value.shape) is not None for member in arrays):
        return _advise_dtype(name, {member.dtype.__name__ for member in arrays}, value, image)
    is_batch = value.ndim and any(bind_sizes(member.dim_str, value.shape[1:]) is not None for member in arrays)
    return "pass one at a time, with jax.vmap over the first axis" if is_batch else ""


def _advise_dtype(name: str, dtypes: set[str], value: Any, image: bool) -> str:
    if "UInt8" in dtypes:
        return "pass pixels in [0, 255] as uint8"
    if dtypes & {"Float", "Inexact"} and jnp.issubdtype(value.dtype, jnp.integer):
        return f"pass {name}.astype('float32'){' / 255' if image else ''}"
    dtype = "bool" if "Bool" in dtypes else "int32" if dtypes & {"Int", "Integer", "Int32"} else ""
    return f"pass {name}.astype({dtype!r})" if dtype else ""
