"""What the layouts of a `ViT` share."""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, cast

import equinox as eqx
import jax

from ..._spec import PartSpec
from ...encoder import EncoderOptions
from ...images import Preprocess
from ...model import ViT, ViTConfig
from ...nn import list_arrays
from ...position import LearnedPosition, RelativeBiasPosition
from .._configuration import make_outline
from ._preprocess import is_prepared_alike
from ._processor import find_preprocess_obstacle

_COMPARED: Final = (
    "encoder",
    "size",
    "channels",
    "windows",
    "neck_dim",
    "norm_order",
    "num_registers",
    "image_size",
    "patch_size",
    "num_classes",
    "classes",
    "patch",
    "position",
    "pool",
    "head",
)
_PARTS: Final[Mapping[str, Callable[[ViT], eqx.Module]]] = MappingProxyType(
    {
        "patch": lambda model: model.backbone.patch,
        "position": lambda model: model.backbone.position,
        "pool": lambda model: model.readout.pool,
        "head": lambda model: model.readout.head,
    }
)


def use_learned(rule: str, *, covers_prefix: bool | str = True) -> PartSpec:
    """A learned position embedding with the rule of its library for other sizes."""
    return PartSpec("learned", (("covers_prefix", covers_prefix), ("resize", rule)))


def use_attention_pool(*, activation: str, mlp_dim: int, norm_eps: float, num_heads: int) -> PartSpec:
    """The attention pool of SigLIP, with an MLP."""
    return PartSpec(
        "attention",
        (("activation", activation), ("mlp_dim", mlp_dim), ("norm_eps", norm_eps), ("num_heads", num_heads)),
    )


def has_pooler(config: ViTConfig) -> bool:
    """Whether the head is a layer with an activation. Its values are not scores of classes."""
    return isinstance(config.head, PartSpec) and dict(config.head.options).get("activation") is not None


def has_projection(config: ViTConfig) -> bool:
    """Whether CLIP's image tower ends with its projection."""
    return config.head != "none"


def find_misreading(config: ViTConfig, read: ViTConfig) -> str:
    """What differs between a configuration and the one that its tensors are read as; empty if nothing does."""
    # No file of tensors says where its layer scale began.
    if None not in (config.encoder.layer_scale, read.encoder.layer_scale):
        encoder = dataclasses.replace(read.encoder, layer_scale=config.encoder.layer_scale)
        read = dataclasses.replace(read, encoder=encoder)
    ours, theirs = (cast(ViT, make_outline(each)) for each in (config, read))
    for name in _COMPARED:
        wanted, found = getattr(config, name), getattr(read, name)
        if wanted != found and (name not in _PARTS or not _is_same(_PARTS[name](ours), _PARTS[name](theirs))):
            return describe_misreading(name, wanted, found)
    if not is_prepared_alike(config.preprocess, read.preprocess, config.image_size):
        return describe_misreading("preprocess", config.preprocess, read.preprocess)
    return ""


def list_shapes(config: ViTConfig) -> dict[str, tuple[int, ...]]:
    """The shapes of the arrays of a model by name."""
    return {name: array.shape for name, array in list_arrays(make_outline(config)).items()}


def write_sides(size: tuple[int, int]) -> int | list[int]:
    """Height and width as libraries write them: one number if they are equal."""
    return size[0] if size[0] == size[1] else list(size)


def find_square_obstacle(config: ViTConfig) -> str:
    """What of a model a library cannot say that knows squares alone: images or patches, or the preprocessing."""
    for name, (height, width) in (("image_size", config.image_size), ("patch_size", config.patch_size)):
        if height != width:
            return f"{name} must be square there, got {height} x {width}"
    return find_preprocess_obstacle(config)


def describe_misreading(name: str, wanted: object, found: object) -> str:
    """Says that a value would be read back as another one; of options, those that differ."""
    return f"{_show_value(name, wanted, found)} would be read back as {_show_value(name, found, wanted)}"


def _show_value(name: str, value: object, other: object) -> str:
    if isinstance(value, EncoderOptions | Preprocess) and type(value) is type(other):
        prefix = "" if isinstance(value, EncoderOptions) else f"{name}."
        fields = (field.name for field in dataclasses.fields(value))
        return ", ".join(f"{prefix}{n}={getattr(value, n)!r}" for n in fields if getattr(value, n) != getattr(other, n))
    text = repr(str(value) if isinstance(value, PartSpec) else value)
    return f"{name}={text if len(text) <= 100 else f'{text[:96]} ...'}"


def _is_same(ours: eqx.Module, theirs: eqx.Module) -> bool:
    """Whether two parts without their numbers are the same. The rule for other sizes belongs to the library."""
    if isinstance(ours, LearnedPosition | RelativeBiasPosition) and type(ours) is type(theirs):
        shapes = ({name: array.shape for name, array in list_arrays(part).items()} for part in (ours, theirs))
        return next(shapes) == next(shapes)
    structures = (cast(object, jax.tree.structure(part)) for part in (ours, theirs))
    return next(structures) == next(structures)
