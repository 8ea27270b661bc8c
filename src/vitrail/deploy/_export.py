"""Exports a model: its functions, each checked against the model, and their card."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, cast

import jax
import numpy as np
from jaxtyping import Shaped

from .. import __version__
from .._check import describe_value
from .._extras import require
from .._files import make_scratch
from ..exported import CARD, ArraySpec, ExportCard, ExportError, ExportFormat, FunctionCard, digest_file
from ..images import Preprocess
from ..model import has_adapters
from ..nn import Dropout, Execution
from ..systems import Dense, ImageText, find_image_model
from ..weights import ROUNDING, Configured, compare_outputs, draw_picture, model_card
from ._functions import Function, list_functions
from ._onnx import list_versions, run_onnx, write_onnx
from ._stablehlo import PLATFORMS, run_stablehlo, write_stablehlo

_BFLOAT16: Final = 0.02
"""How far the outputs of an exported function may be from those of the model in bfloat16, relative to the largest."""

_BESIDE: Final[Mapping[ExportFormat, str]] = MappingProxyType({"stablehlo": ".npz", "onnx": ".onnx.data"})
"""The endings of files of weights."""
_LIBRARIES: Final[Mapping[ExportFormat, tuple[Literal["export", "onnx"], tuple[str, ...]]]] = MappingProxyType(
    {"stablehlo": ("export", ("flatbuffers",)), "onnx": ("onnx", ("jax2onnx", "onnx_ir", "onnxruntime"))}
)
"""The extra of each format, and what is imported of it."""
_BATCH: Final = 3
"""The number of images that the outputs are compared for: of no other axis of the examples."""


def export(
    model: Configured,
    folder: Path | str,
    *,
    format: ExportFormat = "stablehlo",
    weights: Literal["inside", "beside"] = "inside",
) -> ExportCard:
    """Exports a model as a program that runs without vitrail's model code, with a card that describes its use.

    A folder gets a program for each function of the model, with any number of images in a batch, and `card.json`. A
    `ViT` has one function: a batch of images gives logits or features. An `ImageText` has `image` and `text`, whose
    outputs are embeddings. A `SegmentAnything` has `image`, whose output is an embedding, and `mask`, which takes the
    embedding with points, labels and an earlier mask, as its forward pass does. A `Dense` returns a map, a `DINO` the
    embedding and the patch tokens, and of a `MaskedAutoencoder` the image model is exported.

    Before the folder is written, each function runs on a test picture, and its outputs are compared with those of the
    model. They may differ by 1e-5 of the largest number, or in bfloat16 by 2%.

    !!! example

        ```python
        vitrail.export(model, "out")
        exported = vitrail.load_exported("out")
        logits = exported(images)
        ```

    **Arguments:**

    - `model`: the model. The program computes in the dtype of its `Execution`, and with plain attention, or in chunks
        if `attention` is a number, because it has to run on all devices. Inputs and outputs are float32.
    - `folder`: the folder to write. It is made if it does not exist; its parent must exist. An older export in it is
        replaced.
    - `format`: `"stablehlo"` for JAX on CPU, CUDA and TPU (the extra `export`), or `"onnx"` for onnxruntime and others
        (the extra `onnx`), which is computed in float32.
    - `weights`: whether the weights are in the file of the program, or in one beside it, which is needed for more than
        2 GB: an npz file, or the external data of ONNX.

    **Returns:**

    The card that was written.

    **Raises:** `ValueError` if the folder has a `card.json` of something else, if the model has adapters or an
    attention that does not run on all devices, if the format cannot hold the model, if the model returns NaN, or if the
    outputs differ; `FileNotFoundError` if the folder has no parent; `TypeError` if the model is neither a `ViT` nor a
    system of vitrail; `MissingExtraError` if a library of the extra is not installed. After an error nothing is
    written.
    """
    folder = Path(folder)
    image_model = find_image_model(model)
    if image_model is None:
        raise TypeError(f"model must be a ViT or a system, got {describe_value(model)}: load one with vitrail.load")
    if has_adapters(model):
        raise ValueError("model must be without adapters, got one that has: export vitrail.merge(model)")
    execution = check_export(folder, image_model.backbone.execution, format)
    plain = cast(Any, model).with_execution(execution).with_dropout(Dropout())
    config = image_model.config
    functions = list_functions(plain, draw_picture(model))
    with make_scratch(folder.parent, folder.name) as scratch:
        cards = {
            name: _write_function(function, scratch, name, format, weights, execution)
            for name, function in functions.items()
        }
        card = ExportCard(
            format=format,
            kind=model_card(model).kind,
            functions=cards,
            image_size=config.image_size,
            channels=config.channels,
            compute_dtype=execution.compute_dtype,
            preprocess=_fix_size(config.preprocess),
            classes=model.config.classes if isinstance(model, Dense) else config.classes,
            constants=_list_constants(model),
            platforms=PLATFORMS if format == "stablehlo" else ("onnxruntime",),
            versions={
                "vitrail": __version__,
                "jax": jax.__version__,
                **(list_versions() if format == "onnx" else {}),
            },
        )
        (scratch / CARD).write_text(card.to_json(), "utf-8")
        old = _list_files(folder)
        folder.mkdir(exist_ok=True)
        for name in (CARD, *old):
            (folder / name).unlink(missing_ok=True)
        for name in (
            *(name for one in cards.values() for name in one.digests),
            CARD,
        ):  # the card says that all is there
            (scratch / name).replace(folder / name)
    return card


def _list_files(folder: Path) -> list[str]:
    """The files of an earlier export in a folder."""
    if not (folder / CARD).exists():
        return []
    try:
        card = ExportCard.read(folder / CARD)
    except ExportError as error:
        raise ValueError(f"folder must have no {CARD} of something else, got {folder}: name another one") from error
    return [name for function in card.functions.values() for name in function.digests]


def check_export(folder: Path, execution: Execution, format: ExportFormat) -> Execution:
    """Checks all that does not depend on the weights: where the files are written, and how the model is computed.

    **Returns:**

    How the exported model is computed.

    **Raises:** what `export` raises of these.
    """
    if folder.is_file():
        raise ValueError(f"folder must be a folder, got the file {folder}: name another one")
    if not folder.parent.is_dir():
        raise FileNotFoundError(f"{folder.parent} is not a folder: make it before writing {folder}")
    _list_files(folder)
    if execution.attention == "cudnn":
        raise ValueError(
            "model must have an attention that runs everywhere, got 'cudnn': export "
            "model.with_execution(vitrail.Execution())"
        )
    if format == "onnx" and execution.compute_dtype != "float32":
        raise ValueError(
            f"compute_dtype must be 'float32' for format 'onnx', got {execution.compute_dtype!r}: leave it out, or use "
            "format 'stablehlo'"
        )
    extra, libraries = _LIBRARIES[format]
    for library in libraries:
        require(library, extra=extra)
    attention = "plain" if execution.attention == "auto" else execution.attention
    return dataclasses.replace(execution, attention=attention)


def _fix_size(preprocess: Preprocess | None) -> Preprocess | None:
    """The preprocessing for images of one size, which the programs have."""
    return preprocess.squash() if preprocess is not None and preprocess.fit in ("keep", "native") else preprocess


def _list_constants(model: object) -> dict[str, float]:
    if not isinstance(model, ImageText):
        return {}
    return {"scale": float(np.exp(model.log_scale)), "bias": 0.0 if model.bias is None else float(model.bias)}


def _write_function(
    function: Function,
    folder: Path,
    name: str,
    format: ExportFormat,
    weights: Literal["inside", "beside"],
    execution: Execution,
) -> FunctionCard:
    """Writes a function and compares its outputs with those of the model."""
    file = folder / f"{name}.{format}"
    beside = folder / f"{name}{_BESIDE[format]}" if weights == "beside" else None
    batch = tuple(np.stack([_vary(array, number) for number in range(_BATCH)]) for array in function.example)
    expected = _name_outputs(function, _as_tuple(jax.jit(jax.vmap(function.call))(*batch)))
    _check_finite(function, expected)
    if format == "onnx":
        write_onnx(function, file, beside)
        found = run_onnx(file, function, batch)
    else:
        write_stablehlo(function, file, beside)
        found = run_stablehlo(file, beside, batch)
    difference = max(compare_outputs(_name_outputs(function, found), expected).values())
    allowed = ROUNDING if execution.compute_dtype == "float32" else _BFLOAT16
    if not difference <= allowed:
        raise ValueError(
            f"the exported function {name!r} must equal the model to {allowed:g} of its largest number, got a "
            f"difference of {difference:.1e}: nothing was written. Report the model and the version of the library"
        )
    specs = tuple(ArraySpec(spec.name, ("batch", *spec.shape), spec.dtype) for spec in function.inputs)
    outputs = tuple(
        ArraySpec(output, ("batch", *array.shape[1:]), str(array.dtype)) for output, array in expected.items()
    )
    paths = [path for path in (file, beside) if path is not None]
    return FunctionCard(
        inputs=specs,
        outputs=outputs,
        file=file.name,
        weights=None if beside is None else beside.name,
        digests={path.name: digest_file(path) for path in paths},
        sizes={path.name: path.stat().st_size for path in paths},
        difference=difference,
    )


def _as_tuple(outputs: Any) -> tuple[Any, ...]:
    return cast("tuple[Any, ...]", outputs) if isinstance(outputs, tuple) else (outputs,)


def _name_outputs(function: Function, outputs: Sequence[Any]) -> dict[str, Any]:
    return {name: np.asarray(array) for name, array in zip(function.outputs, outputs, strict=True)}


def _vary(array: Shaped[np.ndarray, "..."], number: int) -> Shaped[np.ndarray, "..."]:
    """One of the examples of a batch. Each is another one, as a program that mixes them has to give other outputs."""
    rolled = np.roll(array, number)
    return np.logical_xor(rolled, [number % 2]).reshape(array.shape) if array.dtype == bool else rolled


def _check_finite(function: Function, outputs: Mapping[str, Any]) -> None:
    for array in outputs.values():
        if not np.isfinite(array).all():
            what = "NaN" if np.isnan(array).any() else "infinity"
            raise ValueError(
                f"model must give finite outputs, got {what} for drawn {function.inputs[0].name}: check its weights "
                "with vitrail.verify"
            )
