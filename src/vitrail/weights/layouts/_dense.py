"""What the layouts of dense models share: the names of DPT's parts, and what they say of the model."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, cast

import jax
import numpy as np

from ..._spec import PartSpec
from ...dense import DPTReadout
from ...model import ViTConfig
from ...nn import Conv, Upscale
from ...systems import Dense, DenseConfig
from .._configuration import make_outline
from .._errors import CheckpointError
from .._rules import Rule, map_names, prefix_rules
from ..formats import NumpyArray
from ._checkpoint import Checkpoint
from ._layout import Layout, Settings
from ._processor import PROCESSOR, write_hugging_face_preprocess
from ._vit import describe_misreading, find_misreading, find_square_obstacle


@dataclass(frozen=True)
class Names:
    """What a library calls the parts of DPT.

    `{n}` stands for the number of a map counted from 0 at the finest one, `{m}` for the same counted from 1; `{k}` for
    the number of a fusion counted from 0 at the coarsest map, `{r}` for that counted from 1 at the finest one.
    """

    read: str
    project: str
    resize: str
    refine: str
    fusion: str
    fused: str
    skip: str
    unit: str
    convs: tuple[str, str]
    norms: tuple[str, str]
    depth: Mapping[str, str]
    """The names in an ending with a depth, by ours."""
    segmentation: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    """The names in an ending with classes, by ours; empty if the library has none."""


HUGGING_FACE: Final = Names(
    read="neck.reassemble_stage.readout_projects.{n}.0",
    project="neck.reassemble_stage.layers.{n}.projection",
    resize="neck.reassemble_stage.layers.{n}.resize",
    refine="neck.convs.{n}",
    fusion="neck.fusion_stage.layers.{k}.",
    fused="projection",
    skip="residual_layer1.",
    unit="residual_layer2.",
    convs=("convolution1", "convolution2"),
    norms=("batch_norm1", "batch_norm2"),
    depth=MappingProxyType(
        {"refine": "head.projection", "conv1": "head.head.0", "conv2": "head.head.2", "out": "head.head.4"}
    ),
    segmentation=MappingProxyType({"conv": "head.head.0", "norm": "head.head.1", "out": "head.head.4"}),
)
_BATCH_NORM: Final = MappingProxyType(
    {"weight": "weight", "bias": "bias", "running_mean": "mean", "running_var": "variance"}
)


def map_dense(config: DenseConfig, *, image: Layout[ViTConfig], prefix: str, names: Names) -> tuple[Rule, ...]:
    """The rules of an image model with a prefix, and those of DPT's readout.

    **Raises:** `ValueError` if the readout is another one.
    """
    number = len(get_readout(config).layers)
    rules = [*prefix_rules(image.rules(config.image), ours="image.", theirs=prefix)]
    for n in range(number):
        ours = f"readout.reassemble.{n}"
        read, project, resize, refine = (
            name.format(n=n, m=n + 1) for name in (names.read, names.project, names.resize, names.refine)
        )
        rules += [map_names(f"{read}.*", f"{ours}.read.*"), *_map_pointwise(project, f"{ours}.project")]
        rules += [map_names(f"{resize}.*", f"{ours}.resize.*"), map_names(f"{refine}.*", f"{ours}.refine.*")]
    for k in range(number):
        ours, theirs = f"readout.fusion.{k}", names.fusion.format(k=k, r=number - k)
        rules += _map_pointwise(theirs + names.fused, f"{ours}.project")
        for unit, name in (("skip", names.skip), ("refine", names.unit)):
            for i, conv, norm in zip((1, 2), names.convs, names.norms, strict=True):
                rules.append(map_names(f"{theirs}{name}{conv}.*", f"{ours}.{unit}.conv{i}.*"))
                rules += _map_batch_norm(f"{theirs}{name}{norm}", f"{ours}.{unit}.norm{i}")
    ending = names.depth if config.num_classes is None else names.segmentation
    for ours, theirs in ending.items():
        if ours == "out":
            rules += _map_pointwise(theirs, "readout.ending.out")
        elif ours == "norm":
            rules += _map_batch_norm(theirs, "readout.ending.norm")
        else:
            rules.append(map_names(f"{theirs}.*", f"readout.ending.{ours}.*"))
    return tuple(rules)


def _map_pointwise(theirs: str, ours: str) -> tuple[Rule, Rule]:
    """A convolution of one pixel, which is a linear layer of ours."""
    return (
        map_names(f"{theirs}.weight", f"{ours}.weight", "o i 1 1 -> o i"),
        map_names(f"{theirs}.bias", f"{ours}.bias"),
    )


def _map_batch_norm(theirs: str, ours: str) -> tuple[Rule, ...]:
    return tuple(map_names(f"{theirs}.{name}", f"{ours}.{field}") for name, field in _BATCH_NORM.items())


def get_readout(config: DenseConfig) -> DPTReadout:
    """The readout of a configuration, without numbers."""
    readout = cast(Dense, make_outline(config)).readout
    if not isinstance(readout, DPTReadout):
        raise ValueError(f"the readout must be 'dpt' to have the names of DPT, got {config.readout!r}")
    return readout


def read_readout(checkpoint: Checkpoint, names: Names, dim: int, **options: Any) -> PartSpec:
    """DPT's options, as far as shapes say them, and `options`."""
    number = checkpoint.count_blocks(names.project.replace("{n}", "{i}") + ".weight")
    factors = cast(Any, checkpoint.settings.get("reassemble_factors") or (None,) * number)
    if not isinstance(factors, list | tuple) or len(cast("list[object]", factors)) != number:
        raise CheckpointError(
            f"the setting 'reassemble_factors' beside {checkpoint.path} must have a number for each of {number} maps, "
            f"got {factors!r}"
        )
    maps = [
        _read_map(checkpoint, names.project.format(n=n), names.resize.format(n=n), dim, factor)
        for n, factor in enumerate(cast("list[object]", factors))
    ]
    unit = names.fusion.format(k=number - 1, r=1) + names.unit
    found = {
        "widths": tuple(width for width, _ in maps),
        "scales": tuple(scale for _, scale in maps),
        "fusion_dim": checkpoint.get_shape(names.refine.format(n=0, m=1) + ".weight", 4)[0],
        "fusion_bias": f"{unit}{names.convs[0]}.bias" in checkpoint,
        "batch_norm": f"{unit}{names.norms[0]}.running_mean" in checkpoint,
    }
    return PartSpec("dpt", tuple(sorted((found | options).items())))


