"""The layouts of those of timm's `Eva` that rotate by rows and columns: RoPE-ViT, timm's own, and Perception Encoder.

Source: timm 1.0.31, `models/eva.py` and `layers/pos_embed_sincos.py`.
"""

import dataclasses
import math
import re
from functools import partial
from typing import Any, Final

from ..._spec import PartSpec
from ...encoder import EncoderOptions
from ...model import ViTConfig
from .._errors import CheckpointError
from .._rules import LEARNED_ROPE_ROWS, POSITION_ROWS, Rule, map_names
from ._checkpoint import Checkpoint
from ._layout import Export, Layout, Settings
from ._libraries import TIMM
from ._timm import (
    KERNEL,
    compute_mlp_ratio,
    map_eva_block,
    read_architecture,
    read_arguments,
    read_image_size,
    read_norm_order,
    read_pool,
    read_size,
    write_pool,
    write_timm_config,
)
from ._timm_vit import TIMM_VIT_IMAGE
from ._vit import find_misreading, list_shapes

_ARGUMENTS: Final = (
    r"(rope_(temperature|grid_offset|grid_indexing|(shift|jitter|rescale)_coords)|ref_feat_shape|attn_type|qkv_fused|"
    r"use_(abs_pos_emb|rot_pos_emb|pre_transformer_norm|post_transformer_norm)|attn_pool_(num_heads|mlp_ratio)|"
    r"head_init_scale)"
)
"""What follows from the tensors or the architecture, is read here, or only training needs."""


def _read_config(checkpoint: Checkpoint) -> ViTConfig:
    name, arguments = read_architecture(checkpoint), read_arguments(checkpoint, _ARGUMENTS)
    if not name:
        raise CheckpointError(
            f"{checkpoint.path} is a ViT of timm with rotary positions, whose tensors do not say which rule they "
            "follow: put its config.json beside it, or pass config={'architecture': ...} with timm's name of it"
        )
    dim, channels, patch = checkpoint.get_kernel(KERNEL)
    class_token = "cls_token" in checkpoint
    registers = checkpoint.get_shape("reg_token", 3)[1] if "reg_token" in checkpoint else 0
    covers, image_size = _read_size(checkpoint, arguments, name, patch, int(class_token) + registers)
    size = read_size(checkpoint, arguments, name, dim, patch)
    eps = 1e-5 if name.startswith("vit_pe_") else 1e-6
    num_classes = checkpoint.count_classes("head.weight")
    return ViTConfig(
        image_size=image_size,
        patch_size=patch,
        channels=channels,
        size=size,
        num_classes=num_classes,
        classes=checkpoint.find_classes(num_classes),
        patch="conv" if "patch_embed.proj.bias" in checkpoint else PartSpec("conv", (("bias", False),)),
        position=_read_position(checkpoint, arguments, name, covers),
        pool=_read_pool(checkpoint, arguments, name, eps, size.num_heads),
        head="none" if num_classes is None else "linear",
        norm_order=read_norm_order(checkpoint),
        class_token=class_token,
        num_registers=registers,
        encoder=EncoderOptions(
            qkv_bias="blocks.0.attn.qkv.bias" in checkpoint or "blocks.0.attn.q_bias" in checkpoint,
            norm_eps=eps,
            pre_norm="norm_pre.weight" in checkpoint,
            layer_scale=1.0 if "blocks.0.gamma_1" in checkpoint else None,
        ),
        preprocess=checkpoint.find_preprocess(
            channels, checkpoint.count_unread(patch, read_image_size(checkpoint, arguments))
        ),
    )


def _read_size(
    checkpoint: Checkpoint, arguments: dict[str, Any], name: str, patch: tuple[int, int], num_prefix: int
) -> tuple[bool, tuple[int, int]]:
    """Whether a table has rows for the prefix, and the size of the images, which the name ends with."""
    given = read_image_size(checkpoint, arguments) or int(name.rpartition("_")[2])
    if "pos_embed" not in checkpoint:
        return False, checkpoint.floor_size(given, patch)
    number = checkpoint.get_shape("pos_embed", 3)[1]
    covers = number != math.prod(checkpoint.count_patches(patch, given))
    return covers, checkpoint.find_image_size(number - (num_prefix if covers else 0), patch, given)


