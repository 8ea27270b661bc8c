"""Checks of plain arguments, and their messages."""

import difflib
import inspect
import math
import warnings
from collections.abc import Iterable, Sequence
from types import FrameType
from typing import Final, cast

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Shaped

_BETWEEN: Final = (__name__.rpartition(".")[0], "jaxtyping", "beartype", "equinox", "functools", "collections.abc")
"""The modules that a warning does not point into."""


def check_positive(**values: int | tuple[int, ...]) -> None:
    """Raises a `ValueError` that names the first argument that is not a positive whole number."""
    for name, value in values.items():
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, bool) or number < 1:
                raise ValueError(f"{name} must be positive, got {value!r}: pass whole numbers of at least 1")


def check_seed(seed: int) -> None:
    """Raises a `ValueError` if a seed does not fit into 32 bits."""
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be in [0, 2**32), got {seed}")


def check_rate(**values: float) -> None:
    """Raises a `ValueError` that names the first argument that is not a probability below one."""
    for name, value in values.items():
        if not 0.0 <= value < 1.0:
            raise ValueError(f"{name} must be in [0, 1), got {value!r}: pass a probability, 0 to turn it off")


def check_probability(**values: float) -> None:
    """Raises a `ValueError` that names the first argument that is not a probability."""
    for name, value in values.items():
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{name} must be in [0, 1], got {value!r}")


def check_range(most: float = math.inf, /, **values: tuple[float, float]) -> None:
    """Raises a `ValueError` that names the first argument that is not a smaller and a larger number above zero."""
    for name, (low, high) in values.items():
        check_above_zero(**{name: low})
        if not low <= high <= most or high == math.inf:
            limit = "" if most == math.inf else f", at most {most:g}"
            raise ValueError(f"{name} must be a smaller and a larger number{limit}, got {(low, high)}")


def check_above_zero(**values: float | None) -> None:
    """Raises a `ValueError` that names the first argument that is neither finite and above zero nor `None`."""
    for name, value in values.items():
        if value is not None and not 0.0 < value < math.inf:
            raise ValueError(f"{name} must be a finite number above zero, got {value!r}")


def check_not_negative(**values: float) -> None:
    """Raises a `ValueError` that names the first argument that is negative or not finite."""
    for name, value in values.items():
        if not 0.0 <= value < math.inf:
            raise ValueError(f"{name} must be finite and not negative, got {value!r}: pass 0 to turn it off")


def check_names(name: str, values: Iterable[object]) -> None:
    """Raises a `TypeError` if one of several names, the argument `name`, is not a string. beartype checks only one
    item of a sequence."""
    if wrong := [value for value in values if not isinstance(value, str)]:
        raise TypeError(f"{name} must be strings, got {describe_value(wrong[0])} among them: pass a string")


def check_classes(classes: tuple[str, ...] | None, num_classes: int | None) -> None:
    """Raises an error if there are classes but not a name for each."""
    check_names("classes", classes or ())
    if classes is not None and len(classes) != num_classes:
        raise ValueError(
            f"classes must have a name for each of the num_classes={num_classes} classes, got {len(classes)} names: "
            f"pass num_classes={len(classes)}, or classes=None"
        )


def check_heads(name: str, dim: int, num_heads: int) -> None:
    """Raises a `ValueError` if a width, the argument `name`, does not divide into heads."""
    if dim % num_heads:
        fitting = [n for n in range(1, dim + 1) if dim % n == 0]
        nearest = min(fitting, key=lambda n: abs(n - num_heads))
        raise ValueError(
            f"{name} must be divisible by num_heads, got {name}={dim} and num_heads={num_heads}: each head gets "
            f"{name} / num_heads channels, so use {nearest} heads, or another width"
        )


