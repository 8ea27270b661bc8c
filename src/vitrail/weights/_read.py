"""From a file to a model, of whatever kind."""

import re
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

import jax
import numpy as np

from .._check import list_first
from ..model import ViTConfig
from ..nn import list_arrays
from ._configuration import Configuration, Configured, Shardings, fill_outline, get_image_model, make_outline
from ._errors import CheckpointError, blame_file
from ._names import locate
from ._native import check_no_overrides, is_native, read_native
from ._plan import Plan, fill_array, make_plan
from .formats import AbstractSource, NumpyArray, RenamedSource, allocate, open_source
from .layouts import (
    Checkpoint,
    FilesBeside,
    GivenSettings,
    Layout,
    Library,
    Part,
    Settings,
    find_settings,
    map_names,
    read_settings_file,
    recognise,
)

_IN_BFLOAT16: Final = 2**-6
"""The tolerance for a power of 100 that was computed in bfloat16, whose numbers are 2**-8 apart."""

NEEDS_BESIDE: Final = "vitrail_needs"
"""What `save` writes in the header of a folder's tensors: the name of the file without which they are another model."""

Config: TypeAlias = Configuration | Mapping[str, Any] | Path | str | None
"""What a checkpoint is: a configuration, settings as in a library's `config.json`, or the path of such a file."""


def read_model(
    path: Path | str,
    *,
    layout: str | None = None,
    config: Config = None,
    part: Part = None,
    prefix: str | None = None,
    convert: bool = False,
    shardings: Shardings | None = None,
) -> Configured:
    """Reads a model of any kind from a file, as it is in the file.

    **Arguments:** those of [`load`][vitrail.load].

    **Returns:**

    The model that the configuration in the file, or of the file's layout, builds, with the numbers of the file; with
    `part="image"` its image model.

    **Raises:** what [`load`][vitrail.load] raises.
    """
    with open_source(locate(path)) as source:
        if is_native(source):
            check_no_overrides(layout, config, prefix)
            model = read_native(source, shardings)
            return model if part is None else get_image_model(model)
        with recognise_file(source, layout, config, part, prefix) as checkpoint:
            return _read_checkpoint(checkpoint, choose_config(checkpoint, config), convert, shardings)


def _read_checkpoint(
    checkpoint: Checkpoint, config: Configuration, convert: bool, shardings: Shardings | None
) -> Configured:
    outline, plan = plan_model(checkpoint, config, convert=convert)
    if problem := explain_gaps(checkpoint, plan):
        raise CheckpointError(f"{checkpoint.path}, of the layout {checkpoint.layout.name!r}, {problem}")
    _check_computed(checkpoint, config)

    def read(name: str, leaf: jax.ShapeDtypeStruct) -> NumpyArray:
        array = allocate(leaf.shape, np.dtype(np.float32))
        fill_array(plan.steps.get(name, ()), name, array, checkpoint)
        return array

    return fill_outline(outline, read, shardings)


@contextmanager
def recognise_file(
    source: AbstractSource, layout: str | None, config: Config, part: Part = None, prefix: str | None = None
) -> Generator[Checkpoint]:
    """A file as its layout sees it, with the settings beside it or those that were passed.

    A `ViTConfig` describes the image model alone, so that only this is read.

    **Returns:**

    A context manager that returns the checkpoint.

    **Raises:** `CheckpointError` if the layout is not known, or if the settings or the tensors that they belong to are
    replaced before the context is left.
    """
    with ExitStack() as opened:
        beside = FilesBeside(source, opened)
        with blame_file(source.path):
            settings = _choose_settings(source, config, beside)
        ours = None
        if isinstance(config, Configuration) and layout is None and (part is None or isinstance(config, ViTConfig)):
            ours = _name_as_ours(source, config, prefix)
        if isinstance(config, ViTConfig):
            part = "image"
        yield ours or recognise(source, settings, layout=layout, part=part, prefix=prefix, beside=beside)


