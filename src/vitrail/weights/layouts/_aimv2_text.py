"""The layouts of AIMv2 with both towers, aligned by LiT: Apple's own, and Hugging Face's.

Source: apple/ml-aim `aim/v2/torch`; transformers 5.23.0, the module `aimv2`.
"""

import dataclasses
import math
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np

from ...encoder import EncoderOptions
from ...model import ViTConfig
from ...systems import ImageTextConfig, TextConfig
from .._errors import CheckpointError
from .._rules import Rule, map_names, prefix_rules
from ._aimv2 import APPLE_AIMV2_IMAGE, HF_AIMV2_IMAGE, find_aimv2_obstacle, read_gate, write_aimv2_config
from ._aimv2_names import APPLE_NAMES, HF_NAMES, Names, map_aimv2_block
from ._checkpoint import Checkpoint
from ._hugging_face import POSITION_IDS, select_text_tower, write_encoder, write_header
from ._image_text import find_towers_misreading
from ._layout import Export, Layout, Settings
from ._libraries import HUGGING_FACE
from ._processor import write_hugging_face_preprocess
from ._tokenizer import find_clip_tokenizer
from ._tokenizer_files import write_clip_tokenizer


@dataclass(frozen=True)
class _Towers:
    """What the two call the same things."""

    image: Layout[ViTConfig]
    tower: Names
    """The names of either tower, within its own."""
    vision: str
    text: str
    embedding: str
    positions: str
    projection: str
    scale: str


_APPLE: Final = _Towers(
    image=APPLE_AIMV2_IMAGE,
    tower=APPLE_NAMES,
    vision="image_encoder.",
    text="text_encoder.",
    embedding="text_encoder.preprocessor.text_embedding.weight",
    positions="text_encoder.preprocessor.positional_embedding",
    projection="text_projector.weight",
    scale="log_logit_scale",
)
_HUGGING_FACE: Final = _Towers(
    image=HF_AIMV2_IMAGE,
    tower=HF_NAMES,
    vision="vision_model.",
    text="text_model.",
    embedding="text_model.embeddings.token_embedding.weight",
    positions="text_model.embeddings.position_embedding.weight",
    projection="text_projection.weight",
    scale="logit_scale",
)


def _read_text(checkpoint: Checkpoint, towers: _Towers) -> TextConfig:
    """The text tower, which is causal: transformers' is so with the attention mask that its processor makes."""
    names, block = towers.tower, towers.text + towers.tower.block
    vocabulary, dim = checkpoint.get_shape(towers.embedding, 2)
    first = block.format(i=0)
    return TextConfig(
        vocabulary=vocabulary,
        context=checkpoint.get_shape(towers.positions, 2)[0],
        size=checkpoint.get_size(
            dim,
            depth=checkpoint.count_blocks(f"{block}{names.norms[0]}.weight"),
            mlp_dim=checkpoint.get_shape(f"{first}{names.out}.weight", 2)[1],
            setting="num_attention_heads",
        ),
        embed_dim=checkpoint.get_shape(towers.projection, 2)[0],
        end_of_text=checkpoint.get_setting("eos_token_id", int),
        encoder=EncoderOptions(
            qkv_bias=f"{first}{names.qkv[0]}.bias" in checkpoint,
            bias=f"{first}{names.out}.bias" in checkpoint,
            activation=read_gate(checkpoint),
            norm="rms",
            norm_eps=checkpoint.get_setting("rms_norm_eps", float),
        ),
    )


def _read_config(checkpoint: Checkpoint, *, towers: _Towers) -> ImageTextConfig:
    image = towers.image.read_config(checkpoint.view(layout=towers.image))
    text = _read_text(select_text_tower(checkpoint), towers)
    _check_scale(checkpoint, towers.scale)
    return ImageTextConfig(image=image, text=text, tokenizer=find_clip_tokenizer(checkpoint, text.context))


