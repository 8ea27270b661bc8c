"""A model from a checkpoint, and back."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, cast

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from .._check import listed
from .._registry import PartSpec
from ..head import HeadFactory
from ..model import ViT, ViTConfig, replace
from ..pool import PoolFactory
from ._checkpoint import Checkpoint, Layout, Settings
from ._errors import CheckpointError, describing
from ._layouts import open_source, recognise
from ._native import arrays_of, check_no_overrides, is_native, name_of, outline, read_native
from ._preprocess import preprocess_of
from ._rules import Plan, fill, plan
from ._settings import GivenSettings, read_settings, settings_beside
from ._source import AbstractSource, NumpyArray, aligned

_IN_BFLOAT16: Final = 2**-6
"""How far a power of 100 may be off that was computed in bfloat16, whose numbers are 2**-8 apart."""
Config = ViTConfig | Mapping[str, Any] | Path | str | None
"""What a checkpoint is: a configuration, settings as a library's `config.json` has them, or the path of such a file."""


def load(
    path: Path | str,
    *,
    layout: str | None = None,
    config: Config = None,
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | tuple[int, int] | None = None,
    pool: str | PartSpec | PoolFactory | None = None,
    head: str | PartSpec | HeadFactory | None = None,
    num_classes: int | Literal["keep"] | None = "keep",
    convert: bool = False,
    key: PRNGKeyArray | None = None,
) -> ViT:
    """Reads a model from a file: vitrail's own, or a checkpoint as timm, Hugging Face, Meta, OpenAI, open_clip,
    torchvision, big_vision or vision_transformer publish it.

    !!! example

        ```python
        model = vitrail.load("model.safetensors", pool="mean", num_classes=10, key=key)
        ```

    The layout is known by the names of the tensors, and what these do not say (the activation, the number of heads) by
    the `config.json` beside the file; without one, what the published models of the layout have is assumed, and
    `vitrail inspect` shows it. Every tensor is used, or is one that the layout names as not needed; every array
    of the model is filled, in the file's own numbers, and none is converted unless that is asked for.

    **Arguments:**

    - `path`: a safetensors or npz file, the index of a checkpoint in several files (`model.safetensors.index.json`), or
        a folder with one of these.
    - `layout`: the name of the layout, where it should not be known by the tensors; `vitrail inspect` shows it.
    - `config`: what the checkpoint is, instead of what lies beside the file: a `ViTConfig`, or settings as the
        library's `config.json` has them, or the path of such a file. Settings that the layout does not read are an
        error, unless they are a whole `config.json`.
    - `image_size`, `patch_size`: of the images that the model is to read; what depends on them is resampled, as in
        `ViT.resized`.
    - `pool`, `head`, `num_classes`: what the model is to end with, as in `vitrail.replace`; `num_classes=None` takes
        the head off.
    - `convert`: whether float64, float16 and bfloat16 become float32; otherwise they are an error.
    - `key`: for the weights of what is new; needed where `pool`, `head` or `num_classes` asks for such.

    **Returns:**

    The model. Its configuration names the parts, so that `vitrail.save` and `vitrail.replace` take it on.

    **Raises:** `CheckpointError` where the file is not what it claims; `UnknownPartError` or `PluginError` where a part
    that a file of ours names is not to be had; `ValueError` where the arguments do not fit; `OSError` where the file
    cannot be read; `MissingExtraError` where einops is not installed.
    """
    path = Path(path)
    source = open_source(path)
    if is_native(source):
        check_no_overrides(layout, config)
        model = read_native(source)
    else:
        model = _read(source, path, layout, config, convert=convert)
    if image_size is not None or patch_size is not None:
        model = model.resized(model.config.image_size if image_size is None else image_size, patch_size=patch_size)
    if pool is None and head is None and num_classes == "keep":
        return model
    return _with_ending(model, pool, head, num_classes, key)


def _read(
    source: AbstractSource,
    path: Path,
    layout: str | None,
    config: Config,
    *,
    convert: bool,
) -> ViT:
    known, source, checkpoint, config = identified(source, path, layout, config)
    model, made = planned(known, config, checkpoint, convert=convert)
    if problem := sentence(known, made, checkpoint.tensors):
        raise CheckpointError(f"{source.path}, of the layout {known.name!r}, {problem}")

    by_short_name = _Renamed(source, checkpoint.names)
    _check_computed(known, config, by_short_name)

    def read(keys: tuple[Any, ...], leaf: object) -> object:
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        out = aligned(leaf.shape, np.dtype(np.float32))
        fill(made.steps.get(name_of(keys), ()), name_of(keys), out, by_short_name)
        return jax.device_put(out)

    return cast(ViT, jax.tree_util.tree_map_with_path(read, model))


