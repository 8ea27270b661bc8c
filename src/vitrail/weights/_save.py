"""Saves a model in vitrail's own format, or in the layout of a library."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp

from .._check import join_names
from ..nn import list_arrays
from ._configuration import Configuration, Configured
from ._errors import CheckpointError
from ._native import write_native
from ._plan import export_arrays
from ._read import choose_config, explain_gaps, plan_model
from .formats import AbstractSource, ArraySource, write_safetensors
from .layouts import LAYOUTS, AnyLayout, Export, recognise

if TYPE_CHECKING:
    from .layouts import WritableLayout
else:
    WritableLayout = str  # save checks it itself: the error of a type checker fills pages


def save(model: Configured, path: Path | str, *, layout: WritableLayout = "vitrail") -> None:
    """Saves a model to a file: its arrays, its configuration and a digest of each array.

    The file is written beside its place and moved there when it is complete. An interruption leaves the file that was
    there before, and a file that is read at the moment stays readable to its end. A file that was there keeps its mode;
    a symbolic link stays one, and the file that it points to is written.

    **Arguments:**

    - `model`: a model whose parts are those that its configuration names. `vitrail.replace` keeps both in step.
    - `path`: the file, usually ending in `.safetensors`.
    - `layout`: `"vitrail"`, or a layout of timm or Hugging Face, whose library then reads the tensors. Such a file has
        no configuration: the library's own `config.json` belongs beside it.

    **Raises:** `ValueError` if the configuration holds code in place of names, does not describe the model, or is one
    that the layout has no names for or would be read as another model; `TypeError` if `layout` is not one that vitrail
    writes; `OSError` if the file cannot be written; `MissingExtraError` if safetensors is not installed.
    """
    path = Path(path)
    if layout == "vitrail":
        write_native(model, path)
        return
    exports: dict[str, Export[Any]] = {name: known.export for name, known in LAYOUTS.items() if known.export}
    if layout not in exports:
        raise TypeError(f"layout must be one of {join_names(('vitrail', *exports))}, got {layout!r}")
    export, known = exports[layout], LAYOUTS[layout]
    arrays = list_arrays(model)
    for name, array in arrays.items():
        if array.dtype != jnp.float32:
            raise ValueError(f"model must be float32 to be written as {layout!r}, got {name!r} as {array.dtype}")
    prefix = export.prefix(model.config)
    tensors = {
        name if name.startswith(export.bare) else prefix + name: tensor
        for name, tensor in export_arrays(known.rules(model.config), arrays).items()
    }
    if problem := _find_misreading(ArraySource(path, tensors), known, export, model.config):
        raise ValueError(
            f"model must be one that {known.title} can be, to be written as {layout!r}: {problem}. Save it in "
            "vitrail's own format"
        )
    write_safetensors(tensors, path, {"format": "pt"})


def _find_misreading(source: AbstractSource, layout: AnyLayout, export: Export[Any], config: Configuration) -> str:
    """How the tensors would be read as another model than was written; the empty string if they would not."""
    try:
        checkpoint = recognise(source, export.settings(config))
        if checkpoint.layout is not layout:
            return f"it would be read as {checkpoint.layout.title}"
        read = choose_config(checkpoint, None)
        _, plan = plan_model(checkpoint, read, convert=False)
    except CheckpointError as error:
        return f"when it is read back, {error}"
    if problem := explain_gaps(checkpoint, plan):
        return f"when it is read back, {source.path} {problem}"
    return export.find_misreading(config, read)
