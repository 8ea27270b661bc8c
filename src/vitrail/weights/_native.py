"""Vitrail's own file: safetensors, with the configuration and a digest of each array in its header."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from .._check import listed
from .._extras import require
from .._files import write_whole
from ..model import ViT, ViTConfig

_FORMAT: Final = "1"
_Array = Shaped[np.ndarray, "..."]


class WeightsError(ValueError):
    """A file of weights that is not what it should be. The message names it."""


def save(model: ViT, path: Path | str) -> None:
    """Writes a model to a file: its arrays, its configuration and a digest of each array.

    The file is written next to its place and moved there when it is complete, so that an interruption leaves what was
    there before.

    **Arguments:**

    - `model`: whose parts are those that its configuration names. Exchange parts with `vitrail.replace`, which keeps
        the two in step.
    - `path`: of the file, usually ending in `.safetensors`.

    **Raises:** `ValueError` where the configuration holds code instead of names, or does not describe the model;
    `OSError` where the file cannot be written; `MissingExtraError` where safetensors is not installed.
    """
    numpy_format = require("safetensors.numpy", extra="weights")
    config = model.config.to_json()
    leaves = _arrays(model)
    _check_same(leaves, _arrays(_outline(model.config)), "model", "its configuration", ValueError)
    # safetensors writes the memory as it lies, so that another order than C's would come back scrambled.
    arrays = {name: np.asarray(leaf, order="C") for name, leaf in leaves.items()}
    digests = {name: _digest(array) for name, array in arrays.items()}
    header = {"format": f"vitrail {_FORMAT}", "config": config, "sha256": json.dumps(digests)}

    def write(part: Path) -> None:
        numpy_format.save_file(arrays, part, metadata=header)

    write_whole(Path(path), write)


def load(path: Path | str) -> ViT:
    """Reads a model that `vitrail.save` wrote. Its arrays are the same to the bit.

    **Arguments:**

    - `path`: of the file.

    **Returns:**

    The model, built from the file's configuration: a part of a plugin needs that plugin installed.

    **Raises:** `WeightsError` where the file is not one of these, or is damaged; `UnknownPartError` or `PluginError`
    where a part that it names is not to be had; `OSError` where it cannot be read; `MissingExtraError` where
    safetensors is not installed.
    """
    path = Path(path)
    header, arrays = _read(path)
    config, digests = _header(path, header)
    outline = _outline(config)
    _check_same(arrays, _arrays(outline), str(path), "its configuration", WeightsError)
    for name, array in arrays.items():
        if digests.get(name) != _digest(array):
            raise WeightsError(
                f"{path} is damaged: the array {name!r} is not the one that was saved; get the file again"
            )

    def read(keys: tuple[Any, ...], leaf: object) -> object:
        return jnp.asarray(arrays[_name(keys)]) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf

    return cast(ViT, jax.tree_util.tree_map_with_path(read, outline))


def _outline(config: ViTConfig) -> ViT:
    """The model of a configuration, with shapes and dtypes for its arrays: nothing is drawn."""
    return cast(ViT, eqx.filter_eval_shape(config.build, key=jax.random.key(0)))


def _arrays(model: ViT) -> dict[str, Any]:
    """The arrays of a model by name, such as `encoder.stack.mlp.out.weight`."""
    leaves = cast("list[tuple[Any, Any]]", jax.tree_util.tree_leaves_with_path(model))
    return {_name(keys): leaf for keys, leaf in leaves if eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)}


def _name(keys: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(keys, simple=True, separator=".")


def _digest(array: _Array) -> str:
    return hashlib.sha256(cast(Any, array.reshape(-1).view(np.uint8))).hexdigest()


def _read(path: Path) -> tuple[dict[str, str], dict[str, _Array]]:
    safetensors = require("safetensors", extra="weights")
    if path.is_dir():
        raise WeightsError(f"{path} must be a file, but it is a folder")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise WeightsError(f"{path} must be a safetensors file, but it cannot be read as one: {error}") from error


def _header(path: Path, header: Mapping[str, str]) -> tuple[ViTConfig, dict[str, str]]:
    """The configuration, and the digests of the arrays."""
    version = header.get("format", "")
    if not version.startswith("vitrail ") or not header.keys() >= {"config", "sha256"}:
        raise WeightsError(f"{path} must be a file that vitrail.save wrote, but its header does not say so")
    if version != f"vitrail {_FORMAT}":
        raise WeightsError(
            f"{path} must be of the format 'vitrail {_FORMAT}', but it is of {version!r}: read it with the vitrail "
            "that wrote it"
        )
    try:
        digests: object = json.loads(header["sha256"])
        if not isinstance(digests, dict):
            raise ValueError(f"the digests must be a JSON object, but they are {digests!r}")
        return ViTConfig.from_json(header["config"]), cast("dict[str, str]", digests)
    except (ValueError, TypeError) as error:
        raise WeightsError(f"{path} has a header that this vitrail does not understand: {error}") from error


def _check_same(
    arrays: Mapping[str, Any], expected: Mapping[str, Any], who: str, whose: str, error: type[ValueError]
) -> None:
    """Raises an error where the arrays have not the names, shapes and dtypes that are expected."""
    if missing := expected.keys() - arrays.keys():
        raise error(f"{who} lacks the arrays {listed(sorted(missing))} that {whose} asks for")
    if unknown := arrays.keys() - expected.keys():
        raise error(f"{who} has the arrays {listed(sorted(unknown))} that {whose} does not know")
    for name, array in arrays.items():
        came, wanted = (f"{a.dtype}{list(a.shape)}" for a in (array, expected[name]))
        if came != wanted:
            raise error(f"{who} has {name!r} as {came}, but {whose} asks for {wanted}")
