"""The layout of timm's `Eva`: DINOv3, EVA and EVA-02.

Source: timm 1.0.31, `models/eva.py`.
"""

import re
from typing import Any, Final

import numpy as np

from ..._spec import PartSpec
from ...encoder import EncoderOptions
from ...model import ViTConfig
from .._errors import CheckpointError
from .._rules import FINAL_NORM, LEARNED_ROPE_ROWS, POSITION_ROWS, QKV, ZEROS, Rule, map_names
from ._checkpoint import Checkpoint
from ._layout import Export, Layout, Settings
from ._libraries import TIMM
from ._open_clip import TEXT_TOWER
from ._timm import (
    KERNEL,
    OPEN_CLIP_HEAD,
    OPEN_CLIP_TRUNK,
    map_eva_block,
    read_architecture,
    read_arguments,
    read_head,
    read_image_size,
    read_pool,
    read_size,
    write_pool,
    write_timm_config,
)
from ._vit import find_misreading, list_shapes, use_learned

_ARGUMENTS: Final = (
    r"use_(rot_pos_emb|post_norm)|ref_feat_shape|rope_(temperature|grid_offset)|qkv_fused|swiglu_mlp|"
    r"scale_(mlp|attn_inner)"
)
"""What follows from the tensors or the architecture, or is read here."""


def _read_config(checkpoint: Checkpoint) -> ViTConfig:
    name, arguments = read_architecture(checkpoint), read_arguments(checkpoint, _ARGUMENTS)
    dim, channels, patch = checkpoint.get_kernel(KERNEL)
    registers = checkpoint.get_shape("reg_token", 3)[1] if "reg_token" in checkpoint else 0
    has_table, gated = "pos_embed" in checkpoint, _is_gated(checkpoint)
    dinov3 = registers == 4 and not has_table and "fc_norm.weight" not in checkpoint
    if not dinov3 and (not has_table or "blocks.0.gamma_1" in checkpoint):
        raise CheckpointError(f"{checkpoint.path} is an Eva model of timm that is neither DINOv3 nor EVA nor EVA-02")
    eva02 = has_table and gated
    if arguments.get("use_rot_pos_emb", eva02 or dinov3) != (eva02 or dinov3):
        raise CheckpointError(
            f"the setting 'use_rot_pos_emb' beside {checkpoint.path} must be {eva02 or dinov3} for these tensors, got "
            f"{arguments['use_rot_pos_emb']}: pass config= with a ViTConfig"
        )
    image_size = given = read_image_size(checkpoint, arguments)
    if dinov3:
        position = PartSpec("rope", (("base", 100.0), ("rule", "dinov3")))
        image_size = checkpoint.floor_size(image_size or 16 * patch[0], patch)
    else:
        position = _read_rotation(checkpoint, arguments) if eva02 else use_learned("torch_bicubic_antialias")
        rows = checkpoint.get_shape("pos_embed", 3)[1]
        image_size = checkpoint.find_image_size(rows - 1 - registers, patch, image_size)
    (num_classes, head), pool = read_head(checkpoint), _read_pool(checkpoint, arguments, name, eva02)
    enormous = dim == 1792
    # The other EVA-02 have 64 channels a head, DINOv3's H+ has 20 heads.
    usual = dim // 64 if eva02 or (gated and dim == 1280) else 16 if enormous else None
    size = read_size(checkpoint, arguments, name, dim, patch, usual=usual)
    return ViTConfig(
        image_size=image_size,
        patch_size=patch,
        channels=channels,
        size=size,
        num_classes=num_classes,
        classes=checkpoint.find_classes(num_classes),
        position=position,
        pool=pool,
        head=head,
        norm_order="pool_norm" if "fc_norm.weight" in checkpoint else "norm_pool",
        class_token=True,
        num_registers=registers,
        encoder=EncoderOptions(
            qkv_bias="blocks.0.attn.q_bias" in checkpoint or "blocks.0.attn.q_proj.bias" in checkpoint,
            activation="swiglu" if gated else "gelu",
            norm_eps=1e-5 if dinov3 else 1e-6,
            post_norm=bool(arguments.get("use_post_norm", "_enormous_" in name if name else enormous)),
            attention_norm="blocks.0.attn.norm.weight" in checkpoint,
            mlp_norm="blocks.0.mlp.norm.weight" in checkpoint,
            layer_scale=1.0 if "blocks.0.gamma_1" in checkpoint else None,
        ),
        preprocess=checkpoint.find_preprocess(channels, checkpoint.count_unread(patch, given)),
    )


