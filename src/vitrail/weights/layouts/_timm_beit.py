"""The layout of timm's `Beit`: BEiT and BEiT v2, which Microsoft publishes under the same names.

Source: timm 1.0.31, `models/beit.py`; microsoft/unilm, `beit/modeling_finetune.py` and `beit2/modeling_pretrain.py`.
"""

import re
from typing import Final

from ...encoder import EncoderOptions, EncoderSize
from ...model import ViTConfig
from .._rules import FINAL_NORM, Rule, map_names
from ._beit import COMPUTED, IGNORED, Tables, is_shared, map_position, read_position
from ._checkpoint import Checkpoint
from ._layout import Export, Layout, Settings
from ._libraries import TIMM
from ._timm import (
    KERNEL,
    map_eva_block,
    read_architecture,
    read_arguments,
    read_head,
    read_image_size,
    read_pool,
    write_pool,
    write_timm_config,
)
from ._vit import find_misreading

_TIMM: Final = Tables(
    "pos_embed", "blocks.{i}.attn.relative_position_bias_table", "rel_pos_bias.relative_position_bias_table"
)
_ARGUMENTS: Final = r"use_(abs_pos_emb|(shared_)?rel_pos_bias)|head_init_scale"
"""What follows from the tensors, or only training needs."""


def _read_config_timm(checkpoint: Checkpoint) -> ViTConfig:
    name, arguments = read_architecture(checkpoint), read_arguments(checkpoint, _ARGUMENTS)
    dim, channels, patch = checkpoint.get_kernel(KERNEL)
    given = read_image_size(checkpoint, arguments)
    position, image_size, heads = read_position(checkpoint, _TIMM, patch, given, resize="geometric")
    normed_last = "fc_norm.weight" in checkpoint
    num_classes, head = read_head(checkpoint)
    return ViTConfig(
        image_size=image_size,
        patch_size=patch,
        channels=channels,
        size=EncoderSize(
            dim=dim,
            depth=checkpoint.count_blocks("blocks.{i}.norm1.weight"),
            num_heads=checkpoint.check_heads("num_heads", heads, dim),
            mlp_dim=checkpoint.get_shape("blocks.0.mlp.fc1.weight", 2)[0],
        ),
        num_classes=num_classes,
        classes=checkpoint.find_classes(num_classes),
        position=position,
        pool=read_pool(checkpoint, arguments, name, "avg" if normed_last else "token"),
        head=head,
        norm_order="pool_norm" if normed_last else "norm_pool",
        class_token=True,
        encoder=EncoderOptions(
            qkv_bias="blocks.0.attn.q_bias" in checkpoint,
            norm_eps=1e-6,
            layer_scale=1.0 if "blocks.0.gamma_1" in checkpoint else None,
        ),
        preprocess=checkpoint.find_preprocess(channels, checkpoint.count_unread(patch, given)),
    )


def _map_timm(config: ViTConfig) -> tuple[Rule, ...]:
    return (
        map_names("patch_embed.proj.*", "backbone.patch.*"),
        map_names("cls_token", "backbone.class_token", "1 1 d -> d"),
        map_position(config, _TIMM),
        *map_eva_block(),
        map_names("fc_norm.*" if config.norm_order == "pool_norm" else "norm.*", FINAL_NORM),
        map_names("head.*", "readout.head.linear.*"),
    )


def _write_config_timm(config: ViTConfig) -> Settings:
    shared = is_shared(config)
    arguments = {
        **write_pool(config),
        "qkv_bias": config.encoder.qkv_bias,
        "init_values": config.encoder.layer_scale or 0.0,
        "use_fc_norm": config.norm_order == "pool_norm",
        "use_abs_pos_emb": False,
        "use_rel_pos_bias": not shared,
        "use_shared_rel_pos_bias": shared,
    }
    return write_timm_config(config, "beit_base_patch16_224", arguments)


def _find_obstacle_timm(config: ViTConfig) -> str:
    pool, (rows, cols) = write_pool(config)["global_pool"], config.grid
    if pool not in ("token", "avg", ""):
        return f"the pool must be 'cls', 'mean' or 'none' there, got {pool!r}"
    return "" if rows == cols else f"timm reads tables of square grids alone, got {rows} x {cols} patches"


TIMM_BEIT: Final = Layout(
    name="timm_beit",
    title="timm's Beit (BEiT, BEiT v2), and Microsoft's own files",
    library=TIMM,
    read_config=_read_config_timm,
    rules=_map_timm,
    signature=(KERNEL, "cls_token", "blocks.0.mlp.fc1.weight", "blocks.0.attn.qkv.weight"),
    one_of=((_TIMM.by_block.format(i=0), _TIMM.shared),),
    foreign=("blocks.0.attn.qkv.bias",),
    architectures=re.compile(r"beit(v2)?_(base|large)_patch16_\d+(_in22k)?"),
    ignored=(
        *IGNORED,
        (r"mask_token", "only masked images need it"),
        (r"cls_pt_layers\..*", "the blocks of BEiT v2 that only pre-training needs"),
    ),
    computed=COMPUTED,
    export=Export(find_misreading, write_config=_write_config_timm, find_obstacle=_find_obstacle_timm),
)