def _read_map(checkpoint: Checkpoint, project: str, resize: str, dim: int, factor: object) -> tuple[int, float]:
    """The width of a map, and its scale: the given one, or else the kernel; a kernel of 3 has DPT's stride of 2."""
    width, read, *_ = checkpoint.get_shape(f"{project}.weight", 4)
    if read != dim:
        raise CheckpointError(f"{checkpoint.path} must have {project + '.weight'!r} for {dim} channels, got {read}")
    kernel = checkpoint.get_shape(f"{resize}.weight", 4)[2] if f"{resize}.weight" in checkpoint else 1
    scale = factor if isinstance(factor, int | float) else 0.5 if kernel == 3 else kernel
    return width, int(scale) if scale == int(scale) else scale


def find_dense_misreading(config: DenseConfig, read: DenseConfig) -> str:
    """What differs between a configuration and the one that its tensors are read as; empty if nothing does."""
    if problem := find_misreading(config.image, read.image):
        return f"of the image model, {problem}"
    for name in ("num_classes", "classes", "picture_size"):
        if getattr(config, name) != getattr(read, name):
            return describe_misreading(name, getattr(config, name), getattr(read, name))
    structures = [cast(object, jax.tree.structure(get_readout(each))) for each in (config, read)]
    if structures[0] == structures[1]:
        return ""
    ours, theirs = (dict(each.readout.options) if isinstance(each.readout, PartSpec) else {} for each in (config, read))
    for name in ours.keys() & theirs.keys():
        if ours[name] != theirs[name]:
            return f"of the readout, {describe_misreading(name, ours[name], theirs[name])}"
    return describe_misreading("readout", config.readout, read.readout)


def find_dense_obstacle(config: DenseConfig) -> str:
    """What of a dense model no library can say, in words; empty if there is nothing."""
    preprocess = config.image.preprocess
    if preprocess is not None and (preprocess.fit not in ("keep", "squash") or preprocess.crop != 1):
        return f"preprocess must have fit='keep' or fit='squash' and no crop there, got {preprocess}"
    return find_square_obstacle(config.image)


def write_readout(config: DenseConfig) -> Settings:
    """The settings of Hugging Face's that DPT and Depth Anything share."""
    readout = get_readout(config)
    return {
        "reassemble_factors": [_find_scale(stage.resize) for stage in readout.reassemble],
        "neck_hidden_sizes": [stage.project.weight.shape[0] for stage in readout.reassemble],
        "fusion_hidden_size": readout.fusion[0].project.weight.shape[0],
        "head_in_index": -1,
    }


def _find_scale(resize: Upscale | Conv | None) -> float:
    match resize:
        case None:
            return 1
        case Upscale(weight=weight):
            return weight.shape[-1]
        case Conv(stride=stride):
            return 1 / stride


def write_dense_preprocess(config: DenseConfig) -> Settings:
    """Makes Hugging Face's `preprocessor_config.json` of a `DPTImageProcessor`; empty if nothing says it."""
    if not (written := write_hugging_face_preprocess(config.image)):
        return {}
    height, width = config.picture_size or config.image.image_size
    return {**written, "image_processor_type": "DPTImageProcessor", "size": {"height": height, "width": width}}


def read_picture_size(checkpoint: Checkpoint, image: ViTConfig) -> tuple[int, int] | None:
    """The size that Hugging Face's processor scales pictures to, if it is not that of the image model."""
    given = (checkpoint.beside(PROCESSOR) or {}).get("size")
    if isinstance(given, Mapping):
        sides = cast("Mapping[str, object]", given)
        given = [sides.get("height"), sides.get("width")]
    if given is None or image.preprocess is None:
        return None
    size = checkpoint.read_size(given)
    return None if size == image.image_size else size


def write_unread(config: DenseConfig) -> Mapping[str, NumpyArray]:
    """What Hugging Face's model has and never reads: how the coarsest map would be added to none, and counters."""
    readout = get_readout(config)
    names, coarsest = HUGGING_FACE, readout.fusion[0].refine
    first = names.fusion.format(k=0) + names.skip
    found: dict[str, NumpyArray] = {}
    counted: list[str] = [] if config.num_classes is None else [names.segmentation["norm"]]
    for conv, norm in zip(names.convs, names.norms, strict=True):
        arrays = {"weight": coarsest.conv1.weight, "bias": coarsest.conv1.bias}
        found |= {f"{first}{conv}.{n}": np.zeros(a.shape, np.float32) for n, a in arrays.items() if a is not None}
        if coarsest.norm1 is not None:
            found |= {f"{first}{norm}.{name}": np.zeros(coarsest.norm1.mean.shape, np.float32) for name in _BATCH_NORM}
            fusions = range(len(readout.fusion))
            counted += [names.fusion.format(k=k) + unit + norm for k in fusions for unit in (names.skip, names.unit)]
    return found | {f"{norm}.num_batches_tracked": np.zeros((), np.int64) for norm in counted}