def _is_gated(checkpoint: Checkpoint) -> bool:
    """Whether the MLP has a gate: as a tensor of its own, or in one with the other half."""
    if "blocks.0.mlp.fc1_g.weight" in checkpoint:
        return True
    hidden, _ = checkpoint.get_shape("blocks.0.mlp.fc1.weight", 2)
    return hidden == 2 * checkpoint.get_shape("blocks.0.mlp.fc2.weight", 2)[1]


def _read_rotation(checkpoint: Checkpoint, arguments: dict[str, Any]) -> PartSpec:
    """EVA-02's positions, which scale rows and columns to those that pretraining had."""
    options: dict[str, Any] = {
        "base": float(arguments.get("rope_temperature", 10000.0)),
        "offset": float(arguments.get("rope_grid_offset", 0.0)),
        "reference": checkpoint.read_size(arguments.get("ref_feat_shape", 16)),
        "resize": "torch_bicubic_antialias",
        "rule": "eva",
    }
    return PartSpec("learned_rope", tuple(options.items()))


def _read_pool(checkpoint: Checkpoint, arguments: dict[str, Any], name: str, eva02: bool) -> str | PartSpec:
    """The pool. EVA-CLIP and LingBot read the class token, and have the tensors of EVA and DINOv3, which do not."""
    dim = checkpoint.get_kernel(KERNEL).dim
    if "blocks.0.attn.norm.weight" in checkpoint:  # EVA-02's CLIP alone has it
        return read_pool(checkpoint, arguments, name, "token")
    shared = ("pos_embed" in checkpoint and not eva02) or "blocks.0.attn.q_bias" in checkpoint or dim == 1536
    if not name and shared and "global_pool" not in checkpoint.settings:
        raise checkpoint.ask(
            "which tokens its pool reads",
            "pass config={'global_pool': 'avg'} for EVA and DINOv3, {'global_pool': 'token'} for EVA-CLIP and LingBot",
        )
    return read_pool(checkpoint, arguments, name, "token" if name.endswith("_lingbot") or "_clip_" in name else "avg")


def _write_config(config: ViTConfig) -> Settings:
    """An architecture stands for what no argument says: the rotary positions, the gate and `norm_eps`."""
    if isinstance(config.position, PartSpec) and config.position.name == "learned_rope":
        return _write_eva02(config)
    gated, has_bias = config.encoder.activation == "swiglu", config.encoder.qkv_bias
    arguments: dict[str, object] = {**write_pool(config), "num_reg_tokens": config.num_registers}
    if any(name in list_shapes(config) for name in POSITION_ROWS):
        arguments["use_fc_norm"] = config.norm_order == "pool_norm"
        architecture = "eva02_enormous_patch14_clip_224" if config.encoder.post_norm else "eva_giant_patch14_224"
        return write_timm_config(config, architecture, arguments)
    arguments["init_values"] = config.encoder.layer_scale
    if gated:
        arguments["swiglu_align_to"] = 1
    architecture = f"vit_small{'_plus' if gated else ''}_patch16_dinov3{'_qkvb' if has_bias else ''}"
    return write_timm_config(config, architecture, arguments)


