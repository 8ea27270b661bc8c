"""Vitrail's own file: safetensors, with the configuration and a digest of each array in its header."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

import equinox as eqx
import jax
import numpy as np

from .._check import listed
from .._extras import require
from .._files import write_whole
from ..model import ViT, ViTConfig
from ._errors import CheckpointError
from ._source import AbstractSource, NumpyArray, TensorInfo

_FORMAT: Final = "1"


def write_native(model: ViT, path: Path) -> None:
    """Writes a model with its configuration and a digest of each array."""
    config = model.config.to_json()
    leaves = arrays_of(model)
    _check_same(leaves, arrays_of(outline(model.config)), "model", "its configuration", ValueError)
    arrays = {name: np.asarray(leaf) for name, leaf in leaves.items()}
    digests = {name: _digest(array) for name, array in arrays.items()}
    write_arrays(arrays, path, {"format": f"vitrail {_FORMAT}", "config": config, "sha256": json.dumps(digests)})


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
    model = outline(config)
    there = {n: TensorInfo(_DTYPES.get(i.dtype, i.dtype), i.shape) for n, i in source.tensors.items()}
    _check_same(there, arrays_of(model), str(path), "its configuration", CheckpointError)

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


def outline(config: ViTConfig) -> ViT:
    """The model of a configuration, with shapes and dtypes for its arrays: nothing is drawn."""
    return cast(ViT, eqx.filter_eval_shape(config.build, key=jax.random.key(0)))


def arrays_of(model: ViT) -> dict[str, Any]:
    """The arrays of a model by name, such as `encoder.stack.mlp.out.weight`."""
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


def header_of(source: AbstractSource) -> tuple[ViTConfig, dict[str, str]]:
    """The configuration, and the digests of the arrays."""
    path, header = source.path, source.metadata
    if header["format"] != f"vitrail {_FORMAT}":
        raise CheckpointError(
            f"{path} must be of the format 'vitrail {_FORMAT}', but it is of {header['format']!r}: read it with the "
            "vitrail that wrote it"
        )
    if not header.keys() >= {"config", "sha256"}:
        raise CheckpointError(f"{path} must have a configuration and digests in its header, but it has not")
    try:
        digests: object = json.loads(header["sha256"])
        if not isinstance(digests, dict):
            raise ValueError(f"the digests must be a JSON object, but they are {digests!r}")
        return ViTConfig.from_json(header["config"]), cast("dict[str, str]", digests)
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} has a header that this vitrail does not understand: {error}") from error


_DTYPES: Final[Mapping[str, str]] = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64"}


def _check_same(
    arrays: Mapping[str, Any], expected: Mapping[str, Any], who: str, whose: str, error: type[ValueError]
) -> None:
    """Raises an error where the arrays have not the names, shapes and dtypes that are expected."""
    if missing := expected.keys() - arrays.keys():
        raise error(f"{who} lacks the arrays {listed(sorted(missing))} that {whose} asks for")
    if unknown := arrays.keys() - expected.keys():
        raise error(f"{who} has the arrays {listed(sorted(unknown))} that {whose} does not know")
    for name, array in arrays.items():
        came, wanted = (_said(a) for a in (array, expected[name]))
        if came != wanted:
            raise error(f"{who} has {name!r} as {came}, but {whose} asks for {wanted}")


def _said(array: Any) -> str:
    return f"{array.dtype}{list(array.shape)}"
