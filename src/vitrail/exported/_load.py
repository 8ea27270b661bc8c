"""Loads an exported model."""

from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast, final

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Shaped

from .._check import join_names
from .._extras import MissingExtraError, require
from ._card import CARD, ArraySpec, ExportCard, ExportError, FunctionCard, digest_file
from ._onnx import open_onnx

Outputs = Shaped[Array, "..."] | tuple[Shaped[Array, "..."], ...]
"""What an exported function returns: its output, or several."""


@final
class ExportedFunction:
    """A function of an exported model: a program, and its weights."""

    def __init__(self, card: FunctionCard, run: Callable[..., Any], weights: tuple[Shaped[Array, "..."], ...]):
        """**Arguments:**

        - `card`: what it takes and returns.
        - `run`: the program.
        - `weights`: the weights, which the program takes first; empty if they are in its file, or if it reads them
            itself.
        """
        self.card = card
        self._run = run
        self._weights = weights

    def __repr__(self) -> str:
        taken, given = (", ".join(map(str, specs)) for specs in (self.card.inputs, self.card.outputs))
        return f"<ExportedFunction: ({taken}) -> ({given})>"

    def __call__(self, *arrays: Shaped[Array | np.ndarray, "..."]) -> Outputs:
        """Runs the function.

        **Arguments:**

        - `arrays`: the inputs, with the names, shapes and dtypes of `card.inputs`, in that order. JAX compiles each
            batch size once.

        **Returns:**

        The output that `card.outputs` describes; a tuple if there are several.

        **Raises:** `ValueError` or `TypeError` if the inputs do not fit the card; `ExportError` if this JAX cannot run
        the program; what onnxruntime raises.
        """
        _check_arrays(self.card.inputs, arrays)
        outputs = self._run(*self._weights, *arrays)
        return outputs[0] if len(self.card.outputs) == 1 else tuple(outputs)