def _write_eva02(config: ViTConfig) -> Settings:
    """The large ones keep queries, keys and values apart, and normalise the hidden layer; the small ones do neither."""
    assert isinstance(config.position, PartSpec)
    options, apart = dict(config.position.options), config.encoder.mlp_norm
    arguments = {
        **write_pool(config),
        "num_reg_tokens": config.num_registers,
        "use_fc_norm": config.norm_order == "pool_norm",
        "scale_attn_inner": config.encoder.attention_norm,
        "ref_feat_shape": options.get("reference"),
        "rope_temperature": options.get("base", 10000.0),
        "rope_grid_offset": options.get("offset", 0.0),
    }
    return write_timm_config(config, f"eva02_{'base' if apart else 'tiny'}_patch14_224", arguments)


def _map(config: ViTConfig) -> tuple[Rule, ...]:
    gated = config.encoder.activation == "swiglu"
    learned = isinstance(config.position, PartSpec) and config.position.name == "learned_rope"
    apart = learned and config.encoder.mlp_norm
    block, stack = "blocks.{i}.", "backbone.encoder.stack."
    hidden = ("mlp.fc1_g", "mlp.fc1_x") if gated and (apart or not learned) else "mlp.fc1"
    separate = (
        map_names([f"{block}attn.{name}_proj.weight" for name in "qkv"], QKV + "weight"),
        map_names((block + "attn.q_proj.bias", ZEROS, block + "attn.v_proj.bias"), QKV + "bias"),
    )
    return (
        *(separate if apart else ()),  # where both are named, the first counts
        map_names("patch_embed.proj.*", "backbone.patch.*"),
        map_names("cls_token", "backbone.class_token", "1 1 d -> d"),
        map_names("reg_token", "backbone.registers", "1 n d -> n d"),
        map_names("pos_embed", LEARNED_ROPE_ROWS if learned else POSITION_ROWS, "1 n d -> n d"),
        map_names(block + "attn.norm.*", stack + "attention.norm.*"),
        map_names(block + "mlp.norm.*", stack + "mlp.norm.*"),
        *map_eva_block(hidden),
        map_names("fc_norm.*" if config.norm_order == "pool_norm" else "norm.*", FINAL_NORM),
        map_names("head.*", "readout.head.linear.*"),
        map_names(OPEN_CLIP_HEAD + ".*", "readout.head.linear.*"),
    )


TIMM_EVA_IMAGE: Final = Layout(
    name="timm_eva",
    title="timm's Eva (DINOv3, EVA, EVA-02)",
    library=TIMM,
    read_config=_read_config,
    rules=_map,
    signature=(KERNEL, "cls_token", "blocks.0.attn.proj.weight"),
    one_of=(("blocks.0.gamma_1", "blocks.0.attn.q_bias", "blocks.0.attn.q_proj.weight"),),
    foreign=(
        "blocks.0.attn.relative_position_bias_table",
        "rel_pos_bias.relative_position_bias_table",
        "mask_token",
        "storage_tokens",
        "blocks.0.attn.qkv.bias",
        "blocks.0.ls1.gamma",
        "register_tokens",
    ),
    prefixes=(OPEN_CLIP_TRUNK,),
    architectures=re.compile(
        r"vit_(tiny|small|base|large|small_plus|huge_plus|7b)_patch16_dinov3(_qkvb)?|"
        r"vit_(small|base|large|giant)_patch16_lingbot|eva_giant_.*|eva02_.*"
    ),
    ignored=(
        (r"blocks\.\d+\.attn\.k_bias", "a buffer of zeros"),
        (r"rope\..*", "computed from the sizes"),
        *TEXT_TOWER,
    ),
    computed=((r"blocks\.\d+\.attn\.k_bias", lambda config: np.zeros(config.size.dim, np.float32)),),
    embeds=(f"{OPEN_CLIP_HEAD}.weight",),
    export=Export(find_misreading, write_config=_write_config),
)
