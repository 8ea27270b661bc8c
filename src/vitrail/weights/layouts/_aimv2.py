"""The layouts of AIMv2's image model: timm's, Apple's own, and Hugging Face's.

Source: timm 1.0.31, `models/vision_transformer.py`, whose `_convert_aimv2` has Apple's names; transformers 5.23.0, the
module `aimv2`.
"""

import re
from functools import partial
from typing import Any, Final, Literal

from ..._spec import PartSpec
from ...encoder import EncoderOptions
from ...model import ViTConfig
from .._errors import CheckpointError
from .._rules import Rule, map_names
from ._adapt import add_zero_bias
from ._aimv2_names import APPLE_NAMES, HF_NAMES, TIMM_NAMES, Names, map_aimv2
from ._checkpoint import Checkpoint
from ._hugging_face import TEXT_TOWER, read_activation, select_vision_tower, write_config
from ._layout import Export, Layout, Settings
from ._libraries import HUGGING_FACE, TIMM
from ._preprocess import CLIP, Preprocess
from ._processor import write_hugging_face_preprocess
from ._timm import (
    KERNEL,
    read_architecture,
    read_arguments,
    read_head,
    read_image_size,
    read_pool,
    read_size,
    write_pool,
    write_timm_config,
)
from ._vit import find_misreading, find_square_obstacle, list_shapes, use_learned


def _read_parts(checkpoint: Checkpoint, names: Names, *, eps: float, image_size: object) -> dict[str, Any]:
    """What follows from the tensors alike: patches, positions, and the options of the encoder."""
    _, channels, patch = checkpoint.get_kernel(f"{names.patch}.weight")
    first = names.block.format(i=0)
    if names.positions in checkpoint:
        size = checkpoint.find_image_size(checkpoint.tensors[names.positions].shape[-2], patch, image_size)
        position = use_learned("torch_bicubic_antialias")
    else:
        size = checkpoint.floor_size(image_size or 224, patch)
        position = PartSpec("sincos2d", (("rule", "mae"),))
    options: dict[str, Any] = {"norm": "rms", "norm_eps": eps}
    if f"{names.patch}.bias" not in checkpoint:
        options["bias"] = False
    return {
        "image_size": size,
        "patch_size": patch,
        "channels": channels,
        "patch": PartSpec("conv", tuple(sorted(options.items()))),
        "position": position,
        "class_token": False,
        "encoder": EncoderOptions(
            qkv_bias=f"{first}{names.qkv[0]}.bias" in checkpoint,
            bias=f"{first}{names.out}.bias" in checkpoint,
            activation="swiglu",
            norm="rms",
            norm_eps=eps,
        ),
        "preprocess": checkpoint.find_preprocess(channels, checkpoint.count_unread(patch, image_size)),
    }


# --- timm ---------------------------------------------------------------------------------------------------------


def _read_config_timm(checkpoint: Checkpoint) -> ViTConfig:
    name, arguments = read_architecture(checkpoint), read_arguments(checkpoint, "proj_bias")
    for given, known in (("norm_layer", (None,)), ("act_layer", (None, "silu", "swish"))):
        if arguments.get(given) not in known:
            raise CheckpointError(
                f"the setting {given!r} beside {checkpoint.path} must be that of AIMv2, got {arguments[given]!r}: pass "
                "config= with a ViTConfig"
            )
    dim, _, patch = checkpoint.get_kernel(KERNEL)
    num_classes, head = read_head(checkpoint)
    return ViTConfig(
        size=read_size(checkpoint, arguments, name, dim, patch),
        num_classes=num_classes,
        classes=checkpoint.find_classes(num_classes),
        pool=read_pool(checkpoint, arguments, name, "avg"),
        head=head,
        **_read_parts(checkpoint, TIMM_NAMES, eps=1e-5, image_size=read_image_size(checkpoint, arguments)),
    )


def _map_timm(config: ViTConfig) -> tuple[Rule, ...]:
    return (*map_aimv2(config, names=TIMM_NAMES), map_names("head.*", "readout.head.linear.*"))


def _write_config_timm(config: ViTConfig) -> Settings:
    """An architecture stands for what no argument says: RMSNorm, its `eps`, and the gate."""
    arguments = {
        **write_pool(config),
        "reg_tokens": 0,
        "qkv_bias": config.encoder.qkv_bias,
        "proj_bias": config.encoder.bias,
    }
    return write_timm_config(config, "aimv2_large_patch14_224", arguments)


TIMM_AIMV2: Final = Layout(
    name="timm_aimv2",
    title="timm's AIMv2",
    library=TIMM,
    read_config=_read_config_timm,
    rules=_map_timm,
    signature=(KERNEL, "patch_embed.norm.weight", "pos_embed", "blocks.0.mlp.fc1_g.weight"),
    foreign=("cls_token",),
    architectures=re.compile(r"aimv2_(large|huge|1b|3b)_patch14_(224|336|448)"),
    export=Export(find_misreading, write_config=_write_config_timm, adapt=add_zero_bias),
)

# --- Apple, Hugging Face ------------------------------------------------------------------------------------------


