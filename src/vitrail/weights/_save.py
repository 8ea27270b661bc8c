"""Saves a model in vitrail's own format, or in the layout of a library."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import jax.numpy as jnp

from .._check import join_names, suggest
from .._files import write_whole
from ..model import has_adapters
from ..nn import list_arrays
from ._configuration import Configuration, Configured, get_image_config
from ._errors import CheckpointError
from ._kept import read_kept
from ._native import write_native
from ._plan import export_arrays, list_unnamed
from ._read import NEEDS_BESIDE, choose_config, explain_gaps, plan_model
from .formats import AbstractSource, ArraySource, NumpyArray, write_safetensors
from .layouts import (
    CONFIG,
    LAYOUTS,
    OPEN_CLIP_CONFIG,
    PROCESSOR,
    PROCESSORS,
    AnyLayout,
    Checkpoint,
    Export,
    Settings,
    WrittenBeside,
    find_settings,
    recognise,
)

if TYPE_CHECKING:
    from .layouts import WritableLayout
else:
    WritableLayout = str  # save checks it itself: the error of a type checker fills pages

TENSORS: Final = "model.safetensors"
"""The file of tensors in a folder."""
NO_SETTINGS: Final[Mapping[str, Settings]] = {PROCESSORS: {}, PROCESSOR: {}, CONFIG: {}, OPEN_CLIP_CONFIG: {}}
"""The settings of all libraries, each empty."""
_WITHOUT_SETTINGS: Final = ("num_registers", "class_token", "patch", "position", "pool")
"""What tensors say in most layouts, where no setting does: a model with another one cannot be read back at all."""
_UNFINISHED: Final = "vitrail.save did not finish writing this folder: save the model again\n"
"""What the settings hold while the other files are replaced. It is not JSON, so that no library opens the folder."""


def save(
    model: Configured,
    path: Path | str,
    *,
    layout: WritableLayout = "vitrail",
    keep: Path | str | None = None,
    licence: str | None = None,
) -> None:
    """Saves a model: to a file of vitrail's own, or to a folder that timm, Hugging Face or open_clip opens.

    A file of vitrail's own holds the arrays, the configuration and a digest of each array. Saving is atomic: after an
    interruption the old file is still there, and a process that reads it can go on. An older file keeps its mode. If
    `path` is a symbolic link, the file that it points to is replaced.

    !!! example

        ```python
        vitrail.save(model, "model.safetensors")
        vitrail.save(model, "folder", layout="hf_vit")  # AutoModel.from_pretrained("folder")
        vitrail.save(model, "folder", layout="timm")  # timm.create_model("local-dir:folder", pretrained=True)
        vitrail.save(clip, "folder", layout="openai_clip")  # open_clip.create_model("local-dir:folder")
        ```

    **Arguments:**

    - `model`: a model that its configuration describes. `vitrail.replace` changes both together.
    - `path`: a file for `"vitrail"`, usually ending in `.safetensors`. A folder for any other layout, which is made if
        it is not there: it gets `model.safetensors`, `config.json` (`open_clip_config.json` for open_clip), for Hugging
        Face `preprocessor_config.json`, and for a model that has a tokenizer `tokenizer.json` and
        `tokenizer_config.json`, in place of those that it has; of these files it loses those of another layout. The
        settings are written last. An interruption leaves the folder as it was, or with settings that are not JSON, so
        that no library opens a mixture of two models. `vitrail.load` refuses the tensors without their settings.
    - `layout`: `"vitrail"`, or a layout of timm, Hugging Face, Meta or open_clip.
    - `keep`: the file or folder that the model was loaded from, in the same layout. Tensors that the library's class
        has and vitrail's model does not, such as the `mask_token` of DINOv2, are copied from it. `None` leaves them
        out, and the library fills them with fresh numbers.
    - `licence`: the licence of the weights, such as `"apache-2.0"`, to write into the file or its settings; `None` for
        none. A loaded model does not keep it: pass `vitrail.model_card(path).licence` of its file.

    A library that has no place for an array of the model may have another one that means the same: where it has no
    position for the class token or the registers, that is added to these tokens; where it has one and the model has
    none, that is zero; a projection with a bias of zeros, and one without, are one.

    **Raises:** `ValueError` if the model has adapters, if the configuration holds code in place of names, does not
    describe the model, or is one that the library cannot build or would read as another, if `path` is a file where a
    folder is needed, or if `layout` is not one that vitrail writes; `OSError` if a file cannot be written;
    `MissingExtraError` if safetensors is not installed. After an error in the model nothing is written.
    """
    path = Path(path)
    if has_adapters(model):
        raise ValueError(
            "model must be without adapters, got one that has: save vitrail.merge(model), or the adapters alone with "
            "vitrail.save_adapters(model, path)"
        )
    if layout == "vitrail":
        if keep is not None:
            raise ValueError("keep must be None for vitrail's own format, which has the model alone")
        write_native(model, path, licence)
        return
    write_folder(path, *prepare_folder(model, path, layout, keep=keep, licence=licence))


def prepare_folder(
    model: Configured, path: Path, layout: str, *, keep: Path | str | None, licence: str | None
) -> tuple[dict[str, NumpyArray], dict[str, Settings]]:
    """Checks everything and makes what a folder is going to hold: the tensors, and the settings by the names of their
    files, what is removed empty, and what the library reads first last.

    **Raises:** what `save` raises.
    """
    check_layout(layout)
    if path.suffix == ".safetensors" or path.is_file():
        raise ValueError(
            f"path must be a folder for layout={layout!r}, whose library reads a config.json beside the tensors, got "
            f"{path}: name the folder, which gets a model.safetensors"
        )
    known, export = choose_layout(layout, type(model.config))
    if there := [name for name in export.read_first if (path / name).exists()]:
        raise ValueError(
            f"path must be a folder without {there[0]!r}, which {known.library.name} reads in place of {TENSORS!r}, "
            f"got {path}: name another folder"
        )
    config, arrays = export.adapt(model.config, list_arrays(model))
    tensors = _name_tensors(config, arrays, known, export)
    written_config = {**export.write_config(config), **({} if licence is None else {"license": licence})}
    if keep is not None:
        tensors |= read_kept(Path(keep), known, export, export.prefix(config), tensors)
        written_config = export.describe_kept(written_config)
    settings: dict[str, Settings] = {
        **export.write_tokenizer(config),
        **NO_SETTINGS,
        PROCESSOR: export.write_preprocess(config),
    }
    settings.pop(export.settings)
    settings[export.settings] = written_config
    source = ArraySource(path / TENSORS, tensors)
    if problem := _find_misreading(source, settings, known, export, config, arrays):
        raise ValueError(
            f"model cannot be written as {layout!r} ({known.title}): {problem}. Save it in vitrail's own format"
        )
    return tensors, settings


def check_layout(layout: str) -> None:
    """Raises a `ValueError` if vitrail does not write a layout."""
    written = (name for name, known in LAYOUTS.items() if known.export or (known.image and known.image.export))
    if layout not in (names := ("vitrail", *written)):
        raise ValueError(f"layout must be one of {join_names(names)}, got {layout!r}{suggest(layout, names)}")


def choose_layout(layout: str, kind: type[Configuration]) -> tuple[AnyLayout, Export[Any]]:
    """Of a layout and that of its image model, the one for a model with such a configuration, and how it is written."""
    candidates = (LAYOUTS[layout], LAYOUTS[layout].image)
    for known in candidates:
        if known is not None and known.export is not None and kind is known.kind:
            return known, known.export
    kinds = [known.kind.__name__ for known in candidates if known is not None and known.export]
    raise ValueError(
        f"model must have a {' or a '.join(kinds)} to be written as {layout!r}, got one with a {kind.__name__}"
    )


def _name_tensors(
    config: Configuration, arrays: Mapping[str, Any], layout: AnyLayout, export: Export[Any]
) -> dict[str, NumpyArray]:
    """The arrays of a model by the names of a layout."""
    for name, array in arrays.items():
        if array.dtype != jnp.float32:
            raise ValueError(f"model must be float32 to be written as {layout.name!r}, got {name!r} as {array.dtype}")
    prefix = export.prefix(config)
    named = {
        name if name.startswith(export.bare) else prefix + name: tensor
        for name, tensor in export_arrays(layout.rules(config), arrays).items()
    }
    return {**named, **export.write_unread(config)}


def _find_misreading(
    source: AbstractSource,
    settings: Mapping[str, Settings],
    layout: AnyLayout,
    export: Export[Any],
    config: Configuration,
    arrays: Mapping[str, Any],
) -> str:
    """How the folder would be read as another model than was written; the empty string if it would not."""
    beside, problem = WrittenBeside(settings), ""
    found = find_settings(source.path, beside)
    try:
        checkpoint = recognise(source, found, beside=beside)
        if checkpoint.layout is not layout:
            problem = f"it would be read back as {checkpoint.layout.title}"
    except CheckpointError as error:
        problem = f"when it is read back, {error}"
    # An option that the layout does not know explains more than a tensor that it changes.
    checkpoint = Checkpoint(source, layout, found, beside)
    try:
        read = choose_config(checkpoint, None)
        if differs := export.find_misreading(config, read):
            return differs
        _, plan = plan_model(checkpoint, read, convert=False)
        if gaps := explain_gaps(checkpoint, plan):
            problem = problem or f"when it is read back, {source.path} {gaps}"
    except CheckpointError as error:
        image = get_image_config(config)
        options = ", ".join(f"{name}={getattr(image, name)!r}" for name in _WITHOUT_SETTINGS)
        problem = f"{problem or f'when it is read back, {error}'} (of a model with {options})"
    if unnamed := list_unnamed(layout.rules(config), arrays):
        return f"{unnamed[0]!r} has no name there"
    return problem or export.find_obstacle(config)


def write_folder(folder: Path, tensors: Mapping[str, NumpyArray], settings: Mapping[str, Settings]) -> None:
    """Writes what `prepare_folder` made."""
    metadata = {"format": "pt"}  # transformers opens no file without it
    if settings[needed := [*settings][-1]]:
        metadata[NEEDS_BESIDE] = needed
    replace_folder(
        folder, settings, lambda close: write_safetensors(tensors, folder / TENSORS, metadata, before_move=close)
    )


def replace_folder(
    folder: Path, settings: Mapping[str, Settings], write_tensors: Callable[[Callable[[], object]], object]
) -> None:
    """Writes the files of a folder, the last of the settings last, and removes those that only the old model has.

    The last of the settings cannot be read from the moment when the first file is replaced until it is written.

    **Arguments:**

    - `settings`: as `prepare_folder` makes them.
    - `write_tensors`: writes the file of tensors, and calls what it is given just before it moves it to its place.
    """
    if not folder.parent.is_dir():
        raise FileNotFoundError(f"{folder.parent} is not a folder: make it before writing {folder}")
    folder.mkdir(exist_ok=True)
    *others, needed = settings

    def close() -> None:
        for name in (needed, *(name for name in others if name != PROCESSOR and (folder / name).exists())):
            write_whole(folder / name, lambda part: part.write_text(_UNFINISHED, "utf-8"))

    write_tensors(close)
    for name, content in settings.items():
        if content:
            write_whole(folder / name, partial(_write_json, content))
        else:
            (folder / name).unlink(missing_ok=True)


def _write_json(content: Settings, path: Path) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
