"""The layout of Meta's MAE.

Source: facebookresearch/mae `models_mae.py`.
"""

from typing import Final

from ...encoder import EncoderOptions, EncoderSize
from ...model import ViTConfig
from .._rules import FINAL_NORM, POSITION_ROWS, Rule, map_block, map_names
from ._checkpoint import Checkpoint
from ._layout import Layout
from ._libraries import META
from ._preprocess import IMAGENET, Preprocess
from ._vit import use_learned


def _read_config(checkpoint: Checkpoint) -> ViTConfig:
    dim, channels, patch = checkpoint.get_kernel("patch_embed.proj.weight")
    image_size = checkpoint.find_image_size(checkpoint.get_shape("pos_embed", 3)[1] - 1, patch)
    return ViTConfig(
        image_size=image_size,
        patch_size=patch,
        channels=channels,
        size=EncoderSize(
            dim=dim,
            depth=checkpoint.count_blocks("blocks.{i}.norm1.weight"),
            num_heads=checkpoint.get_heads(dim, setting="num_heads"),
            mlp_dim=checkpoint.get_shape("blocks.0.mlp.fc1.weight", 2)[0],
        ),
        position=use_learned("torch_bicubic"),
        pool="cls",
        head="none",
        class_token=True,
        encoder=EncoderOptions(qkv_bias="blocks.0.attn.qkv.bias" in checkpoint, norm_eps=1e-6),
        preprocess=checkpoint.find_preprocess(channels),
    )


def _map(config: ViTConfig) -> tuple[Rule, ...]:
    return (
        map_names("patch_embed.proj.*", "backbone.patch.*"),
        map_names("cls_token", "backbone.class_token", "1 1 d -> d"),
        map_names("pos_embed", POSITION_ROWS, "1 n d -> n d"),
        *map_block(
            "blocks.{i}.",
            norm1="norm1",
            qkv="attn.qkv",
            project="attn.proj",
            norm2="norm2",
            hidden="mlp.fc1",
            out="mlp.fc2",
        ),
        map_names("norm.*", FINAL_NORM),
    )


META_MAE: Final = Layout(
    name="mae",
    title="Meta's MAE, with its decoder",
    library=META,
    read_config=_read_config,
    rules=_map,
    signature=("decoder_embed.weight", "mask_token", "pos_embed", "blocks.0.attn.qkv.weight"),
    preprocess={"": Preprocess("cover", "bicubic", *IMAGENET, crop=0.875)},
    ignored=(
        (r"decoder_.*", "the decoder, which only pre-training needs"),
        (r"mask_token", "only masked images need it"),
    ),
)
