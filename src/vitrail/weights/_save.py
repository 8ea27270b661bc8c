"""A model to a file, in vitrail's own format or in another library's layout."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast, final

import equinox as eqx
import jax
import jax.numpy as jnp

from .._check import listed
from ..model import ViT, ViTConfig
from ..position import LearnedPosition
from ._checkpoint import Layout
from ._errors import CheckpointError, describing
from ._layouts import LAYOUTS, recognise
from ._load import planned, sentence
from ._native import arrays_of, outline, write_arrays, write_native
from ._rules import written
from ._source import AbstractSource, NumpyArray, TensorInfo

if TYPE_CHECKING:
    from ._layouts import WritableLayout
else:
    WritableLayout = str  # save checks it itself: a type checker's error has pages


def save(model: ViT, path: Path | str, *, layout: WritableLayout = "vitrail") -> None:
    """Writes a model to a file: its arrays, its configuration and a digest of each array.

    The file is written next to its place and moved there when it is complete, so that an interruption leaves what was
    there before.

    **Arguments:**

    - `model`: whose parts are those that its configuration names. Exchange parts with `vitrail.replace`, which keeps
        the two in step.
    - `path`: of the file, usually ending in `.safetensors`.
    - `layout`: `"vitrail"`, or one of timm's or Hugging Face's, whose libraries then read the tensors under their own
        names. Such a file has no configuration: the library's own `config.json` goes with it.

    **Raises:** `ValueError` where the configuration holds code instead of names, does not describe the model, or is
    such as the other layout has no names for or would be read as another model; `TypeError` where `layout` is none of
    those that are written; `OSError` where the file cannot be written; `MissingExtraError` where safetensors is not
    installed.
    """
    if layout == "vitrail":
        write_native(model, Path(path))
        return
    writable = {name: known for name, known in LAYOUTS.items() if known.written_prefix is not None}
    if layout not in writable:
        raise TypeError(f"layout must be one of {listed(('vitrail', *writable))}, but {layout!r} came")
    known = writable[layout]
    written_prefix = cast(Callable[[ViTConfig], tuple[str, tuple[str, ...]]], known.written_prefix)
    config = model.config
    leaves = arrays_of(model)
    for name, leaf in leaves.items():
        if leaf.dtype != jnp.float32:
            raise ValueError(f"model must be float32 to be written as {layout!r}, but {name!r} is {leaf.dtype}")
    tensors = written(known.rules(config), leaves, config.size.depth)
    prefix, bare = written_prefix(config)
    named = {name if name.startswith(bare) else prefix + name: array for name, array in tensors.items()}
    if problem := _misread(_Written(Path(path), named), known, config):
        raise ValueError(
            f"model must be one that {known.title} can be, to be written as {layout!r}: save it in vitrail's own "
            f"format. When it is read back, {problem}"
        )
    write_arrays(named, Path(path), {"format": "pt"})


@final
class _Written(AbstractSource):
    """Tensors that are about to be written, as a file of them would be."""

    def __init__(self, path: Path, arrays: Mapping[str, NumpyArray]):
        self.path = path
        self.metadata = {}
        self.tensors = {name: TensorInfo("F32", array.shape) for name, array in arrays.items()}
        self._arrays = arrays

    def read(self, name: str, row: int | None = None) -> NumpyArray:
        return self._arrays[name] if row is None else self._arrays[name][row]


def _misread(source: AbstractSource, layout: Layout, config: ViTConfig) -> str:
    """How another model would be read from the tensors than was written; the empty string where the same would."""
    try:
        known, _, checkpoint = recognise(source, layout.written_settings(config), None)
        if known != layout:
            return f"it would be read as {known.title}"
        with describing(source.path):
            read = known.configure(checkpoint)
        theirs, made = planned(known, read, checkpoint, convert=False)
    except CheckpointError as error:
        return str(error)
    if problem := sentence(known, made, checkpoint.tensors):
        return f"{source.path} {problem}"
    # How a model runs and is trained, and where training began, is in no file of tensors.
    of_running = {name: getattr(config.encoder, name) for name in _OF_RUNNING}
    if None not in (config.encoder.layer_scale, read.encoder.layer_scale):
        of_running["layer_scale"] = config.encoder.layer_scale
    read = dataclasses.replace(read, encoder=dataclasses.replace(read.encoder, **of_running))
    ours = outline(config)
    for name in ("encoder", "norm_order", "num_registers", "image_size", "patch", "position", "pool", "head"):
        came, wanted = getattr(read, name), getattr(config, name)
        if came != wanted and (name not in _PARTS or not _alike(_PARTS[name](ours), _PARTS[name](theirs))):
            return f"{name} {wanted!r} would be read as {came!r}"
    return ""


_OF_RUNNING: Final = ("dropout", "drop_path", "scan", "remat", "attention_chunk", "fused_attention")
_PARTS: Final[Mapping[str, Callable[[ViT], eqx.Module]]] = {
    "patch": lambda model: model.backbone.patch,
    "position": lambda model: model.backbone.position,
    "pool": lambda model: model.readout.pool,
    "head": lambda model: model.readout.head,
}


def _alike(ours: eqx.Module, theirs: eqx.Module) -> bool:
    """Whether two parts without their numbers are the same; by which rule positions are resampled, each library says
    for itself."""
    if isinstance(ours, LearnedPosition) and isinstance(theirs, LearnedPosition):
        sizes = ({n: a.shape for n, a in arrays_of(part).items()} for part in (ours, theirs))
        return next(sizes) == next(sizes)
    mine, other = (cast(object, jax.tree.structure(part)) for part in (ours, theirs))
    return mine == other
