"""The layout of Meta's DINO (Caron et al. 2021), whose backbone has timm's names.

Source: facebookresearch/dino `vision_transformer.py`.
"""

import dataclasses
from typing import Final

from ...model import ViTConfig
from ._checkpoint import Checkpoint
from ._mae import META_MAE_IMAGE
from ._preprocess import IMAGENET, Preprocess
from ._vit import use_learned


def _read_config(checkpoint: Checkpoint) -> ViTConfig:
    """MAE's, but for the rule of the positions for other sizes."""
    return dataclasses.replace(META_MAE_IMAGE.read_config(checkpoint), position=use_learned("dinov2_offset"))


META_DINO: Final = dataclasses.replace(
    META_MAE_IMAGE,
    name="dino",
    title="Meta's DINO",
    read_config=_read_config,
    signature=("head.last_layer.weight_v", "pos_embed", "blocks.0.attn.qkv.weight"),
    foreign=("blocks.0.ls1.gamma", "mask_token", "masked_embed"),
    preprocess={"": Preprocess("cover", "bicubic", *IMAGENET, crop=0.875)},
    ignored=((r"head\..*", "the projection head, which only pre-training needs"),),
)