def read_gate(checkpoint: Checkpoint) -> Literal["swiglu"]:
    """The activation, which is a gate of SiLU in every published model."""
    if (activation := read_activation(checkpoint)) != "silu":
        raise CheckpointError(
            f"the setting 'hidden_act' beside {checkpoint.path} must be 'silu' for a gated MLP, got {activation!r}"
        )
    return "swiglu"


def _read_config(whole: Checkpoint, *, names: Names) -> ViTConfig:
    checkpoint = select_vision_tower(whole)
    read_gate(checkpoint)
    dim, _, patch = checkpoint.get_kernel(f"{names.patch}.weight")
    eps = checkpoint.get_setting("rms_norm_eps", float)
    num_classes = checkpoint.count_classes(names.projection)
    size = checkpoint.get_size(
        dim,
        depth=checkpoint.count_blocks(f"{names.block}{names.norms[0]}.weight"),
        mlp_dim=checkpoint.get_shape(f"{names.block.format(i=0)}{names.out}.weight", 2)[1],
        patch=patch,
        setting="num_attention_heads",
    )
    options = (("num_heads", size.num_heads), ("qkv_bias", f"{names.head[1]}.bias" in checkpoint))
    return ViTConfig(
        size=size,
        num_classes=num_classes,
        pool=PartSpec("aim", options) if names.head[0] in checkpoint else "mean",
        head="none" if num_classes is None else PartSpec("linear", (("bias", False),)),
        **_read_parts(checkpoint, names, eps=eps, image_size=checkpoint.settings.get("image_size")),
    )


def _map_whole(config: ViTConfig, *, names: Names) -> tuple[Rule, ...]:
    query, keys, values, last = names.head
    return (
        *map_aimv2(config, names=names),
        map_names(query, "readout.pool.query", "1 1 d -> d"),
        map_names((f"{keys}.*", f"{values}.*"), "readout.pool.kv.*"),
        map_names(f"{last}.*", "readout.pool.project.*"),
        map_names(names.projection, "readout.head.linear.weight"),
    )


def write_aimv2_config(config: ViTConfig) -> Settings:
    """The settings of the image model."""
    encoder = config.encoder
    written = write_config(
        config,
        "aimv2_vision_model",
        "Aimv2VisionModel",
        rms_norm_eps=encoder.norm_eps,
        qkv_bias=encoder.qkv_bias,
        mlp_bias=encoder.bias,
        use_head="readout.pool.query" in list_shapes(config),
        is_native="backbone.position.patches" not in list_shapes(config),
    )
    return {name: value for name, value in written.items() if name != "layer_norm_eps"}


def _find_obstacle(config: ViTConfig) -> str:
    """What of a model Hugging Face cannot say."""
    if config.head != "none":
        return "only a model with both towers has a head there"
    return find_aimv2_obstacle(config)


def find_aimv2_obstacle(config: ViTConfig) -> str:
    """What of an image model Hugging Face cannot say, alone or with a text tower."""
    shapes, biased = list_shapes(config), config.encoder.qkv_bias
    probe = "readout.pool.kv.weight" in shapes and ("readout.pool.kv.bias" in shapes) != biased
    if probe or config.encoder.bias != biased:
        return "all layers of the attention have a bias there or none"
    return find_square_obstacle(config)


_MODEL_TYPES: Final = ("aimv2_vision_model", "aimv2")
_USUAL: Final = {"rms_norm_eps": 1e-5, "num_attention_heads": 8, "hidden_act": "silu"}
_PREPROCESS: Final = Preprocess("cover", "bicubic", *CLIP)

APPLE_AIMV2_IMAGE: Final = Layout(
    name="aimv2",
    title="Apple's AIMv2",
    library=HUGGING_FACE,
    read_config=partial(_read_config, names=APPLE_NAMES),
    rules=partial(_map_whole, names=APPLE_NAMES),
    signature=("preprocessor.patchifier.norm.weight", "trunk.post_trunk_norm.weight", "trunk.blocks.0.mlp.fc3.weight"),
    prefixes=("image_encoder.",),
    model_types=_MODEL_TYPES[::-1],
    usual=_USUAL,
    preprocess=dict.fromkeys(("", *_MODEL_TYPES), _PREPROCESS),
    ignored=(
        (r"text_(encoder\..*|projector\.weight)", "the text tower"),
        (r"log_logit_scale", "part of the contrastive loss"),
    ),
    embeds=(APPLE_NAMES.projection,),
)
HF_AIMV2_IMAGE: Final = Layout(
    name="hf_aimv2",
    title="Hugging Face's AIMv2",
    library=HUGGING_FACE,
    read_config=partial(_read_config, names=HF_NAMES),
    rules=partial(_map_whole, names=HF_NAMES),
    signature=("embeddings.patch_embed.weight", "embeddings.rms_norm.weight", "encoder.layers.0.ffn.gate_proj.weight"),
    prefixes=("vision_model.", "model.vision_model."),
    model_types=_MODEL_TYPES,
    usual=_USUAL,
    preprocess=dict.fromkeys(_MODEL_TYPES, _PREPROCESS),
    ignored=TEXT_TOWER,
    embeds=(HF_NAMES.projection,),
    export=Export(
        find_misreading,
        write_config=write_aimv2_config,
        write_preprocess=write_hugging_face_preprocess,
        find_obstacle=_find_obstacle,
    ),
)
