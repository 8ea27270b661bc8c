"""The layouts of CLIP and SigLIP with both towers. Each holds the layout of its image tower."""

import re
from types import MappingProxyType
from typing import Final

from ...model import ViTConfig
from ...systems import ImageTextConfig
from .._rules import Rule, map_names, prefix_rules
from ._checkpoint import Checkpoint
from ._clip import HF_CLIP_IMAGE, NUMBERS, OPENAI_CLIP_IMAGE
from ._hugging_face import POSITION_IDS, select_text_tower
from ._layout import Layout, Settings
from ._libraries import HUGGING_FACE, OPEN_CLIP
from ._siglip import HF_SIGLIP_IMAGE
from ._text import map_hugging_face_text, map_open_clip_text, read_hugging_face_text, read_open_clip_text
from ._timm import OPEN_CLIP_HEAD, OPEN_CLIP_TRUNK
from ._timm_eva import TIMM_EVA_IMAGE
from ._timm_vit import TIMM_VIT_IMAGE

_SCALE: Final = (map_names("logit_scale", "log_scale"), map_names("logit_bias", "bias"))
"""CLIP has a scale without an axis."""
_SCALES: Final = tuple(map_names(rule.theirs, rule.ours, "n -> n") for rule in _SCALE)
"""SigLIP has them with an axis of one."""

# --- Hugging Face -------------------------------------------------------------------------------------------------

_USUAL_TEXT: Final[Settings] = MappingProxyType(
    {"layer_norm_eps": 1e-5, "hidden_act": "quick_gelu", "num_attention_heads": 8, "eos_token_id": 49407}
)
"""What transformers assumes where the settings of CLIP's text tower do not say it."""
_CLIP_PROJECTION: Final = "text_projection"
_SIGLIP_PROJECTION: Final = "text_model.head"


def _read_clip(checkpoint: Checkpoint) -> ImageTextConfig:
    text = select_text_tower(checkpoint, _USUAL_TEXT)
    return ImageTextConfig(
        image=HF_CLIP_IMAGE.read_config(checkpoint.view(layout=HF_CLIP_IMAGE)),
        text=read_hugging_face_text(text, _CLIP_PROJECTION, heads=8, causal=True),
    )


def _map_clip(config: ImageTextConfig) -> tuple[Rule, ...]:
    projection = "visual_projection"
    image = prefix_rules(
        HF_CLIP_IMAGE.rules(config.image), ours="image.", theirs="vision_model.", bare=(projection,)
    )
    return (*image, *map_hugging_face_text(_CLIP_PROJECTION), *_SCALE)


HF_CLIP: Final = Layout(
    name="hf_clip",
    title="Hugging Face's CLIP",
    library=HUGGING_FACE,
    kind=ImageTextConfig,
    image=HF_CLIP_IMAGE,
    read_config=_read_clip,
    rules=_map_clip,
    signature=(
        "vision_model.embeddings.class_embedding",
        "vision_model.pre_layrnorm.weight",
        "visual_projection.weight",
        "text_model.final_layer_norm.weight",
        "text_projection.weight",
        "logit_scale",
    ),
    model_types=("clip", "metaclip_2"),
    usual=_USUAL_TEXT,
    ignored=POSITION_IDS,
)


def _read_siglip(checkpoint: Checkpoint) -> ImageTextConfig:
    text = select_text_tower(checkpoint)
    return ImageTextConfig(
        image=HF_SIGLIP_IMAGE.read_config(checkpoint.view(layout=HF_SIGLIP_IMAGE)),
        text=read_hugging_face_text(text, _SIGLIP_PROJECTION, heads=12, causal=False),
        has_bias=True,
    )


def _map_siglip(config: ImageTextConfig) -> tuple[Rule, ...]:
    image = prefix_rules(HF_SIGLIP_IMAGE.rules(config.image), ours="image.", theirs="vision_model.")
    return (*image, *map_hugging_face_text(_SIGLIP_PROJECTION), *_SCALES)


HF_SIGLIP: Final = Layout(
    name="hf_siglip",
    title="Hugging Face's SigLIP, and SigLIP 2",
    library=HUGGING_FACE,
    kind=ImageTextConfig,
    image=HF_SIGLIP_IMAGE,
    read_config=_read_siglip,
    rules=_map_siglip,
    signature=(
        "vision_model.embeddings.patch_embedding.bias",
        "vision_model.post_layernorm.weight",
        "text_model.final_layer_norm.weight",
        "text_model.head.weight",
        "logit_scale",
        "logit_bias",
    ),
    model_types=("siglip", "siglip2"),
    usual={"layer_norm_eps": 1e-6, "hidden_act": "gelu_pytorch_tanh"},
    ignored=POSITION_IDS,
)

# --- OpenAI, open_clip --------------------------------------------------------------------------------------------

_TEXT_TOWERS: Final = ("token_embedding.weight", "text.token_embedding.weight")
"""One of these is in a file with a text tower of open_clip's own; with one of Hugging Face's only the image tower is
read."""


def _read_open_clip(checkpoint: Checkpoint, image: Layout[ViTConfig]) -> ImageTextConfig:
    return ImageTextConfig(
        image=image.read_config(checkpoint.view(layout=image)),
        text=read_open_clip_text(checkpoint),
        has_bias="logit_bias" in checkpoint,
    )


def _map_openai(config: ImageTextConfig) -> tuple[Rule, ...]:
    image = prefix_rules(OPENAI_CLIP_IMAGE.rules(config.image), ours="image.")
    return (*image, *map_open_clip_text(config.text, within=False), *_SCALE)


OPENAI_CLIP: Final = Layout(
    name="openai_clip",
    title="OpenAI's CLIP and open_clip",
    library=OPEN_CLIP,
    kind=ImageTextConfig,
    image=OPENAI_CLIP_IMAGE,
    read_config=lambda checkpoint: _read_open_clip(checkpoint, OPENAI_CLIP_IMAGE),
    rules=_map_openai,
    signature=(*OPENAI_CLIP_IMAGE.signature, "logit_scale"),
    one_of=_TEXT_TOWERS,
    ignored=(NUMBERS,),
)


def _wrap_timm(image: Layout[ViTConfig]) -> Layout[ImageTextConfig]:
    """The layout of open_clip's models whose image tower is a model of timm's."""

    def name_whole(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(OPEN_CLIP_TRUNK + name for name in names)

    def make_rules(config: ImageTextConfig) -> tuple[Rule, ...]:
        rules = prefix_rules(
            image.rules(config.image), ours="image.", theirs=OPEN_CLIP_TRUNK, bare=(OPEN_CLIP_HEAD,)
        )
        return (*rules, *map_open_clip_text(config.text, within=True), *_SCALE)

    return Layout(
        name=image.name,
        title=f"{image.title}, as the image tower of open_clip",
        library=OPEN_CLIP,
        kind=ImageTextConfig,
        image=image,
        read_config=lambda checkpoint: _read_open_clip(checkpoint, image),
        rules=make_rules,
        signature=(*name_whole(image.signature), "logit_scale"),
        one_of=_TEXT_TOWERS,
        foreign=name_whole(image.foreign),
        ignored=tuple((re.escape(OPEN_CLIP_TRUNK) + pattern, why) for pattern, why in image.ignored),
    )


TIMM_VIT: Final = _wrap_timm(TIMM_VIT_IMAGE)
TIMM_EVA: Final = _wrap_timm(TIMM_EVA_IMAGE)
