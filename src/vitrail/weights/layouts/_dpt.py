"""The layouts of DPT: Hugging Face's, with a ViT or with DINOv2 as its image model.

Source: transformers 5.23.0, the module `dpt`.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final, cast

from ...dense import DepthEnding
from ...model import ViTConfig
from ...systems import DenseConfig
from .._errors import CheckpointError
from ._checkpoint import Checkpoint
from ._dense import (
    HUGGING_FACE as NAMES,
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
from ._dinov2 import HF_DINOV2
from ._hf_vit import HF_VIT
from ._hugging_face import check_model_type, name_activation, read_activation, write_config, write_labels
from ._layout import Export, Layout, Settings
from ._libraries import HUGGING_FACE
from ._preprocess import HALF, Preprocess
from ._vit import use_learned


def select_backbone(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with the settings of its image model, which Hugging Face has inside those of the whole."""
    inner = checkpoint.settings.get("backbone_config")
    return checkpoint.view(settings=cast("Mapping[str, Any]", inner) if isinstance(inner, Mapping) else {})


def read_layers(checkpoint: Checkpoint, depth: int) -> tuple[int, ...]:
    """The blocks that a backbone of Hugging Face returns the tokens of. It counts the embedding as 0."""
    given = checkpoint.settings.get("out_indices")
    if given is None:
        stages = _to_list(checkpoint.settings.get("out_features")) or []
        given = [int(n) for n in (str(stage).removeprefix("stage") for stage in stages) if n.isdigit()] or None
    return check_layers(checkpoint, given, depth, "out_indices", first=1)


def _to_list(given: object) -> list[object] | None:
    """A list or a tuple of settings as a list; `None` if it is something else."""
    return list(cast("list[object]", given)) if isinstance(given, list | tuple) else None


def check_layers(checkpoint: Checkpoint, given: object, depth: int, setting: str, *, first: int) -> tuple[int, ...]:
    """The blocks in a setting, which counts them from `first`, in their order.

    **Raises:** `CheckpointError` if there are none, or one of them is no block.
    """
    if given is None:
        raise CheckpointError(
            f"{checkpoint.path} does not say which blocks its readout reads, and published models differ: put its "
            f"config.json beside it, or pass config= with {setting!r}"
        )
    numbers = _to_list(given) or []
    blocks = [n - first for n in numbers if isinstance(n, int) and 0 <= n - first < depth]
    if not blocks or len(blocks) < len(numbers):
        raise CheckpointError(
            f"the setting {setting!r} beside {checkpoint.path} must name some of the {depth} blocks, got {given!r}"
        )
    return tuple(sorted(blocks))


def check_index(checkpoint: Checkpoint) -> None:
    """Raises a `CheckpointError` if the depth is not read from the finest map."""
    if (given := checkpoint.settings.get("head_in_index")) not in (None, -1):
        raise CheckpointError(f"the setting 'head_in_index' beside {checkpoint.path} must be -1, got {given!r}")


def _read_image(checkpoint: Checkpoint) -> ViTConfig:
    config = HF_VIT.read_config(checkpoint)
    # Its positions are resampled in another way, and DPT reads no pooler.
    position = use_learned("bilinear")
    return dataclasses.replace(config, position=position, pool="cls", head="none", num_classes=None, classes=None)


def _read_image_dinov2(checkpoint: Checkpoint) -> ViTConfig:
    return HF_DINOV2.read_config(select_backbone(checkpoint))


