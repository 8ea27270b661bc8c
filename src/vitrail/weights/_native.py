"""Vitrail's own file: safetensors, with the configuration and a digest of each array in its header."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import equinox as eqx
import jax
import numpy as np

from .._check import join_names
from ..model import Backbone, list_plugins
from ..nn import Dropout, Execution, digest_array, list_arrays
from ._configuration import (
    Configuration,
    Configured,
    Shardings,
    fill_outline,
    make_outline,
    name_kind,
    parse_configuration,
)
from ._errors import CheckpointError, blame_file, shorten_error
from .formats import AbstractSource, NumpyArray, TensorInfo, write_safetensors

_FORMAT: Final = "vitrail 2"
ADAPTERS: Final = "vitrail adapters 1"
"""The format of a file of `save_adapters`."""
_COVERED: Final = ("kind", "config", "plugins", "sha256")
"""What the digest of the header covers."""
_DTYPES: Final[Mapping[str, str]] = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64"}


@dataclass(frozen=True)
class Difference:
    """How arrays differ from those of a configuration."""

    missing: list[str]
    """The names of arrays that the configuration has and that are not there."""
    unknown: list[str]
    """The names of arrays that are there and that the configuration does not have."""
    wrong: list[str]
    """Which shapes and dtypes differ, in words."""


def write_native(model: Configured, path: Path, licence: str | None = None) -> None:
    """Writes a model with its configuration, a digest of each array, a digest of the header, and its licence if that is
    known.

    **Raises:** `ValueError` if the configuration does not describe the model, or holds code.
    """
    header = {"format": _FORMAT, "kind": name_kind(model.config), "config": model.config.to_json()}
    arrays, outline = list_arrays(model), make_outline(model.config)
    _check_same("model", arrays, list_arrays(outline), ValueError)
    ours, theirs = (cast(object, eqx.filter_eval_shape(_reset_unsaved, tree)) for tree in (model, outline))
    if jax.tree.structure(ours) != jax.tree.structure(theirs):
        raise ValueError(
            "model has a part or a setting that its configuration does not describe, so another model would be loaded: "
            "change parts with vitrail.replace, which updates the configuration"
        )
    written = {name: np.asarray(array) for name, array in arrays.items()}
    header["plugins"] = json.dumps(list_plugins(model.config))
    header["sha256"] = json.dumps({name: digest_array(array) for name, array in written.items()})
    more = {} if licence is None else {"license": licence}
    write_safetensors(written, path, header | {"header_sha256": _digest_header(header)} | more)


def _reset_unsaved(tree: object) -> object:
    """Gives every backbone in a PyTree the defaults of what is never saved, so that structures can be compared."""

    def is_backbone(node: object) -> bool:
        return isinstance(node, Backbone)

    def reset(node: object) -> object:
        if not isinstance(node, Backbone):
            return node
        return dataclasses.replace(node, execution=Execution(), dropout=Dropout())

    return cast(object, jax.tree.map(reset, tree, is_leaf=is_backbone))


def is_native(source: AbstractSource) -> bool:
    """Whether vitrail wrote the file, in any version."""
    return source.metadata.get("format", "").startswith("vitrail ")


def check_no_overrides(layout: object, config: object, prefix: object) -> None:
    """Raises a `ValueError` if a file of vitrail's own is given a layout, a configuration or a prefix."""
    if layout is not None or config is not None or prefix is not None:
        raise ValueError(
            "layout, config and prefix must be None for a file of vitrail's own, which has its configuration"
        )


def read_native(source: AbstractSource, shardings: Shardings | None = None) -> Configured:
    """Reads the model of a file that `write_native` wrote."""
    path = source.path
    config, digests = read_header(source)
    with blame_file(path, read_plugins(source)):
        outline = make_outline(config)
    _check_same(str(path), name_dtypes(source.tensors), list_arrays(outline), CheckpointError)

    def read(name: str, leaf: jax.ShapeDtypeStruct) -> NumpyArray:
        array = source.read(name)
        if digests.get(name) != digest_array(array):
            raise CheckpointError(f"{path} is damaged: the array {name!r} differs from what was saved")
        return array

    return fill_outline(outline, read, shardings)


def read_header(source: AbstractSource) -> tuple[Configuration, dict[str, str]]:
    """Reads the configuration and the digests of the arrays."""
    path, header = source.path, source.metadata
    if header["format"] == ADAPTERS:
        raise CheckpointError(f"{path} holds adapters alone: load their model, then vitrail.load_adapters(model, path)")
    if header["format"] != _FORMAT:
        raise CheckpointError(
            f"{path} must have the format {_FORMAT!r}, got {header['format']!r}: read it with the vitrail that wrote it"
        )
    if not header.keys() >= {*_COVERED, "header_sha256"}:
        raise CheckpointError(f"{path} must have {join_names((*_COVERED, 'header_sha256'))} in its header")
    if header["header_sha256"] != _digest_header(header):
        raise CheckpointError(f"{path} is damaged: its header differs from what was saved")
    try:
        digests: object = json.loads(header["sha256"])
        if not isinstance(digests, dict):
            raise ValueError(f"the digests must be a JSON object, got {digests!r}")
        return parse_configuration(header["kind"], header["config"]), cast("dict[str, str]", digests)
    except (ValueError, TypeError, ArithmeticError, LookupError, RecursionError) as error:
        raise CheckpointError(f"{path} has a header that this vitrail cannot read: {shorten_error(error)}") from error


def read_plugins(source: AbstractSource) -> dict[str, str]:
    """Reads which parts other packages provided when the file was written: each part in words, and its package."""
    found: object = json.loads(source.metadata["plugins"])
    return cast("dict[str, str]", found) if isinstance(found, dict) else {}


def name_dtypes(tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """The tensors of a file with the names that JAX gives to their dtypes."""
    return {name: TensorInfo(_DTYPES.get(i.dtype, i.dtype), i.shape) for name, i in tensors.items()}


def compare_arrays(arrays: Mapping[str, Any], expected: Mapping[str, Any]) -> Difference:
    """Compares names, shapes and dtypes with those of a configuration."""
    both = {name: (_describe(arrays[name]), _describe(expected[name])) for name in arrays if name in expected}
    return Difference(
        missing=sorted(expected.keys() - arrays.keys()),
        unknown=sorted(arrays.keys() - expected.keys()),
        wrong=[f"{n!r} as {got}, but its configuration needs {need}" for n, (got, need) in both.items() if got != need],
    )


def _check_same(who: str, arrays: Mapping[str, Any], expected: Mapping[str, Any], error: type[ValueError]) -> None:
    """Raises an error if the arrays are not those of a configuration."""
    found = compare_arrays(arrays, expected)
    if found.missing:
        raise error(f"{who} lacks the arrays {join_names(found.missing)} of its configuration")
    if found.unknown:
        raise error(f"{who} has the arrays {join_names(found.unknown)}, which its configuration does not have")
    if found.wrong:
        raise error(f"{who} has {found.wrong[0]}")


def _describe(array: Any) -> str:
    return f"{array.dtype}{list(array.shape)}"


def _digest_header(header: Mapping[str, str]) -> str:
    text = json.dumps([header[name] for name in _COVERED])
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