def _read_position(checkpoint: Checkpoint, arguments: dict[str, Any], name: str, covers: bool) -> PartSpec:
    """timm's own models scale rows and columns to those of the size in their name, and so does Perception Encoder."""
    resize = {"covers_prefix": covers, "resize": "torch_bicubic_antialias"}
    if "rope.freqs" in checkpoint:
        mixed = {"base": float(arguments.get("rope_temperature", 10.0))}
        if "pos_embed" not in checkpoint:
            return PartSpec("rope_mixed", tuple(mixed.items()))
        return PartSpec("learned_rope", tuple(sorted({**mixed, **resize, "mixed": True}.items())))
    perception, scaled = name.startswith("vit_pe_"), re.fullmatch(r".*_patch(\d+)_(?:.*_)?(\d+)", name)
    own = "_gap_" in name
    side = int(scaled[2]) // int(scaled[1]) if scaled is not None and (perception or own) else None
    reference = arguments.get("ref_feat_shape", side)
    offset = 1.0 if perception and "gigantic" not in name else 0.0
    options: dict[str, Any] = {
        "base": float(arguments.get("rope_temperature", 10000.0 if perception or own else 100.0)),
        "offset": float(arguments.get("rope_grid_offset", offset)),
        "reference": None if reference is None else checkpoint.read_size(reference),
        "rule": "axial" if arguments.get("rope_grid_indexing", "ij" if own else "xy") == "xy" else "eva",
    }
    if "pos_embed" not in checkpoint:
        return PartSpec("rope", tuple(sorted(options.items())))
    return PartSpec("learned_rope", tuple(sorted({**options, **resize}.items())))


def _read_pool(
    checkpoint: Checkpoint, arguments: dict[str, Any], name: str, eps: float, num_heads: int
) -> str | PartSpec:
    if "attn_pool.latent" not in checkpoint:
        usual = "avg" if re.search("_gap_|_pe_(lang|spatial)_", name) else "token"
        return read_pool(checkpoint, arguments, name, usual)
    usual = 8 if name.startswith("vit_pe_") else num_heads
    options: dict[str, Any] = {
        "activation": "gelu",
        "include_prefix": True,
        "mlp_dim": checkpoint.get_shape("attn_pool.mlp.fc1.weight", 2)[0],
        "norm_eps": eps,
        "num_heads": arguments.get("attn_pool_num_heads") or usual,
    }
    pool = PartSpec("attention", tuple(sorted(options.items())))
    return read_pool(checkpoint, arguments, name, "map", attention=pool)


def _map(config: ViTConfig) -> tuple[Rule, ...]:
    """That of timm's ViT, but for the positions, the scales, and a bias of queries and values alone."""
    learned = isinstance(config.position, PartSpec) and config.position.name == "learned_rope"
    fused = not (isinstance(config.position, PartSpec) and dict(config.position.options).get("rule") == "eva")
    shared = [rule for rule in TIMM_VIT_IMAGE.rules(config) if not rule.ours[0].startswith("backbone.encoder.stack.")]
    return (
        *(rule for rule in shared if rule.ours != POSITION_ROWS),
        map_names("rope.freqs", f"backbone.position.{'rotary.' if learned else ''}frequencies", "a n h p -> n a h p"),
        map_names("pos_embed", LEARNED_ROPE_ROWS if learned else POSITION_ROWS, "1 n d -> n d"),
        *(map_eva_block(bias=("attn.qkv.bias",)) if fused else map_eva_block()),
    )