@final
class Exported:
    """A model that `vitrail.export` wrote. It needs none of vitrail's model code."""

    def __init__(self, card: ExportCard, functions: Mapping[str, ExportedFunction]):
        """**Arguments:**

        - `card`: what it is.
        - `functions`: its functions by name.
        """
        self.card = card
        self.functions: Mapping[str, ExportedFunction] = MappingProxyType(dict(functions))

    def __repr__(self) -> str:
        lines = "".join(f"\n  {name}: {function!r}" for name, function in self.functions.items())
        return f"<Exported {self.card.kind}, of {', '.join(self.card.platforms)}:{lines}>"

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The names of the classes, one for each logit; `None` if they are not known."""
        return self.card.classes

    def __call__(self, *arrays: Shaped[Array | np.ndarray, "..."]) -> Outputs:
        """Runs the first of the functions: the only one, or the one that takes images.

        **Arguments:**

        - `arrays`: its inputs, for a classifier a batch of images, `(batch, height, width, channels)`.

        **Returns:**

        Its output; a tuple if there are several.

        **Raises:** what the function raises.
        """
        return next(iter(self.functions.values()))(*arrays)

    def preprocess(self, picture: object) -> Float32[np.ndarray, "height width channels"]:
        """Prepares a picture for the model, as [`Preprocess`][vitrail.Preprocess] does.

        **Arguments:**

        - `picture`: a Pillow picture, or a NumPy array of uint8 or uint16.

        **Returns:**

        The normalised pixels of the size of the model, an array of NumPy. Stack several for a batch.

        **Raises:** `ValueError` if it is not known how the model needs its pictures; what `Preprocess` raises.
        """
        if self.card.preprocess is None:
            raise ValueError(
                "preprocess is not known for this model: set it with vitrail.replace(model, preprocess=...) and export "
                "the model again"
            )
        return self.card.preprocess(picture, self.card.image_size)


def load_exported(folder: Path | str) -> Exported:
    """Loads a model that `vitrail.export` wrote.

    It imports no code of models. `from vitrail.exported import load_exported` needs jax, equinox, jaxtyping, beartype
    and numpy, the extra `export` (for ONNX, onnxruntime in its place), and Pillow to prepare pictures.

    !!! example

        ```python
        model = vitrail.load_exported("out")
        logits = model(model.preprocess(PIL.Image.open("cat.jpg"))[None])
        model.classes[int(logits[0].argmax())]
        ```

    **Arguments:**

    - `folder`: the folder.

    **Returns:**

    A function of a batch, with `functions` by name where there are several (the towers of CLIP, the encoder and the
    decoder of SAM), `preprocess` and `classes`.

    **Raises:** `ExportError` if a file is missing, cut off or changed, or was written by a JAX
    that is too new for this one, or for a newer onnxruntime; `MissingExtraError` if flatbuffers or onnxruntime is not
    installed.
    """
    folder = Path(folder)
    if not (folder / CARD).is_file():
        raise ExportError(f"folder must be what vitrail.export wrote, got {folder}, which has no {CARD}")
    card = ExportCard.read(folder / CARD)
    for function in card.functions.values():
        _check_files(folder, function)
    load = _load_onnx if card.format == "onnx" else _load_stablehlo
    return Exported(card, {name: load(folder, card, one) for name, one in card.functions.items()})


def _check_files(folder: Path, card: FunctionCard) -> None:
    for name, digest in card.digests.items():
        path = folder / name
        if not path.is_file():
            raise ExportError(f"{path} is not there, but {CARD} names it: copy the whole folder, or export again")
        size, expected = path.stat().st_size, card.sizes[name]
        if size != expected:
            raise ExportError(f"{path} must have {expected:,} bytes, got {size:,}: copy it again, or export again")
        if digest_file(path) != digest:
            raise ExportError(f"{path} has changed since vitrail.export wrote it: copy it again, or export again")


def _load_onnx(folder: Path, card: ExportCard, function: FunctionCard) -> ExportedFunction:
    path = folder / function.file
    try:
        run = open_onnx(path, [spec.name for spec in function.inputs])
    except MissingExtraError:
        raise
    except Exception as error:  # onnxruntime has many kinds
        raise _blame_version(path, card, "onnxruntime", error) from error
    return ExportedFunction(function, run, ())


def _load_stablehlo(folder: Path, card: ExportCard, function: FunctionCard) -> ExportedFunction:
    require("flatbuffers", extra="export")
    path = folder / function.file
    try:
        program = jax.export.deserialize(bytearray(path.read_bytes()))
        run = jax.jit(program.call)
    except Exception as error:  # flatbuffers and XLA raise nearly anything
        raise _blame_version(path, card, "jax", error) from error
    platform = jax.default_backend()
    known = {"gpu": "cuda"}.get(platform, platform)
    if known not in card.platforms:
        raise ExportError(f"{path} runs on {join_names(card.platforms)}, got JAX on {known!r}: run it on one of these")

    def call(*arrays: Any) -> Any:
        try:
            return cast(Any, run(*arrays))
        except Exception as error:
            if card.versions["jax"] == jax.__version__:
                raise
            raise _blame_version(path, card, "jax", error) from error

    weights = read_weights(None if function.weights is None else folder / function.weights)
    return ExportedFunction(function, call, weights)


def read_weights(path: Path | None) -> tuple[Array, ...]:
    """The weights that lie beside a program, in the order in which it takes them; none for no path."""
    if path is None:
        return ()
    with np.load(path) as arrays:
        return tuple(jnp.asarray(arrays[name]) for name in arrays.files)


def _blame_version(
    path: Path, card: ExportCard, library: Literal["jax", "onnxruntime"], error: Exception
) -> ExportError:
    first = (str(error) or type(error).__name__).splitlines()[0]
    name, written = library.replace("jax", "JAX"), card.versions[library]
    return ExportError(
        f"{path} was written with {name} {written} and {name} {version(library)} cannot run it ({first}): install "
        f"{name} {written} or newer, or export the model again with this one"
    )


def _check_arrays(specs: tuple[ArraySpec, ...], arrays: tuple[Shaped[Array | np.ndarray, "..."], ...]) -> None:
    if len(arrays) != len(specs):
        raise ValueError(
            f"the function takes {len(specs)} arrays ({'; '.join(map(str, specs))}), got {len(arrays)}: pass them in "
            "this order"
        )
    known: dict[str, int] = {}
    for spec, array in zip(specs, arrays, strict=True):
        if str(array.dtype) != spec.dtype:
            raise TypeError(
                f"{spec.name} must have dtype {spec.dtype}, got {array.dtype}: convert it with "
                f"{spec.name}.astype('{spec.dtype}')"
            )
        if not _fits(spec, array.shape, known):
            raise ValueError(_explain_shape(spec, array.shape, known))
        known |= {axis: length for axis, length in _pair(spec, array.shape) if isinstance(axis, str)}


def _pair(spec: ArraySpec, shape: tuple[int, ...]) -> list[tuple[int | str, int]]:
    """The axes that a card has, and the lengths that an array has; none if it has another number of axes."""
    return list(zip(spec.shape, shape, strict=True)) if len(shape) == len(spec.shape) else []


def _fits(spec: ArraySpec, shape: tuple[int, ...], known: Mapping[str, int]) -> bool:
    """Whether an array has the shape of a card, where the lengths of some named axes are known."""
    return len(shape) == len(spec.shape) and all(
        length == axis if isinstance(axis, int) else 0 < length == known.get(axis, length)
        for axis, length in _pair(spec, shape)
    )


def _explain_shape(spec: ArraySpec, shape: tuple[int, ...], known: Mapping[str, int]) -> str:
    empty = [axis for axis, length in _pair(spec, shape) if isinstance(axis, str) and length == 0]
    if empty:
        what = "one example in its batch" if empty[0] == "batch" else f"one of its {empty[0]}"
        return f"{spec.name} must have at least {what}, got shape {shape}"
    said = f"{spec.name} must have shape ({', '.join(map(str, spec.shape))})"
    others = [str(axis) for axis, length in _pair(spec, shape) if known.get(str(axis), length) != length]
    where = ", ".join(f"{axis} is {known[axis]}" for axis in others)
    advice: dict[tuple[int, ...], str] = {(1, *shape): ": pass a single one as array[None]"}
    if len(spec.shape) == 4:  # images, and maps of features
        for given, hint in (
            (shape, ": move the channels last"),
            ((1, *shape), ": move the channels last, and pass a single one as array[None]"),
        ):
            advice[(*given[:1], *given[2:], *given[1:2])] = hint
    hint = next((hint for given, hint in advice.items() if _fits(spec, given, {})), "")
    return f"{said}{f', where {where}' if where else ''}, got {shape}{hint}"
