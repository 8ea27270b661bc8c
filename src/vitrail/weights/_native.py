"""Vitrail's own file: safetensors, with the configuration and a digest of each array in its header."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import equinox as eqx
import jax
import numpy as np

from .._check import listed
from .._extras import require
from .._files import write_whole
from ..model import ViT, ViTConfig
from ._errors import CheckpointError, describing, in_short
from ._source import AbstractSource, NumpyArray, TensorInfo

_FORMAT: Final = "1"


def write_native(model: ViT, path: Path) -> None:
    """Writes a model with its configuration, a digest of each array, and one of these two."""
    config = model.config.to_json()
    leaves = arrays_of(model)
    _check_same(leaves, arrays_of(outline(model.config)), "model", "its configuration", ValueError)
    arrays = {name: np.asarray(leaf) for name, leaf in leaves.items()}
    digests = json.dumps({name: _digest(array) for name, array in arrays.items()})
    header = {"format": f"vitrail {_FORMAT}", "config": config, "sha256": digests}
    write_arrays(arrays, path, header | {"header_sha256": _header_digest(header)})


def write_arrays(arrays: Mapping[str, NumpyArray], path: Path, metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file, whole or not at all."""
    numpy_format = require("safetensors.numpy", extra="weights")
    # safetensors writes the memory as it lies, so that another order than C's would come back scrambled.
    in_order = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    write_whole(path, lambda part: numpy_format.save_file(in_order, part, metadata=dict(metadata)))


def is_native(source: AbstractSource) -> bool:
    """Whether vitrail wrote the file, whichever version of it."""
    return source.metadata.get("format", "").startswith("vitrail ")


def read_native(source: AbstractSource) -> ViT:
    """The model of a file that `write_native` wrote."""
    path = source.path
    config, digests = header_of(source)
    with describing(path):
        model = outline(config)
    _check_same(named_as_jax(source.tensors), arrays_of(model), str(path), "its configuration", CheckpointError)

    def read(keys: tuple[Any, ...], leaf: object) -> object:
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        name = name_of(keys)
        array = source.read(name)
        if digests.get(name) != _digest(array):
            raise CheckpointError(
                f"{path} is damaged: the array {name!r} is not the one that was saved; get the file again"
            )
        return jax.device_put(array)

    return cast(ViT, jax.tree_util.tree_map_with_path(read, model))


def named_as_jax(tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """What a file has, with JAX's names of the dtypes."""
    return {name: TensorInfo(_DTYPES.get(i.dtype, i.dtype), i.shape) for name, i in tensors.items()}


def check_no_overrides(layout: str | None, config: object) -> None:
    """Raises a `ValueError` where a file of vitrail's own is to be another thing than it says."""
    if layout is not None or config is not None:
        raise ValueError("layout and config must be left out for a file of vitrail's own, which says what it is")


def outline(config: ViTConfig) -> ViT:
    """The model of a configuration, with shapes and dtypes for its arrays: nothing is drawn."""
    return cast(ViT, eqx.filter_eval_shape(config.build, key=jax.random.key(0)))


def arrays_of(model: eqx.Module) -> dict[str, Any]:
    """The arrays of a model, or a part of it, by name, such as `encoder.stack.mlp.out.weight`."""
    leaves = cast("list[tuple[Any, Any]]", jax.tree_util.tree_leaves_with_path(model))
    return {
        name_of(keys): leaf for keys, leaf in leaves if eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)
    }


def name_of(keys: tuple[Any, ...]) -> str:
    """The name of an array by its place in the tree."""
    return jax.tree_util.keystr(keys, simple=True, separator=".")


def _digest(array: NumpyArray) -> str:
    in_order = np.asarray(array, order="C")
    return hashlib.sha256(cast(Any, in_order.reshape(-1).view(np.uint8))).hexdigest()


def _header_digest(header: Mapping[str, str]) -> str:
    text = json.dumps([header["config"], header["sha256"]])
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def header_of(source: AbstractSource) -> tuple[ViTConfig, dict[str, str]]:
    """The configuration, and the digests of the arrays."""
    path, header = source.path, source.metadata
    if header["format"] != f"vitrail {_FORMAT}":
        raise CheckpointError(
            f"{path} must be of the format 'vitrail {_FORMAT}', but it is of {header['format']!r}: read it with the "
            "vitrail that wrote it"
        )
    if not header.keys() >= {"config", "sha256", "header_sha256"}:
        raise CheckpointError(f"{path} must have a configuration and digests in its header, but it has not")
    if header["header_sha256"] != _header_digest(header):
        raise CheckpointError(f"{path} is damaged: its header is not the one that was saved; get the file again")
    try:
        digests: object = json.loads(header["sha256"])
        if not isinstance(digests, dict):
            raise ValueError(f"the digests must be a JSON object, but they are {digests!r}")
        return ViTConfig.from_json(header["config"]), cast("dict[str, str]", digests)
    except (ValueError, TypeError, ArithmeticError, LookupError, RecursionError) as error:
        raise CheckpointError(
            f"{path} has a header that this vitrail does not understand: {in_short(error)}"
        ) from error


_DTYPES: Final[Mapping[str, str]] = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64"}


@dataclass(frozen=True)
class Difference:
    """How arrays differ from those that are expected."""

    missing: list[str]
    """The names of those that are expected and not there."""
    unknown: list[str]
    """The names of those that are there and not expected."""
    wrong: list[str]
    """Sentences on other shapes and dtypes."""


def difference(arrays: Mapping[str, Any], expected: Mapping[str, Any], whose: str = "its configuration") -> Difference:
    """Compares names, shapes and dtypes with those that `whose` asks for."""
    said = {n: (_said(arrays[n]), _said(expected[n])) for n in arrays if n in expected}
    return Difference(
        missing=sorted(expected.keys() - arrays.keys()),
        unknown=sorted(arrays.keys() - expected.keys()),
        wrong=[
            f"{n!r} as {came}, but {whose} asks for {wanted}" for n, (came, wanted) in said.items() if came != wanted
        ],
    )


def _check_same(
    arrays: Mapping[str, Any], expected: Mapping[str, Any], who: str, whose: str, error: type[ValueError]
) -> None:
    """Raises an error where the arrays have not the names, shapes and dtypes that are expected."""
    found = difference(arrays, expected, whose)
    if found.missing:
        raise error(f"{who} lacks the arrays {listed(found.missing)} that {whose} asks for")
    if found.unknown:
        raise error(f"{who} has the arrays {listed(found.unknown)} that {whose} does not know")
    if found.wrong:
        raise error(f"{who} has {found.wrong[0]}")


def _said(array: Any) -> str:
    return f"{array.dtype}{list(array.shape)}"
