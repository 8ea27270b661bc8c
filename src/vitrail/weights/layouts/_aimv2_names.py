"""AIMv2's blocks by the names of timm, Apple and Hugging Face.

Source: as for the layouts, in `_aimv2.py`.
"""

from dataclasses import dataclass
from typing import Final

from ...model import ViTConfig
from .._rules import FINAL_NORM, POSITION_ROWS, Rule, map_block, map_names


@dataclass(frozen=True)
class Names:
    """What the three call the same things."""

    patch: str
    patch_norm: str
    positions: str
    block: str
    norms: tuple[str, str]
    qkv: tuple[str, ...]
    project: str
    hidden: tuple[str, str]
    """The gate, and what it is multiplied with."""
    out: str
    norm: str
    head: tuple[str, ...] = ()
    """The query, keys, values and last layer of the attentive probe; empty if no file has one."""
    projection: str = ""


TIMM_NAMES: Final = Names(
    patch="patch_embed.proj",
    patch_norm="patch_embed.norm",
    positions="pos_embed",
    block="blocks.{i}.",
    norms=("norm1", "norm2"),
    qkv=("attn.qkv",),
    project="attn.proj",
    hidden=("mlp.fc1_g", "mlp.fc1_x"),
    out="mlp.fc2",
    norm="norm",
)
APPLE_NAMES: Final = Names(
    patch="preprocessor.patchifier.proj",
    patch_norm="preprocessor.patchifier.norm",
    positions="preprocessor.pos_embed",
    block="trunk.blocks.{i}.",
    norms=("norm_1", "norm_2"),
    qkv=("attn.qkv",),
    project="attn.proj",
    hidden=("mlp.fc1", "mlp.fc3"),
    out="mlp.fc2",
    norm="trunk.post_trunk_norm",
    head=("head.cls_token", "head.k", "head.v", "head.linear"),
    projection="image_projector.weight",
)
HF_NAMES: Final = Names(
    patch="embeddings.patch_embed",
    patch_norm="embeddings.rms_norm",
    positions="embeddings.position_embedding.weight",
    block="encoder.layers.{i}.",
    norms=("rms_norm1", "rms_norm2"),
    qkv=("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    project="attention.out_proj",
    hidden=("ffn.gate_proj", "ffn.up_proj"),
    out="ffn.down_proj",
    norm="rms_norm",
    head=("head.cls_token", "head.k_proj", "head.v_proj", "head.output_proj"),
    projection="visual_projection.weight",
)


def map_aimv2(config: ViTConfig, *, names: Names) -> tuple[Rule, ...]:
    """The rules of an image model without its head."""
    view = "n d -> n d" if names is HF_NAMES else "1 n d -> n d"
    return (
        map_names(f"{names.patch}.*", "backbone.patch.*"),
        map_names(f"{names.patch_norm}.weight", "backbone.patch.norm.weight"),
        map_names(names.positions, POSITION_ROWS, view),
        *map_aimv2_block(names, names.block, "backbone.encoder.stack."),
        map_names(f"{names.norm}.*", FINAL_NORM),
    )


def map_aimv2_block(names: Names, prefix: str, ours: str) -> tuple[Rule, ...]:
    """The rules of a block, of images or of text."""
    return map_block(
        prefix,
        norm1=names.norms[0],
        qkv=names.qkv,
        project=names.project,
        norm2=names.norms[1],
        hidden=names.hidden,
        out=names.out,
        ours=ours,
    )
