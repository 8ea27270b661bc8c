"""What there is to know of a model or a file before it is used."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from jaxtyping import Array, Float

from ..model import ViT, ViTConfig
from ._checkpoint import has_pooler
from ._errors import describing
from ._layouts import open_source
from ._load import Config, identified, planned
from ._native import arrays_of, check_no_overrides, difference, header_of, is_native, named_as_jax, outline
from ._source import AbstractSource


@dataclass(frozen=True)
class ModelCard:
    """What there is to know of a model, or of a checkpoint that was not even loaded."""

    layout: str
    """The layout of the file: `"vitrail"` for our own, and for a model in memory."""
    title: str
    """Whose layout that is."""
    config: ViTConfig
    """The configuration."""
    parameters: int
    """How many numbers the model has."""
    classes: tuple[str, ...] | None
    """The names of the classes, where the settings beside the file have them."""
    licence: str | None
    """What the file says of its licence; `None` where it says nothing."""
    ignored: Mapping[str, str]
    """The tensors of the file that the model does not need, and why."""
    missing: tuple[str, ...]
    """What the model needs and the file has not, or has in another shape or dtype."""
    unknown: tuple[str, ...]
    """The tensors of the file of which nobody knows what they are for."""
    dtypes: Mapping[str, int]
    """How many of the tensors that the model is filled from have which dtype. All but float32 want `convert=True`."""
    assumed: Mapping[str, object]
    """What was assumed for settings that nothing says: by their names, which `config=` takes."""
    embeds: bool
    """Whether the head gives an embedding and not scores of classes: CLIP's projection, or a pooler."""

    @property
    def tokens(self) -> int:
        """How many tokens the encoder reads for one image."""
        return math.prod(self.config.grid) + outline(self.config).backbone.num_prefix

    @property
    def flops(self) -> int:
        """How many floating-point operations the matrix products of the patch embedding, the blocks and the neck take
        for one image; a multiplication and an addition are two."""
        config, tokens = self.config, self.tokens
        dim, mlp_dim, patches = config.size.dim, config.size.mlp_dim, math.prod(config.grid)
        matrices = 3 if config.encoder.activation == "swiglu" else 2
        everywhere = tokens, tokens**2
        windows = config.encoder.windows
        within = everywhere
        if windows is not None:
            number = math.prod(-(-side // windows.size) for side in config.grid)
            within = number * windows.size**2, number * windows.size**4
        num_global = config.size.depth if windows is None else len(windows.global_blocks)
        total = 2 * patches * dim * math.prod(config.patch_size) * config.channels
        for (read, pairs), blocks in ((everywhere, num_global), (within, config.size.depth - num_global)):
            total += blocks * (8 * read * dim**2 + 4 * pairs * dim + 2 * matrices * tokens * dim * mlp_dim)
        if config.neck_dim is not None:
            total += 2 * patches * config.neck_dim * (dim + 9 * config.neck_dim)
        return total

    def preprocess(self, image: object) -> Float[Array, "height width 3"]:
        """Prepares a picture as the weights want it.

        **Arguments:**

        - `image`: a picture of Pillow's, or a NumPy array of uint8 or uint16, `(height, width)` or
            `(height, width, channels)`. What becomes of transparency, 16 bits, palettes, CMYK and EXIF is said at
            [`Preprocess`][vitrail.Preprocess].

        **Returns:**

        The normalised pixels, of the model's image size.

        **Raises:** `ValueError` where nothing says how the weights want their pictures, or the image is none;
        `MissingExtraError` where Pillow is not installed.
        """
        if self.config.preprocess is None:
            raise ValueError(
                "preprocess must be known for these weights, but neither the file nor what lies beside it says how "
                "they want their pictures: give the configuration a vitrail.Preprocess, with dataclasses.replace"
            )
        return self.config.preprocess(image, self.config.image_size)


def model_card(source: ViT | Path | str, *, layout: str | None = None, config: Config = None) -> ModelCard:
    """What there is to know of a model, or of a file, whose numbers are not read for it.

    !!! example

        ```python
        card = vitrail.model_card("model.safetensors")
        logits = model(card.preprocess(PIL.Image.open("cat.jpg")))
        ```

    **Arguments:**

    - `source`: a model, or what `vitrail.load` takes.
    - `layout`, `config`: as in `vitrail.load`, for a file; a file of vitrail's own takes neither.

    **Returns:**

    A `ModelCard`. A file that lacks tensors, or has some too many, is no error here: the card names them.

    **Raises:** `CheckpointError` where the file is not what it claims, or is of no known layout; `ValueError` where
    the arguments do not fit; `OSError` where the file cannot be read.
    """
    if isinstance(source, ViT):
        leaves = arrays_of(source)
        dtypes = Counter(str(leaf.dtype) for leaf in leaves.values())
        return _own_card(source.config, leaves, dtypes)
    path = Path(source)
    file = open_source(path)
    if is_native(file):
        check_no_overrides(layout, config)
        return _native_card(file)
    known, file, checkpoint, config = identified(file, path, layout, config)
    settings = checkpoint.settings
    model, made = planned(known, config, checkpoint, convert=True)
    others = [name for name in checkpoint.tensors if name not in made.used]
    reasons = {name: known.reason(name) for name in others}
    return ModelCard(
        layout=known.name,
        title=known.title,
        config=config,
        parameters=_parameters(arrays_of(model)),
        classes=_classes(settings, config.num_classes),
        licence=_licence(settings, file.metadata),
        ignored={name: why for name, why in reasons.items() if why is not None},
        missing=(*made.wrong, *made.missing),
        unknown=tuple(name for name, why in reasons.items() if why is None),
        dtypes=Counter(info.dtype for name, info in named_as_jax(checkpoint.tensors).items() if name in made.used),
        assumed=checkpoint.assumed,
        embeds=known.embeds(config),
    )


def _native_card(file: AbstractSource) -> ModelCard:
    config, _ = header_of(file)
    with describing(file.path):
        expected = arrays_of(outline(config))
    tensors = named_as_jax(file.tensors)
    found = difference(tensors, expected)
    missing = (*found.wrong, *map(repr, found.missing))
    dtypes = Counter(info.dtype for name, info in tensors.items() if name in expected)
    return _own_card(config, expected, dtypes, missing, tuple(found.unknown))


def _own_card(
    config: ViTConfig,
    arrays: Mapping[str, Any],
    dtypes: Mapping[str, int],
    missing: tuple[str, ...] = (),
    unknown: tuple[str, ...] = (),
) -> ModelCard:
    return ModelCard(
        layout="vitrail",
        title="vitrail's own",
        config=config,
        parameters=_parameters(arrays),
        classes=None,
        licence=None,
        ignored={},
        missing=missing,
        unknown=unknown,
        dtypes=dtypes,
        assumed={},
        embeds=has_pooler(config),
    )


def _parameters(arrays: Mapping[str, Any]) -> int:
    return sum(math.prod(array.shape) for array in arrays.values())


def _classes(settings: Mapping[str, Any], num_classes: int | None) -> tuple[str, ...] | None:
    """Hugging Face's names of the classes; `None` where there are none, or those that it makes up."""
    given = settings.get("id2label")
    if num_classes is None or not isinstance(given, dict):
        return None
    labels = {str(key): str(label) for key, label in cast("dict[str, Any]", given).items()}
    names = tuple(labels.get(str(place), "") for place in range(num_classes))
    return None if "" in names or names == tuple(f"LABEL_{i}" for i in range(num_classes)) else names


def _licence(settings: Mapping[str, Any], metadata: Mapping[str, str]) -> str | None:
    """A licence where the file's header or the settings name one."""
    pretrained = settings.get("pretrained_cfg")
    places = metadata, settings, cast("dict[str, Any]", pretrained) if isinstance(pretrained, dict) else {}
    found = (place.get(name) for place in places for name in ("license", "licence"))
    return next((licence for licence in found if isinstance(licence, str)), None)
