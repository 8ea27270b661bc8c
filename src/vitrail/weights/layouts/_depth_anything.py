"""The layouts of Depth Anything: Hugging Face's, and its authors'.

Source: transformers 5.23.0, the module `depth_anything`; LiheYoung/Depth-Anything `depth_anything/dpt.py`, and
DepthAnything/Depth-Anything-V2 `depth_anything_v2/dpt.py` and `metric_depth/depth_anything_v2/dpt.py`.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Final, cast

from ...dense import DepthEnding
from ...model import ViTConfig
from ...systems import DenseConfig
from .._errors import CheckpointError
from ._checkpoint import Checkpoint
from ._dense import (
    HUGGING_FACE as HUGGING_FACE_NAMES,
    Names,
    find_dense_misreading,
    find_dense_obstacle,
    get_readout,
    map_dense,
    read_picture_size,
    read_readout,
    write_dense_preprocess,
    write_readout,
    write_unread,
)
from ._dinov2 import HF_DINOV2, META_DINOV2_IMAGE
from ._dpt import READOUT, UNREAD, check_index, read_layers, select_backbone, write_backbone
from ._hugging_face import check_model_type
from ._layout import Export, Layout, Library, Settings
from ._libraries import HUGGING_FACE
from ._preprocess import IMAGENET, Preprocess

_IN_HUGGING_FACE: Final = dataclasses.replace(
    HUGGING_FACE_NAMES,
    depth=MappingProxyType({"conv1": "head.conv1", "conv2": "head.conv2", "out": "head.conv3"}),
    segmentation={},
)
_BY_ITS_AUTHORS: Final = Names(
    read="depth_head.readout_projects.{n}.0",
    project="depth_head.projects.{n}",
    resize="depth_head.resize_layers.{n}",
    refine="depth_head.scratch.layer{m}_rn",
    fusion="depth_head.scratch.refinenet{r}.",
    fused="out_conv",
    skip="resConfUnit1.",
    unit="resConfUnit2.",
    convs=("conv1", "conv2"),
    norms=("bn1", "bn2"),
    depth=MappingProxyType(
        {
            "conv1": "depth_head.scratch.output_conv1",
            "conv2": "depth_head.scratch.output_conv2.0",
            "out": "depth_head.scratch.output_conv2.2",
        }
    ),
)
_VERSION_2: Final[Mapping[int, tuple[int, ...]]] = MappingProxyType(
    {12: (2, 5, 8, 11), 24: (4, 11, 17, 23), 40: (9, 19, 29, 39)}
)
"""The blocks that the second version reads, by the number of blocks. The first version reads the last four."""


def _read_config_hugging_face(checkpoint: Checkpoint) -> DenseConfig:
    check_model_type(checkpoint)
    check_index(checkpoint)
    image = _IMAGE.read_config(checkpoint.view(layout=_IMAGE))
    inner = select_backbone(checkpoint)
    norm = inner.get_setting("apply_layernorm", bool, True)
    return _read_dense(checkpoint, image, _IN_HUGGING_FACE, layers=read_layers(inner, image.size.depth), norm=norm)


def _read_config(checkpoint: Checkpoint) -> DenseConfig:
    image = _AUTHORS_IMAGE.read_config(checkpoint.view(layout=_AUTHORS_IMAGE))
    version, depth = checkpoint.settings.get("version"), image.size.depth
    if version not in (1, 2) or (version == 2 and checkpoint.settings.get("depth_estimation_type") is None):
        raise CheckpointError(
            f"{checkpoint.path} does not say which Depth Anything it is, and the tensors of all are alike: pass "
            "config={'version': 1}, or config={'version': 2, 'depth_estimation_type': 'relative'}, or for metres "
            "config={'version': 2, 'depth_estimation_type': 'metric', 'max_depth': 20}, which is 80 outdoors"
        )
    layers = tuple(range(depth - 4, depth)) if version == 1 else _VERSION_2.get(depth)
    if layers is None or layers[0] < 0:
        raise CheckpointError(
            f"{checkpoint.path} must have the blocks of a published Depth Anything, {', '.join(map(str, _VERSION_2))}, "
            f"got {depth}: save the model in vitrail's own format"
        )
    return _read_dense(checkpoint, image, _BY_ITS_AUTHORS, layers=layers, norm=True)


def _read_dense(checkpoint: Checkpoint, image: ViTConfig, names: Names, **options: Any) -> DenseConfig:
    kind = checkpoint.get_setting("depth_estimation_type", str, "relative")
    if kind not in ("relative", "metric"):
        raise CheckpointError(
            f"the setting 'depth_estimation_type' beside {checkpoint.path} must be 'relative' or 'metric', got {kind!r}"
        )
    if kind == "metric" and checkpoint.settings.get("max_depth") is None:
        raise CheckpointError(
            f"{checkpoint.path} does not say at how many metres its depth ends: pass config= with 'max_depth', which "
            "is 20 for rooms and 80 outdoors"
        )
    readout = read_readout(
        checkpoint,
        names,
        image.size.dim,
        hidden_dim=checkpoint.get_shape(f"{names.depth['conv2']}.weight", 4)[0],
        depth_activation="relu" if kind == "relative" else "sigmoid",
        max_depth=checkpoint.get_setting("max_depth", float, 1.0),
        **options,
    )
    return DenseConfig(image=image, readout=readout, picture_size=read_picture_size(checkpoint, image))


def _read_image(checkpoint: Checkpoint) -> ViTConfig:
    return HF_DINOV2.read_config(select_backbone(checkpoint))


def _write_config(config: DenseConfig) -> Settings:
    readout, inner = get_readout(config), write_backbone(config)
    if not isinstance(readout.ending, DepthEnding):
        raise ValueError(
            "model must estimate depth to be written as 'hf_depth_anything', got one that segments: write it as "
            "'hf_dpt'"
        )
    ending = readout.ending
    return {
        "architectures": ["DepthAnythingForDepthEstimation"],
        "model_type": "depth_anything",
        "transformers_version": inner["transformers_version"],
        "dtype": "float32",
        "backbone_config": inner,
        "patch_size": config.image.patch_size[0],
        "reassemble_hidden_size": config.image.size.dim,
        **write_readout(config),
        "head_hidden_size": ending.conv2.weight.shape[0],
        "depth_estimation_type": "relative" if ending.activation == "relu" else "metric",
        "max_depth": int(ending.max_depth) if ending.max_depth == int(ending.max_depth) else ending.max_depth,
    }


def _find_obstacle(config: DenseConfig) -> str:
    return find_dense_obstacle(config) or cast("Export[ViTConfig]", HF_DINOV2.export).find_obstacle(config.image)


_KEPT: Final = Preprocess("keep", "bicubic", *IMAGENET, multiple=14)

_IMAGE: Final = dataclasses.replace(
    HF_DINOV2,
    name="hf_depth_anything",
    title="the DINOv2 of Hugging Face's Depth Anything",
    read_config=_read_image,
    signature=(*HF_DINOV2.signature, "neck.convs.0.weight", "head.conv3.weight"),
    prefixes=("backbone.",),
    preprocess={"": _KEPT},
    ignored=(*HF_DINOV2.ignored, *READOUT),
    export=None,
)
HF_DEPTH_ANYTHING: Final = Layout(
    name="hf_depth_anything",
    title="Hugging Face's Depth Anything",
    library=HUGGING_FACE,
    read_config=_read_config_hugging_face,
    rules=partial(map_dense, image=_IMAGE, prefix="backbone.", names=_IN_HUGGING_FACE),
    signature=("backbone.embeddings.cls_token", "neck.convs.0.weight", "head.conv3.weight"),
    kind=DenseConfig,
    image=_IMAGE,
    model_types=("depth_anything",),
    ignored=UNREAD,
    export=Export(
        find_dense_misreading,
        write_config=_write_config,
        write_preprocess=write_dense_preprocess,
        find_obstacle=_find_obstacle,
        write_unread=write_unread,
    ),
)
_AUTHORS: Final = Library(name="Depth Anything")
_AUTHORS_IMAGE: Final = dataclasses.replace(
    META_DINOV2_IMAGE,
    name="depth_anything",
    title="the DINOv2 of Depth Anything",
    library=_AUTHORS,
    signature=(*META_DINOV2_IMAGE.signature, "depth_head.scratch.layer1_rn.weight"),
    prefixes=("pretrained.",),
    preprocess={"": _KEPT},
    ignored=(*META_DINOV2_IMAGE.ignored, (r"depth_head\..*", "the readout of the whole model")),
)
DEPTH_ANYTHING: Final = Layout(
    name="depth_anything",
    title="Depth Anything, as its authors publish it",
    library=_AUTHORS,
    read_config=_read_config,
    rules=partial(map_dense, image=_AUTHORS_IMAGE, prefix="pretrained.", names=_BY_ITS_AUTHORS),
    signature=("pretrained.pos_embed", "depth_head.scratch.layer1_rn.weight"),
    kind=DenseConfig,
    image=_AUTHORS_IMAGE,
    ignored=(
        (r"pretrained\.mask_token", "only masked images need it"),
        (r"depth_head\.scratch\.refinenet4\.resConfUnit1\..*", "the coarsest map is added to none"),
    ),
)