def _name_as_ours(source: AbstractSource, config: Configuration, prefix: str | None) -> Checkpoint | None:
    """A file in which the arrays of a configuration have vitrail's own names; `None` for another file."""
    scope = RenamedSource(source, prefix or "")
    rules = tuple(map_names(name, name) for name in list_arrays(make_outline(config)))
    if not all(name in scope.tensors for rule in rules for name in rule.theirs):
        return None
    layout = Layout[Any](
        name="vitrail",
        title="a model under vitrail's own names",
        library=Library("vitrail"),
        read_config=lambda checkpoint: config,
        rules=lambda config: rules,
        signature=(),
        kind=type(config),
    )
    return Checkpoint(scope, layout, {})


def _choose_settings(source: AbstractSource, config: Config, beside: FilesBeside) -> Settings:
    match config:
        case None:
            settings = find_settings(source.path, beside)
            needed = source.metadata.get(NEEDS_BESIDE)
            if needed is not None and not settings:
                raise CheckpointError(
                    f"{source.path} must have {needed!r} beside it, which vitrail.save wrote with it, got none: copy "
                    "that file too, save the model again, or pass config="
                )
            return settings
        case str() | Path():
            return read_settings_file(Path(config))
        case Configuration():
            return {}
        case _:
            return GivenSettings(config)


def choose_config(checkpoint: Checkpoint, config: Config) -> Configuration:
    """The configuration that was passed, or the one that the layout makes of the checkpoint."""
    if isinstance(config, Configuration):
        if type(config) is not checkpoint.layout.kind:
            raise ValueError(
                f"config must be a {checkpoint.layout.kind.__name__} for {checkpoint.path}, which holds "
                f"{checkpoint.layout.title}, got a {type(config).__name__}"
            )
        return config
    with blame_file(checkpoint.path):
        made: Configuration = checkpoint.layout.read_config(checkpoint)
    if isinstance(checkpoint.settings, GivenSettings):
        checkpoint.settings.check_all_read(checkpoint.layout)
    return made


def plan_model(checkpoint: Checkpoint, config: Configuration, *, convert: bool) -> tuple[Configured, Plan]:
    """The model of a configuration without its numbers, and which tensors fill which of its arrays."""
    with blame_file(checkpoint.path):
        outline = make_outline(config)
        rules = checkpoint.layout.rules(config)
    return outline, make_plan(rules, list_arrays(outline), checkpoint.tensors, convert=convert)


def explain_gaps(checkpoint: Checkpoint, plan: Plan) -> str:
    """Returns what in a file does not fit the model, as `has ...` or `lacks ...`; empty if everything fits."""
    for problems, verb in ((plan.wrong, "has"), (plan.missing, "lacks")):
        if problems:
            more = f"; there are {len(problems) - 1} more" if len(problems) > 1 else ""
            return f"{verb} {problems[0]}{more}"
    unused = [name for name in checkpoint.tensors if name not in plan.used]
    unknown = [name for name in unused if checkpoint.layout.reason_to_ignore(name) is None]
    if unknown:
        return f"has tensors that the model has no place for: {list_first(list(map(repr, unknown)), 3)}"
    return ""


def _check_computed(checkpoint: Checkpoint, config: Configuration) -> None:
    """Raises a `CheckpointError` if the file has other numbers than those that vitrail computes itself."""
    for pattern, compute in checkpoint.layout.computed:
        for name in (name for name in checkpoint.tensors if re.fullmatch(pattern, name)):
            found, expected = checkpoint.read(name).astype(np.float32), compute(config)
            if found.shape != expected.shape or not np.allclose(found, expected, rtol=_IN_BFLOAT16, atol=0):
                raise CheckpointError(
                    f"{checkpoint.path} must have {name!r} as {_show_array(expected)}, which the layout "
                    f"{checkpoint.layout.name!r} computes, got {_show_array(found)}: it is another model"
                )


def _show_array(array: NumpyArray) -> str:
    return np.array2string(array, precision=4, threshold=6, edgeitems=2)