def _write_config(config: ViTConfig, *, architecture: str) -> Settings:
    """An architecture stands for what no argument says: `norm_eps`, and whether a norm stands before the blocks."""
    position = config.position if isinstance(config.position, PartSpec) else PartSpec(str(config.position))
    options, shapes = dict(position.options), list_shapes(config)
    mixed = "backbone.position.frequencies" in shapes or "backbone.position.rotary.frequencies" in shapes
    arguments: dict[str, object] = {
        **write_pool(config),
        "num_reg_tokens": config.num_registers,
        "class_token": "backbone.class_token" in shapes,
        "init_values": config.encoder.layer_scale,
        "qkv_bias": config.encoder.qkv_bias,
        "rope_temperature": options.get("base"),
        "use_fc_norm": config.norm_order == "pool_norm",
    }
    if position.name == "learned_rope":
        arguments["no_embed_class"] = not any(name in shapes for name in LEARNED_ROPE_ROWS[:2])
    if not mixed:
        arguments |= {"rope_grid_offset": options.get("offset", 0.0), "ref_feat_shape": options.get("reference")}
    if "readout.pool.queries" in shapes:
        pool = dict(config.pool.options) if isinstance(config.pool, PartSpec) else {}
        mlp_dim = shapes["readout.pool.mlp.hidden.weight"][0]
        arguments["attn_pool_num_heads"] = pool.get("num_heads")
        arguments["attn_pool_mlp_ratio"] = compute_mlp_ratio(config.size.dim, mlp_dim)
    name = architecture.format(rule=("_mixed" if mixed else "") + ("_ape" if position.name == "learned_rope" else ""))
    return write_timm_config(config, name, {name: value for name, value in arguments.items() if value is not None})


TIMM_ROPE_VIT: Final = Layout(
    name="timm_rope_vit",
    title="timm's Eva (RoPE-ViT)",
    library=TIMM,
    read_config=_read_config,
    rules=_map,
    signature=(KERNEL, "blocks.0.attn.qkv.weight", "blocks.0.attn.qkv.bias", "blocks.0.gamma_1", "cls_token"),
    foreign=("mask_token", "storage_tokens", "register_tokens", "reg_token", "norm_pre.weight"),
    architectures=re.compile(r"vit_(small|base|large)_patch16_rope(_mixed)?(_ape)?_\d+"),
    export=Export(
        find_misreading, write_config=partial(_write_config, architecture="vit_small_patch16_rope{rule}_224")
    ),
)
TIMM_ROPE: Final = dataclasses.replace(
    TIMM_ROPE_VIT,
    name="timm_rope",
    title="timm's Eva (its own ViTs with rotary positions)",
    signature=(KERNEL, "blocks.0.attn.qkv.weight", "blocks.0.gamma_1", "reg_token"),
    foreign=(
        "mask_token",
        "storage_tokens",
        "register_tokens",
        "cls_token",
        "blocks.0.attn.qkv.bias",
        "norm_pre.weight",
    ),
    architectures=re.compile(r"vit_(medium|mediumd|betwixt|base)_patch16_rope_reg\d_gap_\d+"),
    export=Export(
        find_misreading, write_config=partial(_write_config, architecture="vit_medium_patch16_rope_reg1_gap_256")
    ),
)
TIMM_PE: Final = dataclasses.replace(
    TIMM_ROPE_VIT,
    name="timm_pe",
    title="timm's Eva (Perception Encoder)",
    signature=(KERNEL, "blocks.0.attn.qkv.bias", "norm_pre.weight", "attn_pool.latent", "pos_embed"),
    foreign=("mask_token", "reg_token", "blocks.0.ls1.gamma", "blocks.0.gamma_1"),
    embeds=("head.weight",),
    architectures=re.compile(r"vit_pe_core_(tiny|small|base|large|gigantic)_patch\d+_\d+"),
    export=Export(find_misreading, write_config=partial(_write_config, architecture="vit_pe_core_tiny_patch16_384")),
)
TIMM_PE_FEATURES: Final = dataclasses.replace(
    TIMM_ROPE_VIT,
    name="timm_pe_features",
    title="timm's Eva (Perception Encoder's language and spatial models)",
    signature=(KERNEL, "blocks.0.attn.qkv.bias", "norm_pre.weight", "pos_embed"),
    foreign=("mask_token", "reg_token", "blocks.0.ls1.gamma", "attn_pool.latent", "norm.weight", "fc_norm.weight"),
    architectures=re.compile(r"vit_pe_(lang|spatial)_(tiny|small|base|large|gigantic)_patch\d+_\d+"),
    export=Export(
        find_misreading, write_config=partial(_write_config, architecture="vit_pe_spatial_small_patch16_512")
    ),
)
