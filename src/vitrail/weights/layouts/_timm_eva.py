"""The layout of timm's `Eva`: DINOv3 and EVA.

Source: timm 1.0.31, `models/eva.py`.
"""

import re
from typing import Any, Final

import numpy as np

from ..._spec import PartSpec
from ...encoder import EncoderOptions
from ...model import ViTConfig
from .._errors import CheckpointError
from .._rules import FINAL_NORM, POSITION_ROWS, ZEROS, Rule, map_block, map_names
from ._checkpoint import Checkpoint
from ._layout import Export, Layout, Settings
from ._libraries import TIMM
from ._open_clip import TEXT_TOWER
from ._timm import (
    KERNEL,
    OPEN_CLIP_HEAD,
    OPEN_CLIP_TRUNK,
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


def _read_config(checkpoint: Checkpoint) -> ViTConfig:
    name, arguments = read_architecture(checkpoint), read_arguments(checkpoint)
    dim, channels, patch = checkpoint.get_kernel(KERNEL)
    registers = checkpoint.get_shape("reg_token", 3)[1] if "reg_token" in checkpoint else 0
    has_table, gated = "pos_embed" in checkpoint, "blocks.0.mlp.fc1_g.weight" in checkpoint
    dinov3 = registers == 4 and not has_table and "fc_norm.weight" not in checkpoint
    if dim == 1792:
        raise CheckpointError(
            f"{checkpoint.path} is EVA-02's enormous model, whose norms follow its layers: vitrail does not load it"
        )
    if not dinov3 and (gated or not has_table or "blocks.0.gamma_1" in checkpoint):
        raise CheckpointError(
            f"{checkpoint.path} is an Eva model of timm that is neither DINOv3 nor EVA: vitrail does not load EVA-02, "
            "whose blocks have other norms"
        )
    image_size = given = read_image_size(checkpoint, arguments)
    if dinov3:
        position = PartSpec("rope", (("base", 100.0), ("rule", "dinov3")))
        image_size = checkpoint.floor_size(image_size or 16 * patch[0], patch)
    else:
        position = use_learned("torch_bicubic_antialias")
        rows = checkpoint.get_shape("pos_embed", 3)[1]
        image_size = checkpoint.find_image_size(rows - 1 - registers, patch, image_size)
    (num_classes, head), pool = read_head(checkpoint), _read_pool(checkpoint, arguments, name)
    size = read_size(checkpoint, arguments, name, dim, patch, gated=gated)
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
            qkv_bias="blocks.0.attn.q_bias" in checkpoint,
            activation="swiglu" if gated else "gelu",
            norm_eps=1e-5 if dinov3 else 1e-6,
            layer_scale=1.0 if "blocks.0.gamma_1" in checkpoint else None,
        ),
        preprocess=checkpoint.find_preprocess(channels, checkpoint.count_unread(patch, given)),
    )


def _read_pool(checkpoint: Checkpoint, arguments: dict[str, Any], name: str) -> str | PartSpec:
    """The pool. EVA-CLIP and LingBot read the class token, and have the tensors of EVA and DINOv3, which do not."""
    dim = checkpoint.get_kernel(KERNEL).dim
    shared = "pos_embed" in checkpoint or "blocks.0.attn.q_bias" in checkpoint or dim == 1536
    if not name and shared and "global_pool" not in checkpoint.settings:
        raise checkpoint.ask(
            "which tokens its pool reads",
            "pass config={'global_pool': 'avg'} for EVA and DINOv3, {'global_pool': 'token'} for EVA-CLIP and LingBot",
        )
    return read_pool(checkpoint, arguments, name, "token" if name.endswith("_lingbot") or "_clip_" in name else "avg")


def _write_config(config: ViTConfig) -> Settings:
    """An architecture stands for what no argument says: the rotary positions, the gate and `norm_eps`."""
    gated, has_bias = config.encoder.activation == "swiglu", config.encoder.qkv_bias
    arguments: dict[str, object] = {**write_pool(config), "num_reg_tokens": config.num_registers}
    if any(name in list_shapes(config) for name in POSITION_ROWS):
        arguments["use_fc_norm"] = config.norm_order == "pool_norm"
        return write_timm_config(config, "eva_giant_patch14_224", arguments)
    arguments["init_values"] = config.encoder.layer_scale
    if gated:
        arguments["swiglu_align_to"] = 1
    architecture = f"vit_small{'_plus' if gated else ''}_patch16_dinov3{'_qkvb' if has_bias else ''}"
    return write_timm_config(config, architecture, arguments)


def _map(config: ViTConfig) -> tuple[Rule, ...]:
    gated = config.encoder.activation == "swiglu"
    qkv = "backbone.encoder.stack.attention.qkv."
    return (
        map_names("patch_embed.proj.*", "backbone.patch.*"),
        map_names("cls_token", "backbone.class_token", "1 1 d -> d"),
        map_names("reg_token", "backbone.registers", "1 n d -> n d"),
        map_names("pos_embed", POSITION_ROWS, "1 n d -> n d"),
        map_names("blocks.{i}.attn.qkv.weight", qkv + "weight"),
        map_names(("blocks.{i}.attn.q_bias", ZEROS, "blocks.{i}.attn.v_bias"), qkv + "bias"),
        *map_block(
            "blocks.{i}.",
            norm1="norm1",
            qkv=(),
            project="attn.proj",
            norm2="norm2",
            hidden=("mlp.fc1_g", "mlp.fc1_x") if gated else "mlp.fc1",
            out="mlp.fc2",
            scales=("gamma_1", "gamma_2"),
        ),
        map_names("fc_norm.*" if config.norm_order == "pool_norm" else "norm.*", FINAL_NORM),
        map_names("head.*", "readout.head.linear.*"),
        map_names(OPEN_CLIP_HEAD + ".*", "readout.head.linear.*"),
    )


TIMM_EVA_IMAGE: Final = Layout(
    name="timm_eva",
    title="timm's Eva (DINOv3, EVA)",
    library=TIMM,
    read_config=_read_config,
    rules=_map,
    signature=(KERNEL, "blocks.0.attn.qkv.weight", "cls_token", "blocks.0.attn.proj.weight"),
    one_of=(("blocks.0.gamma_1", "blocks.0.attn.q_bias"),),
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
        r"vit_(small|base|large|giant)_patch16_lingbot|eva_giant_.*"
    ),
    ignored=(
        (r"blocks\.\d+\.attn\.k_bias", "a buffer of zeros"),
        (r"rope\..*", "computed from the sizes"),
        *TEXT_TOWER,
    ),
    computed=((r"blocks\.\d+\.attn\.k_bias", lambda config: np.zeros(config.size.dim, np.float32)),),
    export=Export(find_misreading, write_config=_write_config),
)