def check_divisible(name: str, image_size: tuple[int, ...], patch_size: tuple[int, ...]) -> None:
    """Raises a `ValueError` if an image, the argument `name`, does not divide into whole patches."""
    if any(size % patch for size, patch in zip(image_size, patch_size, strict=True)):
        lower = tuple(max(size // patch, 1) * patch for size, patch in zip(image_size, patch_size, strict=True))
        raise ValueError(
            f"height and width of {name} must be multiples of patch_size, got {image_size[0]} x {image_size[1]} and "
            f"patch_size {patch_size[0]} x {patch_size[1]}: a convolution without padding (VALID) would silently drop "
            "the last partial patch. Resize the image first, for instance with "
            f"jax.image.resize(image, ({lower[0]}, {lower[1]}, channels), 'bilinear')"
        )


def check_image(
    image: Shaped[Array | np.ndarray, "..."], image_size: tuple[int, int] | None, channels: int | None
) -> None:
    """Raises an error that says how to fix an image that does not fit.

    `image_size` and `channels` are what the model was built for; `None` accepts any.
    """
    if image.ndim == 4:
        raise ValueError(
            f"image must be one image (height, width, channels), got shape {image.shape}: batch the model with "
            "jax.vmap(model)(images)"
        )
    if image.ndim != 3:
        raise ValueError(
            f"image must have three axes (height, width, channels), got shape {image.shape}: give a grey image a last "
            "axis with image[..., None]"
        )
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise TypeError(
            f"image must be floating point, got dtype {image.dtype}: scale it first, for instance with "
            "image.astype(jax.numpy.float32) / 255 for 8-bit pixels"
        )
    if channels is not None and image.shape[2] != channels:
        hint = (
            "channels are last, so move them with jax.numpy.moveaxis(image, 0, -1)"
            if image.shape[0] == channels
            else f"convert the image, or build the model with channels={image.shape[2]}"
        )
        raise ValueError(f"image must have {channels} channels, got shape {image.shape}: {hint}")
    if image_size is not None and image.shape[:2] != image_size:
        raise ValueError(
            f"image must be {image_size[0]} x {image_size[1]}, the image_size of the model, got {image.shape[0]} x "
            f"{image.shape[1]}: resize the image with jax.image.resize, or the model with "
            f"model.resized(({image.shape[0]}, {image.shape[1]}))"
        )


def check_finite(image: Shaped[Array | np.ndarray, "*shape"]) -> Shaped[Array, "*shape"]:
    """Returns the image, or raises a `ValueError` if it is not finite; under `jax.jit` when the program runs."""
    image = jnp.asarray(image)
    message = "image must be finite, got NaN or infinity: fix the pixels before the forward pass"
    return check_all(jnp.isfinite(image), image, message)


def check_all(holds: Bool[Array, "..."], value: Shaped[Array, "*shape"], message: str) -> Shaped[Array, "*shape"]:
    """Returns the value, or raises a `ValueError` if the condition is not true everywhere; under `jax.jit` when the
    program runs."""
    all_hold = jnp.all(holds)
    if not isinstance(all_hold, Tracer) and not all_hold:
        raise ValueError(message)
    return cast(Array, eqx.error_if(value, ~all_hold, message))


def join_names(names: Iterable[str]) -> str:
    """Returns `'a', 'b', 'c'`, for messages."""
    return ", ".join(repr(name) for name in names)


def suggest(name: str, known: Iterable[str]) -> str:
    """Returns ` (did you mean 'a'?)` with the known name that is nearest to a wrong one; empty if none is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def list_first(names: Sequence[str], most: int) -> str:
    """Returns `a, b and 3 more` for more than `most` names, and all of fewer."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def describe_value(value: object) -> str:
    """Describes a value by its type, shape and dtype, for messages: printed whole, it may have thousands of lines."""
    from ._explain import describe_value

    return describe_value(value)


def is_jax_array(value: object) -> bool:
    """Whether a value is an array of JAX, whatever its type promises."""
    return isinstance(value, Array)


def describe_result(value: object) -> str:
    """Describes what a part returned by its shape if it is a JAX array, and otherwise as `describe_value` does."""
    return f"shape {value.shape}" if isinstance(value, Array) else describe_value(value)


def warn(message: str) -> None:
    """Warns at the line of the user's code that called vitrail, past what stands between: the wrappers that check
    types, and cached properties."""
    frame = cast(FrameType, inspect.currentframe())
    while frame.f_back is not None and _is_between(str(frame.f_globals.get("__name__"))):
        frame = frame.f_back
    registry = frame.f_globals.setdefault("__warningregistry__", {})
    place = frame.f_code.co_filename, frame.f_lineno, frame.f_globals.get("__name__")
    warnings.warn_explicit(message, UserWarning, *place, registry=registry)


def _is_between(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in _BETWEEN)
