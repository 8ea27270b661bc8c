"""What there is to know about a model or a file before it is used."""

import math
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from jaxtyping import Float32

from ..model import ViT, ViTConfig
from ..nn import list_arrays
from ..systems import ImageTextConfig
from ._catalogue import find_licence
from ._configuration import Configuration, Configured, get_image_config, make_outline, name_kind
from ._errors import blame_file
from ._fetch import HubFile, fetch_header, read_origin
from ._licence import read_readme_licence
from ._names import find_model
from ._native import check_no_overrides, compare_arrays, is_native, name_dtypes, read_header, read_plugins
from ._read import Config, choose_config, plan_model, recognise_file
from .formats import AbstractSource, open_source
from .layouts import Checkpoint, Part, has_pooler

_T = TypeVar("_T")


@dataclass(frozen=True)
class ModelCard:
    """What there is to know about a model, or about a checkpoint that is not loaded."""

    layout: str
    """The layout of the file; `"vitrail"` for vitrail's own, and for a model in memory."""
    title: str
    """What the layout is."""
    kind: str
    """The kind of the model: `"vit"`, or that of a system, as `"image_text"`."""
    config: ViTConfig
    """The configuration; of a system, that of its image model."""
    parameters: int
    """The number of parameters, of all that the file holds."""
    licence: str | None
    """The licence that the file names, or the settings or the model card beside it, or for a repository of the Hub
    [`list_models`][vitrail.list_models]; `None` if none does."""
    ignored: Mapping[str, str]
    """The tensors of the file that the model does not need, and why."""
    missing: tuple[str, ...]
    """What the model needs and the file lacks, or has in another shape or dtype."""
    unknown: tuple[str, ...]
    """The tensors of the file that the layout does not know."""
    dtypes: Mapping[str, int]
    """The number of tensors of each dtype. All but float32 need `convert=True`."""
    assumed: Mapping[str, object]
    """What vitrail assumes because no settings give it, by the names that `config=` takes."""
    embeds: bool
    """Whether the head returns an embedding instead of the scores of classes: CLIP's projection, or a pooler."""
    repository: str | None = None
    """The repository of the Hugging Face Hub that the file is from, if it is in the cache of huggingface_hub."""
    commit: str | None = None
    """The commit of the repository."""

    def __repr__(self) -> str:
        config, size = self.config, self.config.size
        kind = "" if self.kind == "vit" else f" ({self.kind})"
        faults = f"{len(self.missing)} tensors missing, {len(self.unknown)} unknown"
        classes = "no classes" if config.num_classes is None else f"{config.num_classes} classes"
        return (
            f"<ModelCard of a {self.layout} model{kind}: {self.parameters:,} parameters, {size.depth} blocks of "
            f"{size.dim} channels, images of {config.image_size[0]} x {config.image_size[1]} x {config.channels}, "
            f"{classes}, licence {self.licence or 'unknown'}{f', {faults}' if self.missing or self.unknown else ''}>"
        )

    @property
    def tokens(self) -> int:
        """The number of tokens that the encoder reads for one image."""
        return math.prod(self.config.grid) + cast(ViT, make_outline(self.config)).backbone.num_prefix

    @property
    def flops(self) -> int:
        """The floating-point operations of the matrix products in the patch embedding, the blocks and the neck for one
        image. A multiplication and an addition are two."""
        config, tokens = self.config, self.tokens
        dim, mlp_dim, patches = config.size.dim, config.size.mlp_dim, math.prod(config.grid)
        matrices = 3 if config.encoder.activation == "swiglu" else 2
        windows = config.windows
        everywhere = within = tokens, tokens**2
        num_global = config.size.depth
        if windows is not None:
            number = math.prod(-(-side // windows.size) for side in config.grid)
            within = number * windows.size**2, number * windows.size**4
            num_global = len(windows.global_blocks)
        total = 2 * patches * dim * math.prod(config.patch_size) * config.channels
        for (read, pairs), blocks in ((everywhere, num_global), (within, config.size.depth - num_global)):
            total += blocks * (8 * read * dim**2 + 4 * pairs * dim + 2 * matrices * tokens * dim * mlp_dim)
        if config.neck_dim is not None:
            total += 2 * patches * config.neck_dim * (dim + 9 * config.neck_dim)
        return total

    def preprocess(self, image: object) -> Float32[np.ndarray, "height width channels"]:
        """Prepares a picture for the model, as `Preprocess` does: with Pillow and NumPy, without JAX.

        **Arguments:**

        - `image`: a Pillow picture, or a NumPy array of uint8 or uint16 with shape `(height, width)` or `(height,
            width, channels)`.

        **Returns:**

        The normalised pixels, with the image size and the channels of the model: a NumPy array.

        **Raises:** `ValueError` if it is not known how the weights need their images, or the image is not one;
        `MissingExtraError` if Pillow is not installed.
        """
        if self.config.preprocess is None:
            raise ValueError(
                "preprocess is not known for these weights, neither from the file nor from the settings beside it: "
                "pass one with vitrail.replace(model, preprocess=vitrail.Preprocess(...))"
            )
        return self.config.preprocess(image, self.config.image_size)


def model_card(
    source: Configured | Path | str,
    *,
    layout: str | None = None,
    config: Config = None,
    part: Part = None,
    prefix: str | None = None,
) -> ModelCard:
    """Describes a model, or a file of weights without reading its numbers: configuration, parameters, licence,
    preprocessing.

    !!! example

        ```python
        card = vitrail.model_card("model.safetensors")
        logits = model(card.preprocess(PIL.Image.open("cat.jpg")))
        ```

    **Arguments:**

    - `source`: a model, or a path or a name as `vitrail.load` takes it. For a name, only the header of the weights and
        the settings are downloaded.
    - `layout`, `config`: as in `vitrail.load`, for a file of a library.
    - `part`, `prefix`: as in `vitrail.load`, for a file.

    **Returns:**

    A `ModelCard`. Missing and unknown tensors are not an error here: the card lists them.

    **Raises:** `CheckpointError` if the file is damaged or has no known layout; `ValueError` if the arguments do not
    fit; `OSError` if the file cannot be read.
    """
    if not isinstance(source, str | Path):
        arrays = list_arrays(source)
        dtypes = Counter(str(array.dtype) for array in arrays.values())
        return _make_own_card(source.config, arrays, dtypes, isinstance(source.config, ImageTextConfig))
    with _open_header(source) as file:
        repository, commit = read_origin(file.path) or (None, None)
        if is_native(file):
            check_no_overrides(layout, config, prefix)
            card = _make_native_card(file, part)
        else:
            with recognise_file(file, layout, config, part, prefix) as checkpoint:
                card = make_card(checkpoint, choose_config(checkpoint, config))
        licence = card.licence or read_readme_licence(file.path) or (find_licence(repository) if repository else None)
    return replace(card, licence=licence, repository=repository, commit=commit)


@contextmanager
def _open_header(source: Path | str) -> Generator[AbstractSource]:
    """Opens a file, or the header of one of the Hub."""
    found = find_model(source)
    if isinstance(found, HubFile):
        found = fetch_header(found)
    if isinstance(found, AbstractSource):
        yield found
        return
    with open_source(found) as file:
        yield file


def make_card(checkpoint: Checkpoint, config: Configuration) -> ModelCard:
    layout = checkpoint.layout
    outline, plan = plan_model(checkpoint, config, convert=True)
    unused = [name for name in checkpoint.tensors if name not in plan.used]
    reasons = {name: layout.reason_to_ignore(name) for name in unused}
    return ModelCard(
        layout=layout.name,
        title=layout.title,
        kind=name_kind(config),
        config=get_image_config(config),
        parameters=_count_parameters(list_arrays(outline)),
        licence=_read_licence(checkpoint),
        ignored={name: why for name, why in reasons.items() if why is not None}
        | dict.fromkeys(checkpoint.outside, f"not under the prefix {checkpoint.prefix!r}"),
        missing=(*plan.wrong, *plan.missing),
        unknown=tuple(name for name, why in reasons.items() if why is None),
        dtypes=Counter(info.dtype for name, info in name_dtypes(checkpoint.tensors).items() if name in plan.used),
        assumed=checkpoint.assumed,
        embeds=isinstance(config, ImageTextConfig)
        or (get_image_config(config).classes is None and not plan.used.isdisjoint(layout.embeds)),
    )


def _make_native_card(file: AbstractSource, part: Part) -> ModelCard:
    config = read_header(file)[0]
    embeds = isinstance(config, ImageTextConfig)
    with blame_file(file.path, read_plugins(file)):
        expected = list_arrays(make_outline(config))
    tensors = name_dtypes(file.tensors)
    if part == "image" and not isinstance(config, ViTConfig):
        config, expected, tensors = get_image_config(config), *map(_get_image_arrays, (expected, tensors))
    found = compare_arrays(tensors, expected)
    dtypes = Counter(info.dtype for name, info in tensors.items() if name in expected)
    missing = (*found.wrong, *map(repr, found.missing))
    card = _make_own_card(config, expected, dtypes, embeds, missing, tuple(found.unknown))
    return replace(card, licence=file.metadata.get("license"))


def _get_image_arrays(arrays: Mapping[str, _T]) -> dict[str, _T]:
    """The arrays of a system's image model, by their names there."""
    return {name.removeprefix("image."): array for name, array in arrays.items() if name.startswith("image.")}


def _make_own_card(
    config: Configuration,
    arrays: Mapping[str, Any],
    dtypes: Mapping[str, int],
    embeds: bool,
    missing: tuple[str, ...] = (),
    unknown: tuple[str, ...] = (),
) -> ModelCard:
    image = get_image_config(config)
    return ModelCard(
        layout="vitrail",
        title="vitrail's own",
        kind=name_kind(config),
        config=image,
        parameters=_count_parameters(arrays),
        licence=None,
        ignored={},
        missing=missing,
        unknown=unknown,
        dtypes=dtypes,
        assumed={},
        embeds=embeds or has_pooler(image),
    )


def _count_parameters(arrays: Mapping[str, Any]) -> int:
    return sum(math.prod(array.shape) for array in arrays.values())


def _read_licence(checkpoint: Checkpoint) -> str | None:
    """The licence in the header of the file, or in the settings at the places where the library puts it."""
    for root in (checkpoint.metadata, checkpoint.settings):
        for place in checkpoint.layout.library.licence:
            found: object = root
            for name in place:
                found = cast("Mapping[str, Any]", found).get(name) if isinstance(found, Mapping) else None
            if isinstance(found, str):
                return found
    return None