def identified(
    source: AbstractSource, path: Path, layout: str | None, config: Config
) -> tuple[Layout, AbstractSource, Checkpoint, ViTConfig]:
    """The layout of a file, the file as that sees it, and the configuration that it has."""
    with describing(path):
        settings = _settings_of(config, path)
    known, source, checkpoint = recognise(source, settings, layout)
    if not isinstance(config, ViTConfig):
        with describing(path):
            folder = path if path.is_dir() else path.parent
            found = preprocess_of(known, checkpoint, folder)
            config = dataclasses.replace(known.configure(checkpoint), preprocess=found)
    if isinstance(settings, GivenSettings):
        settings.check_all_read(known.name)
    return known, source, checkpoint, config


def _settings_of(config: Config, path: Path) -> Settings:
    """The settings that were given, or those that lie beside the file."""
    match config:
        case ViTConfig():
            return {}
        case None:
            return settings_beside(path)
        case str() | Path():
            return read_settings(Path(config))
        case _:
            return GivenSettings(config)


def planned(layout: Layout, config: ViTConfig, checkpoint: Checkpoint, *, convert: bool) -> tuple[ViT, Plan]:
    """The model of a configuration without its numbers, and what of the file goes where in it."""
    with describing(checkpoint.path):
        model = outline(config)
    rules = layout.rules(config)
    return model, plan(rules, arrays_of(model), checkpoint.tensors, config.size.depth, convert=convert)


def sentence(layout: Layout, made: Plan, tensors: Mapping[str, Any]) -> str:
    """What keeps a file from being the model; the empty string where nothing does."""
    unknown = [name for name in tensors if name not in made.used and layout.reason(name) is None]
    for problems, verb in ((made.wrong, "has"), (made.missing, "lacks")):
        if problems:
            more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
            return f"{verb} {problems[0]}{more}"
    if unknown:
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        return f"has tensors that nothing in the model is filled from: {listed(unknown[:3])}{more}"
    return ""


def _check_computed(layout: Layout, config: ViTConfig, source: AbstractSource) -> None:
    """Raises a `CheckpointError` where what vitrail computes itself is another thing in the file."""
    for pattern, compute in layout.computed:
        for name in (each for each in source.tensors if re.fullmatch(pattern, each)):
            found, expected = source.read(name).astype(np.float32), compute(config)
            if found.shape != expected.shape or not np.allclose(found, expected, rtol=_IN_BFLOAT16, atol=0):
                raise CheckpointError(
                    f"{source.path} must have {name!r} as {_shown(expected)}, as the layout {layout.name!r} computes "
                    f"it, but it has {_shown(found)}: it is not the model that it seems"
                )


def _shown(array: NumpyArray) -> str:
    return np.array2string(array, precision=4, threshold=6, edgeitems=2)


class _Renamed(AbstractSource):
    """A source under the names of its layout."""

    def __init__(self, source: AbstractSource, names: Mapping[str, str]):
        self.path = source.path
        self.metadata = source.metadata
        self.tensors = {short: source.tensors[name] for short, name in names.items()}
        self._source = source
        self._names = names

    def read(self, name: str, row: int | None = None) -> NumpyArray:
        return self._source.read(self._names[name], row)


def _with_ending(
    model: ViT,
    pool: str | PartSpec | PoolFactory | None,
    head: str | PartSpec | HeadFactory | None,
    num_classes: int | Literal["keep"] | None,
    key: PRNGKeyArray | None,
) -> ViT:
    """The model with another end. A class token that it learned with stays, whether or not the pool reads it."""
    if num_classes is None and head is None:
        head = "none"
    if head == "none" and num_classes == "keep":
        num_classes = None
    if isinstance(num_classes, int) and head is None and model.config.head == "none":
        head = "linear"
    ended = replace(model, pool=pool, head=head, num_classes=num_classes, key=jax.random.key(0) if key is None else key)
    if key is None:
        kept = {id(leaf) for leaf in jax.tree.leaves(model)}
        fresh = [name for name, leaf in arrays_of(ended).items() if id(leaf) not in kept]
        if fresh:
            raise ValueError(
                f"key must be given where weights are new, but none came for {listed(fresh)}: pass "
                "key=jax.random.key(0), or leave the pool and the head as they are in the file"
            )
    return ended