def _read_config(checkpoint: Checkpoint) -> DenseConfig:
    check_model_type(checkpoint)
    if checkpoint.settings.get("is_hybrid") or "dpt.embeddings.patch_embeddings.projection.weight" not in checkpoint:
        raise CheckpointError(
            f"{checkpoint.path} is a DPT-Hybrid, whose image model begins with a ResNet, which vitrail does not have: "
            "use a DPT with a ViT or with DINOv2, as dpt-large or dpt-dinov2-small-nyu"
        )
    image = _IMAGE.read_config(checkpoint.view(layout=_IMAGE))
    depth = image.size.depth
    given = checkpoint.settings.get("backbone_out_indices")
    if given is None:
        given = checkpoint.assumed["backbone_out_indices"] = [depth * quarter // 4 - 1 for quarter in (1, 2, 3, 4)]
    layers = check_layers(checkpoint, given, depth, "backbone_out_indices", first=0)
    return _read_dense(checkpoint, image, layers=layers, norm=False)


def _read_config_dinov2(checkpoint: Checkpoint) -> DenseConfig:
    check_model_type(checkpoint)
    image = _IMAGE_DINOV2.read_config(checkpoint.view(layout=_IMAGE_DINOV2))
    inner = select_backbone(checkpoint)
    norm = inner.get_setting("apply_layernorm", bool, True)
    return _read_dense(checkpoint, image, layers=read_layers(inner, image.size.depth), norm=norm)


def _read_dense(checkpoint: Checkpoint, image: ViTConfig, *, layers: tuple[int, ...], norm: bool) -> DenseConfig:
    check_index(checkpoint)
    options: dict[str, Any] = {
        "layers": layers,
        "norm": norm,
        "upsampling": "double",
        "use_class_token": _read_class_token_use(checkpoint),
        "activation": read_activation(checkpoint, "gelu"),
    }
    dim, size = image.size.dim, read_picture_size(checkpoint, image)
    if "head.head.1.running_mean" in checkpoint:
        num_classes = checkpoint.get_shape("head.head.4.weight", 4)[0]
        return DenseConfig(
            image=image,
            readout=read_readout(checkpoint, NAMES, dim, **options),
            num_classes=num_classes,
            classes=checkpoint.find_classes(num_classes),
            picture_size=size,
        )
    options["refine"] = "head.projection.weight" in checkpoint
    options["hidden_dim"] = checkpoint.get_shape("head.head.2.weight", 4)[0]
    return DenseConfig(image=image, readout=read_readout(checkpoint, NAMES, dim, **options), picture_size=size)


def _read_class_token_use(checkpoint: Checkpoint) -> str:
    usual = "project" if NAMES.read.format(n=0) + ".weight" in checkpoint else None
    given = checkpoint.settings.get("readout_type", usual)
    if given not in ("ignore", "add", "project"):
        raise CheckpointError(
            f"{checkpoint.path} does not say whether its readout ignores the class token or adds it, got "
            f"readout_type={given!r}: put its config.json beside it, or pass config={{'readout_type': ...}}"
        )
    return given


def _write_config(config: DenseConfig) -> Settings:
    layers = list(get_readout(config).layers)
    common = write_config(config.image, "dpt", _name_class(config), qkv_bias=config.image.encoder.qkv_bias)
    return {**common, "backbone_config": None, "backbone_out_indices": layers, **_write_dpt(config)}


def _write_config_dinov2(config: DenseConfig) -> Settings:
    common = {"architectures": [_name_class(config)], "model_type": "dpt", "dtype": "float32"}
    inner = write_backbone(config)
    version = {"transformers_version": inner["transformers_version"]}
    return {**common, **version, "backbone_config": inner, **_write_dpt(config)}


def write_backbone(config: DenseConfig) -> Settings:
    """Makes the `backbone_config` of DINOv2, which says what the readout reads."""
    readout, image = get_readout(config), config.image
    stages = [layer % image.size.depth + 1 for layer in readout.layers]
    return {
        **_DINOV2.write_config(image),
        "out_indices": stages,
        "out_features": [f"stage{stage}" for stage in stages],
        "apply_layernorm": readout.norm,
        "reshape_hidden_states": False,
    }


def _write_dpt(config: DenseConfig) -> Settings:
    readout = get_readout(config)
    stage, unit = readout.reassemble[0], readout.fusion[0].refine
    return {
        **write_readout(config),
        "hidden_act": name_activation(stage.activation),
        "is_hybrid": False,
        "readout_type": stage.class_token,
        "use_batch_norm_in_fusion_residual": unit.norm1 is not None,
        "use_bias_in_fusion_residual": unit.conv1.bias is not None,
        "add_projection": isinstance(readout.ending, DepthEnding) and readout.ending.refine is not None,
        "use_auxiliary_head": False,
        **({} if config.num_classes is None else write_labels(config)),
    }


def _name_class(config: DenseConfig) -> str:
    return "DPTForDepthEstimation" if config.num_classes is None else "DPTForSemanticSegmentation"


def _find_obstacle(config: DenseConfig) -> str:
    ending = get_readout(config).ending
    if isinstance(ending, DepthEnding) and ending.conv2.weight.shape[0] != 32:
        return f"hidden_dim must be 32 there, got {ending.conv2.weight.shape[0]}"
    if isinstance(ending, DepthEnding) and ending.refine is not None and ending.conv1.weight.shape[1] != 256:
        return f"fusion_dim must be 256 there with refine=True, got {ending.conv1.weight.shape[1]}"
    return find_dense_obstacle(config)


def _find_obstacle_dinov2(config: DenseConfig) -> str:
    if config.num_classes is not None:
        return "a segmentation has a ViT as its image model there"
    return _find_obstacle(config) or _DINOV2.find_obstacle(config.image)


_DINOV2: Final = cast("Export[ViTConfig]", HF_DINOV2.export)
_COUNTER: Final = (r".*\.num_batches_tracked", "counts the batches of training")
UNREAD: Final = (
    (r"neck\.fusion_stage\.layers\.0\.residual_layer1\..*", "the coarsest map is added to none"),
    (r"backbone\.embeddings\.mask_token", "only masked images need it"),
    (r"auxiliary_head\..*", "part of the loss of training"),
    (r"dpt\.pooler\..*", "the pooler, which the readout does not read"),
    _COUNTER,
)
READOUT: Final = ((r"(neck|head|auxiliary_head)\..*", "the readout of the whole model"),)

_IMAGE: Final = replace(
    HF_VIT,
    name="hf_dpt",
    title="the ViT of Hugging Face's DPT",
    read_config=_read_image,
    signature=(*HF_VIT.signature, "neck.convs.0.weight"),
    prefixes=("dpt.",),
    model_types=("dpt",),
    preprocess={"": Preprocess("squash", "bicubic", *HALF)},
    ignored=(*HF_VIT.ignored, *READOUT),
    export=None,
)
HF_DPT: Final = Layout(
    name="hf_dpt",
    title="Hugging Face's DPT",
    library=HUGGING_FACE,
    read_config=_read_config,
    rules=partial(map_dense, image=_IMAGE, prefix="dpt.", names=NAMES),
    signature=("dpt.embeddings.cls_token", "neck.convs.0.weight"),
    kind=DenseConfig,
    image=_IMAGE,
    model_types=("dpt",),
    usual={"hidden_act": "gelu"},
    ignored=UNREAD,
    export=Export(
        find_dense_misreading,
        write_config=_write_config,
        write_preprocess=write_dense_preprocess,
        find_obstacle=_find_obstacle,
        write_unread=write_unread,
    ),
)
_IMAGE_DINOV2: Final = replace(
    HF_DINOV2,
    name="hf_dpt_dinov2",
    title="the DINOv2 of Hugging Face's DPT",
    read_config=_read_image_dinov2,
    signature=(*HF_DINOV2.signature, "neck.convs.0.weight", "head.head.0.weight"),
    prefixes=("backbone.",),
    preprocess={},
    ignored=(*HF_DINOV2.ignored, *READOUT),
    export=None,
)
HF_DPT_DINOV2: Final = replace(
    HF_DPT,
    name="hf_dpt_dinov2",
    title="Hugging Face's DPT with DINOv2",
    read_config=_read_config_dinov2,
    rules=partial(map_dense, image=_IMAGE_DINOV2, prefix="backbone.", names=NAMES),
    signature=("backbone.encoder.layer.0.layer_scale1.lambda1", "neck.convs.0.weight", "head.head.0.weight"),
    image=_IMAGE_DINOV2,
    export=Export(
        find_dense_misreading,
        write_config=_write_config_dinov2,
        write_preprocess=write_dense_preprocess,
        find_obstacle=_find_obstacle_dinov2,
        write_unread=write_unread,
    ),
)
