"""Saves and loads the adapters of a model, apart from its weights."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import jax
import numpy as np
from jaxtyping import Array

from .._check import check_names, join_names
from ..model import attach_adapters, has_adapters, remove_adapters, remove_readouts
from ..nn import Adapter, digest_array, is_in_part, list_arrays, name_leaf
from ._errors import CheckpointError
from ._native import ADAPTERS, name_dtypes
from .formats import AbstractSource, TensorInfo, open_source, write_safetensors

M = TypeVar("M")
_SETTINGS: Final = "adapters"
_DIGEST: Final = "adapters_sha256"


@dataclass(frozen=True)
class _Settings:
    """What the header of a file says."""

    rank: int
    alpha: float
    targets: list[str]
    also: tuple[str, ...]
    backbone: str
    sha256: dict[str, str]


def save_adapters(model: object, path: Path | str, *, also: tuple[str, ...] = ()) -> None:
    """Saves the adapters of a model in a small file, with a digest of the weights that they belong to.

    !!! example

        ```python
        vitrail.save_adapters(model, "flowers.safetensors", also=("readout",))
        backbone = vitrail.replace(backbone, num_classes=5, key=key)
        model = vitrail.load_adapters(backbone, "flowers.safetensors")
        ```

    **Arguments:**

    - `model`: a model with adapters.
    - `path`: a file, usually ending in `.safetensors`, which is written as by `vitrail.save`.
    - `also`: the parts that are saved beside the adapters because they were trained too, by the names of fields, as in
        `Recipe.train`: `("readout",)`.

    **Raises:** `ValueError` if the model has no adapters, adapters of several ranks or values of `alpha`, or no part of
    a name; `OSError` if the file cannot be written; `MissingExtraError` if safetensors is not installed.
    """
    check_names("also", also)
    adapters = _list_adapters(model)
    if not adapters:
        raise ValueError("model must have adapters to save, got one without: make them with vitrail.lora")
    kinds = {(adapter.a.shape[-2], adapter.alpha) for adapter in adapters.values()}
    if len(kinds) > 1:
        raise ValueError(f"model must have adapters of one rank and alpha, got {sorted(kinds)}: save each tower apart")
    (rank, alpha), plain = kinds.pop(), list_arrays(remove_adapters(model))
    if unknown := [part for part in also if not any(is_in_part(name, part) for name in plain)]:
        raise ValueError(f"also must name parts of the model, got {unknown[0]!r}: its arrays are {join_names(plain)}")
    arrays = {f"{name}.{field}": getattr(adapter, field) for name, adapter in adapters.items() for field in ("a", "b")}
    arrays |= {name: array for name, array in plain.items() if any(is_in_part(name, part) for part in also)}
    written = {name: np.asarray(array) for name, array in arrays.items()}
    targets, digests = {name.rpartition(".")[2] for name in adapters}, {n: digest_array(a) for n, a in written.items()}
    settings = _Settings(rank, alpha, sorted(targets), also, _digest_backbone(model, also), digests)
    header = json.dumps(dataclasses.asdict(settings))
    metadata = {"format": ADAPTERS, _SETTINGS: header, _DIGEST: _digest(header)}
    write_safetensors(written, Path(path), metadata)


def load_adapters(model: M, path: Path | str) -> M:
    """Puts the adapters of a file into the model that they belong to.

    **Arguments:**

    - `model`: the model as it was before `vitrail.lora`. The parts that were saved with `also` may have other weights.
        If the file has no pool and head, those of the model may differ.
    - `path`: a file of `save_adapters`.

    **Returns:**

    The model with the adapters, and with the parts of the file.

    **Raises:** `CheckpointError` if the file is damaged, has no adapters, or belongs to a model with other weights;
    `ValueError` if the model has adapters already; `OSError` if the file cannot be read.
    """
    if has_adapters(model):
        raise ValueError("model must be without adapters, got one that has: merge them first with vitrail.merge(model)")
    with open_source(Path(path)) as source:
        settings = _read_settings(source)
        also, unread = settings.also, dict.fromkeys(source.tensors)

        def read(name: str, shape: tuple[int, ...], dtype: Any) -> Array:
            unread.pop(name, None)
            need, got = TensorInfo(str(dtype), shape), name_dtypes(source.tensors).get(name)
            if got != need:
                raise CheckpointError(f"{path} must have {name!r} as {need} for this model, got {got}")
            array = source.read(name)
            if digest_array(array) != settings.sha256.get(name):
                raise CheckpointError(f"{path} is damaged: the array {name!r} differs from what was saved")
            return jax.device_put(array)

        def make(name: str, rows: jax.ShapeDtypeStruct, start: int) -> Adapter | None:
            if f"{name}.a" not in source.tensors:
                return None
            *blocks, out_dim, in_dim = rows.shape
            a = read(f"{name}.a", (*blocks, settings.rank, in_dim), rows.dtype)
            b = read(f"{name}.b", (*blocks, out_dim, settings.rank), rows.dtype)
            return Adapter(a, b, start=start, alpha=settings.alpha)

        def fill(keys: tuple[Any, ...], leaf: Any) -> Any:
            name = name_leaf(keys)
            return read(name, leaf.shape, leaf.dtype) if any(is_in_part(name, part) for part in also) else leaf

        if _digest_backbone(model, also) != settings.backbone:
            raise CheckpointError(
                f"{path} belongs to a model with other weights than this one: load the weights that its adapters were "
                "trained on"
            )
        # The parts first, whose names the adapters change.
        adapted = attach_adapters(cast(M, jax.tree_util.tree_map_with_path(fill, model)), make)
        if unread:
            raise CheckpointError(f"{path} has {join_names(unread)}, which this model has no place for")
    return adapted


def _read_settings(source: AbstractSource) -> _Settings:
    header = source.metadata
    if header.get("format") != ADAPTERS:
        raise CheckpointError(
            f"{source.path} must be a file of vitrail.save_adapters, got the format {header.get('format')!r}: read a "
            "model with vitrail.load"
        )
    if _digest(header.get(_SETTINGS, "")) != header.get(_DIGEST):
        raise CheckpointError(f"{source.path} is damaged: its header differs from what was saved")
    try:
        found: dict[str, Any] = json.loads(header[_SETTINGS])
        found["also"] = tuple(found["also"])
        return _Settings(**found)
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise CheckpointError(f"{source.path} has a header that this vitrail cannot read: {error}") from error


def _list_adapters(model: object) -> dict[str, Adapter]:
    """The adapters of a model by names as `backbone.encoder.stack.attention.qkv.adapters.q`."""
    leaves: Any = cast(Any, jax.tree_util.tree_leaves_with_path)(model, is_leaf=_is_adapter)
    return {name_leaf(keys): leaf for keys, leaf in leaves if isinstance(leaf, Adapter)}


def _is_adapter(node: object) -> bool:
    return isinstance(node, Adapter)


def _digest_backbone(model: object, also: tuple[str, ...]) -> str:
    """The digest of all arrays but those of adapters, readouts and the parts that are saved too."""
    arrays = list_arrays(remove_readouts(remove_adapters(model)))
    kept = {name: np.asarray(a) for name, a in arrays.items() if not any(is_in_part(name, part) for part in also)}
    return _digest(json.dumps({name: [str(a.dtype), a.shape, digest_array(a)] for name, a in sorted(kept.items())}))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
