"""The card beside an exported model: what its functions take and return, and how pictures are prepared."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast

from .._check import join_names
from .._files import is_file_name, read_object
from ..images import Preprocess

ExportFormat = Literal["stablehlo", "onnx"]
"""The formats of exported models."""
CARD: Final = "card.json"
"""The name of the card in its folder."""


class ExportError(Exception):
    """An exported model cannot be loaded or run."""


@dataclass(frozen=True)
class ArraySpec:
    """An input or an output of an exported function."""

    name: str
    """The name."""
    shape: tuple[int | str, ...]
    """The length of each axis. A name such as `batch` stands for any length of at least one."""
    dtype: str
    """The dtype, such as `float32`."""

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype} ({', '.join(map(str, self.shape))})"


@dataclass(frozen=True)
class FunctionCard:
    """A function of an exported model, and the files that hold it."""

    inputs: tuple[ArraySpec, ...]
    """The arrays that it takes, in order."""
    outputs: tuple[ArraySpec, ...]
    """The arrays that it returns, in order."""
    file: str
    """The file with the program."""
    weights: str | None
    """The file with the weights; `None` if they are within the program."""
    digests: Mapping[str, str]
    """The SHA-256 of each file."""
    sizes: Mapping[str, int]
    """The bytes of each file."""
    difference: float
    """The largest difference between its outputs and those of the model, relative to the largest number of each output,
    measured when it was exported."""


@dataclass(frozen=True)
class ExportCard:
    """The description of an exported model, which is saved as `card.json`."""

    format: ExportFormat
    """The format of its files."""
    kind: str
    """The kind of the model: `vit`, or a system such as `image_text`."""
    functions: Mapping[str, FunctionCard]
    """Its functions by name."""
    image_size: tuple[int, int]
    """Height and width of the images in pixels."""
    channels: int
    """The number of channels of the images."""
    compute_dtype: str
    """The dtype of the computation. Inputs and outputs are float32 in any case."""
    preprocess: Preprocess | None
    """How pictures are prepared; `None` if it is not known."""
    classes: tuple[str, ...] | None
    """The names of the classes; `None` if they are not known."""
    constants: Mapping[str, float]
    """Numbers that belong to the outputs: for images and texts, `scale` and `bias` of their similarity."""
    platforms: tuple[str, ...]
    """What the programs run on: platforms of JAX, or `onnxruntime`."""
    versions: Mapping[str, str]
    """The versions of the libraries that wrote the files."""

    def to_json(self) -> str:
        """Writes the card as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @staticmethod
    def read(path: Path) -> "ExportCard":
        """Reads a card.

        **Raises:** `ExportError` if it is not one; `OSError` if there is none.
        """
        try:
            return _parse_card(read_object(path))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            problem = f"a file without {error}" if isinstance(error, KeyError) else f"an error: {error}"
            raise ExportError(
                f"{path} must be the card that vitrail.export wrote, got {problem}. Export the model again"
            ) from error


def _parse_card(found: Mapping[str, Any]) -> ExportCard:
    preprocess, classes = found["preprocess"], found["classes"]
    values: dict[str, Any] = {
        **found,
        "functions": {name: _parse_function(card) for name, card in found["functions"].items()},
        "image_size": tuple(found["image_size"]),
        "preprocess": None if preprocess is None else Preprocess(**_make_tuples(preprocess)),
        "classes": None if classes is None else tuple(classes),
        "platforms": tuple(found["platforms"]),
    }
    return ExportCard(**values)


def _parse_function(card: Mapping[str, Any]) -> FunctionCard:
    specs = {kind: tuple(ArraySpec(**_make_tuples(spec)) for spec in card[kind]) for kind in ("inputs", "outputs")}
    values: dict[str, Any] = {**card, **specs}
    function = FunctionCard(**values)
    names = {function.file} if function.weights is None else {function.file, function.weights}
    if wrong := [name for name in (*names, *function.digests) if not is_file_name(name)]:
        raise ValueError(f"a function must have its files in the folder of the card, got {wrong[0]!r}")
    if not names == {*function.digests} == {*function.sizes}:
        raise ValueError(f"a function must have a digest and a size of each of its files, {join_names(sorted(names))}")
    return function


def _make_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: tuple(cast("list[Any]", value)) if isinstance(value, list) else value for name, value in values.items()
    }


def digest_file(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