def _check_scale(checkpoint: Checkpoint, name: str) -> None:
    """Raises a `CheckpointError` if the original uses another scale than the one that is stored."""
    checkpoint.get_shape(name, 0)
    scale, largest = float(np.float64(checkpoint.read(name))), checkpoint.get_setting("max_logit_scale", float)
    if largest <= 0 or not 0 <= scale <= math.log(largest):
        raise CheckpointError(
            f"{checkpoint.path} must have a {name!r} from 0 to the logarithm of {largest:g}, to which the original "
            f"cuts it, got {scale:g}: store it cut"
        )


def _map(config: ImageTextConfig, *, towers: _Towers) -> tuple[Rule, ...]:
    names, rules = towers.tower, towers.image.rules(config.image)
    return (
        *prefix_rules(rules, ours="image.", theirs=towers.vision, bare=(names.projection,)),
        map_names(towers.embedding, "text.embedding"),
        map_names(towers.positions, "text.positions"),
        *map_aimv2_block(names, towers.text + names.block, "text.encoder.stack."),
        map_names(f"{towers.text}{names.norm}.*", "text.norm.*"),
        map_names(towers.projection, "text.projection.weight"),
        map_names(towers.scale, "log_scale"),
    )


def _find_signature(towers: _Towers) -> tuple[str, ...]:
    """The norms and the projections of both towers, the attentive probe and the scale."""
    names = towers.tower
    both = (f"{tower}{names.norm}.weight" for tower in (towers.vision, towers.text))
    return (*both, f"{towers.vision}{names.head[0]}", names.projection, towers.projection, towers.scale)


def _write_config(config: ImageTextConfig) -> Settings:
    """The settings of both towers, with what transformers cuts the scale to."""
    text, width = config.text, {"projection_dim": config.text.embed_dim}
    encoder = write_encoder(text.size, text.encoder)
    return {
        **write_header("aimv2", "Aimv2Model"),
        **width,
        "max_logit_scale": 100.0,
        "text_config": {
            **{name: value for name, value in encoder.items() if name != "layer_norm_eps"},
            "model_type": "aimv2_text_model",
            "rms_norm_eps": text.encoder.norm_eps,
            "qkv_bias": text.encoder.qkv_bias,
            "mlp_bias": text.encoder.bias,
            "vocab_size": text.vocabulary,
            "max_position_embeddings": text.context,
            "eos_token_id": text.end_of_text,
        },
        "vision_config": write_aimv2_config(config.image),
    }


def _find_obstacle(config: ImageTextConfig) -> str:
    if config.text.encoder.bias != config.text.encoder.qkv_bias:
        return "all layers of the attention of the text have a bias there or none"
    return find_aimv2_obstacle(config.image)


HF_AIMV2: Final = Layout(
    name="hf_aimv2",
    title="Hugging Face's AIMv2",
    library=HUGGING_FACE,
    kind=ImageTextConfig,
    image=HF_AIMV2_IMAGE,
    read_config=partial(_read_config, towers=_HUGGING_FACE),
    rules=partial(_map, towers=_HUGGING_FACE),
    signature=_find_signature(_HUGGING_FACE),
    model_types=("aimv2",),
    usual={
        "rms_norm_eps": 1e-5,
        "num_attention_heads": 6,
        "hidden_act": "silu",
        "eos_token_id": 49407,
        "max_logit_scale": 100.0,
    },
    ignored=POSITION_IDS,
    export=Export(
        find_towers_misreading,
        write_config=_write_config,
        write_preprocess=lambda config: write_hugging_face_preprocess(config.image),
        write_tokenizer=write_clip_tokenizer,
        find_obstacle=_find_obstacle,
    ),
)
APPLE_AIMV2: Final = dataclasses.replace(
    HF_AIMV2,
    name="aimv2",
    title="Apple's AIMv2",
    image=APPLE_AIMV2_IMAGE,
    read_config=partial(_read_config, towers=_APPLE),
    rules=partial(_map, towers=_APPLE),
    signature=_find_signature(_APPLE),
    ignored=(),
    export=None,
)
