"""The layout of Hugging Face's AIMv2 with both towers, aligned by LiT.

Source: transformers 5.23.0, the module `aimv2`.
"""

import math
from typing import Final

import numpy as np

from ...encoder import EncoderOptions
from ...systems import ImageTextConfig, TextConfig
from .._errors import CheckpointError
from .._rules import Rule, map_names, prefix_rules
from ._aimv2 import HF_AIMV2_IMAGE, NAMES, map_aimv2_block, read_gate
from ._checkpoint import Checkpoint
from ._hugging_face import POSITION_IDS, select_text_tower
from ._layout import Layout
from ._libraries import HUGGING_FACE
from ._tokenizer import find_clip_tokenizer

_EMBEDDING: Final = "text_model.embeddings.token_embedding.weight"
_POSITIONS: Final = "text_model.embeddings.position_embedding.weight"
_BLOCK: Final = f"text_model.{NAMES.block}"


def _read_text(checkpoint: Checkpoint) -> TextConfig:
    """The text tower, which is causal: transformers is so with the attention mask that its processor makes."""
    vocabulary, dim = checkpoint.get_shape(_EMBEDDING, 2)
    first = _BLOCK.format(i=0)
    return TextConfig(
        vocabulary=vocabulary,
        context=checkpoint.get_shape(_POSITIONS, 2)[0],
        size=checkpoint.get_size(
            dim,
            depth=checkpoint.count_blocks(f"{_BLOCK}{NAMES.norms[0]}.weight"),
            mlp_dim=checkpoint.get_shape(f"{first}{NAMES.out}.weight", 2)[1],
            setting="num_attention_heads",
        ),
        embed_dim=checkpoint.get_shape("text_projection.weight", 2)[0],
        end_of_text=checkpoint.get_setting("eos_token_id", int),
        encoder=EncoderOptions(
            qkv_bias=f"{first}{NAMES.qkv[0]}.bias" in checkpoint,
            bias=f"{first}{NAMES.out}.bias" in checkpoint,
            activation=read_gate(checkpoint),
            norm="rms",
            norm_eps=checkpoint.get_setting("rms_norm_eps", float),
        ),
    )


def _read_config(checkpoint: Checkpoint) -> ImageTextConfig:
    image = HF_AIMV2_IMAGE.read_config(checkpoint.view(layout=HF_AIMV2_IMAGE))
    text = _read_text(select_text_tower(checkpoint))
    _check_scale(checkpoint)
    return ImageTextConfig(image=image, text=text, tokenizer=find_clip_tokenizer(checkpoint, text.context))


def _check_scale(checkpoint: Checkpoint) -> None:
    """Raises a `CheckpointError` if transformers would use another scale than the one that is stored."""
    scale = float(np.float64(checkpoint.read("logit_scale")))
    largest = math.log(checkpoint.get_setting("max_logit_scale", float))
    if not 0 <= scale <= largest:
        raise CheckpointError(
            f"{checkpoint.path} must have a 'logit_scale' from 0 to {largest:.4f}, to which transformers cuts it, got "
            f"{scale}: store it cut"
        )


def _map(config: ImageTextConfig) -> tuple[Rule, ...]:
    rules = HF_AIMV2_IMAGE.rules(config.image)
    return (
        *prefix_rules(rules, ours="image.", theirs="vision_model.", bare=("visual_projection",)),
        map_names(_EMBEDDING, "text.embedding"),
        map_names(_POSITIONS, "text.positions"),
        *map_aimv2_block(NAMES, _BLOCK, "text.encoder.stack."),
        map_names("text_model.rms_norm.*", "text.norm.*"),
        map_names("text_projection.weight", "text.projection.weight"),
        map_names("logit_scale", "log_scale"),
    )


HF_AIMV2: Final = Layout(
    name="hf_aimv2",
    title="Hugging Face's AIMv2",
    library=HUGGING_FACE,
    kind=ImageTextConfig,
    image=HF_AIMV2_IMAGE,
    read_config=_read_config,
    rules=_map,
    signature=(
        "vision_model.embeddings.rms_norm.weight",
        "vision_model.head.cls_token",
        "visual_projection.weight",
        "text_model.rms_norm.weight",
        "text_projection.weight",
        "logit_scale",
    ),
    model_types=("aimv2",),
    usual={
        "rms_norm_eps": 1e-5,
        "num_attention_heads": 6,
        "hidden_act": "silu",
        "eos_token_id": 49407,
        "max_logit_scale": 100.0,
    },
    ignored=POSITION_IDS,
)
