"""The layouts of CLIP and SigLIP with both towers. Each holds the layout of its image tower."""

import dataclasses
import re
from collections.abc import Callable
from types import MappingProxyType
from typing import Final

from ...model import ViTConfig
from ...systems import ImageTextConfig
from .._rules import Rule, map_names, prefix_rules
from ..formats import NumpyArray
from ._checkpoint import Checkpoint
from ._clip import HF_CLIP_IMAGE, NUMBERS, OPENAI_CLIP_IMAGE, write_vision_cfg
from ._hugging_face import POSITION_IDS, select_text_tower, write_config, write_header
from ._layout import Export, Layout, Settings
from ._libraries import HUGGING_FACE, OPEN_CLIP
from ._preprocess_cfg import write_open_clip_preprocess
from ._processor import write_hugging_face_preprocess
from ._settings import OPEN_CLIP_CONFIG
from ._siglip import HF_SIGLIP_IMAGE, find_siglip_obstacle, write_siglip_config
from ._text import (
    map_hugging_face_text,
    map_open_clip_text,
    needs_metaclip_2,
    read_hugging_face_text,
    read_open_clip_text,
    write_hugging_face_text,
    write_open_clip_text,
)
from ._timm import OPEN_CLIP_HEAD, OPEN_CLIP_TRUNK
from ._timm_eva import TIMM_EVA_IMAGE
from ._timm_naflex import TIMM_NAFLEX_IMAGE
from ._timm_vit import TIMM_VIT_IMAGE
from ._tokenizer import find_clip_tokenizer, find_open_clip_tokenizer, find_siglip_tokenizer
from ._tokenizer_files import (
    find_tokenizer_misreading,
    write_clip_tokenizer,
    write_open_clip_tokenizer,
    write_siglip_tokenizer,
    write_tokenizer_cfg,
)
from ._vit import describe_misreading, find_misreading, find_square_obstacle

_SCALE: Final = (map_names("logit_scale", "log_scale"), map_names("logit_bias", "bias"))
"""CLIP has a scale without an axis."""
_SCALES: Final = tuple(map_names(rule.theirs, rule.ours, "n -> n") for rule in _SCALE)
"""SigLIP has them with an axis of one."""

# --- Hugging Face -------------------------------------------------------------------------------------------------

_USUAL_TEXT: Final[Settings] = MappingProxyType(
    {"layer_norm_eps": 1e-5, "hidden_act": "quick_gelu", "num_attention_heads": 8, "eos_token_id": 49407}
)
"""What transformers assumes where the settings of CLIP's text tower do not say it."""


def find_towers_misreading(written: ImageTextConfig, read: ImageTextConfig) -> str:
    """What differs between a configuration and the one that its tensors are read as; empty if nothing does."""
    if problem := find_misreading(written.image, read.image):
        return problem
    if problem := find_tokenizer_misreading(written, read):
        return problem
    for field in dataclasses.fields(written.text):
        ours, theirs = (getattr(config.text, field.name) for config in (written, read))
        if field.name == "encoder" and None not in (ours.layer_scale, theirs.layer_scale):
            theirs = dataclasses.replace(theirs, layer_scale=ours.layer_scale)  # no file says where it began
        if ours != theirs and field.name != "init":
            return f"of the text, {describe_misreading(field.name, ours, theirs)}"
    return ""


def _read_clip(checkpoint: Checkpoint) -> ImageTextConfig:
    tower = select_text_tower(checkpoint, _USUAL_TEXT)
    image = HF_CLIP_IMAGE.read_config(checkpoint.view(layout=HF_CLIP_IMAGE))
    text = read_hugging_face_text(tower, heads=8, causal=True)
    return ImageTextConfig(
        image=image,
        text=text,
        tokenizer=find_clip_tokenizer(checkpoint, text.context),
    )


def _map_clip(config: ImageTextConfig) -> tuple[Rule, ...]:
    projection = "visual_projection"
    image = prefix_rules(HF_CLIP_IMAGE.rules(config.image), ours="image.", theirs="vision_model.", bare=(projection,))
    text = map_hugging_face_text(map_names("text_projection.weight", "text.projection.weight"))
    return (*image, *text, _SCALE[0])


def _write_clip(config: ImageTextConfig) -> Settings:
    name, kind = ("MetaClip2", "metaclip_2") if needs_metaclip_2(config.text) else ("CLIP", "clip")
    width = {"projection_dim": config.text.embed_dim}
    return {
        **write_header(kind, f"{name}Model"),
        **width,
        "text_config": write_hugging_face_text(config.text, f"{kind}_text_model", **width),
        "vision_config": write_config(config.image, f"{kind}_vision_model", f"{name}VisionModel", **width),
    }


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
    model_types=("clip", "metaclip_2", "clipseg"),
    usual=_USUAL_TEXT,
    ignored=POSITION_IDS,
    export=Export(
        find_towers_misreading,
        write_config=_write_clip,
        write_preprocess=lambda config: write_hugging_face_preprocess(config.image),
        write_tokenizer=write_clip_tokenizer,
        find_obstacle=lambda config: find_square_obstacle(config.image),
    ),
)


def _read_siglip(checkpoint: Checkpoint) -> ImageTextConfig:
    tower = select_text_tower(checkpoint)
    image = HF_SIGLIP_IMAGE.read_config(checkpoint.view(layout=HF_SIGLIP_IMAGE))
    text = read_hugging_face_text(tower, heads=12, causal=False)
    return ImageTextConfig(
        image=image,
        text=text,
        has_bias=True,
        tokenizer=find_siglip_tokenizer(checkpoint, text.context),
    )


def _map_siglip(config: ImageTextConfig) -> tuple[Rule, ...]:
    image = prefix_rules(HF_SIGLIP_IMAGE.rules(config.image), ours="image.", theirs="vision_model.")
    text = map_hugging_face_text(map_names("text_model.head.*", "text.projection.*"))
    return (*image, *text, *_SCALES)


def _write_siglip(config: ImageTextConfig) -> Settings:
    vision = write_siglip_config(config.image)
    kind = str(vision["model_type"]).removesuffix("_vision_model")
    return {
        **write_header(kind, f"{kind.title()}Model"),
        "text_config": write_hugging_face_text(
            config.text, f"{kind}_text_model", projection_size=config.text.embed_dim
        ),
        "vision_config": vision,
    }


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
        "vision_model.head.probe",
        "text_model.final_layer_norm.weight",
        "text_model.head.weight",
        "logit_scale",
        "logit_bias",
    ),
    model_types=("siglip", "siglip2"),
    usual={"layer_norm_eps": 1e-6, "hidden_act": "gelu_pytorch_tanh"},
    ignored=POSITION_IDS,
    export=Export(
        find_towers_misreading,
        write_config=_write_siglip,
        write_preprocess=lambda config: write_hugging_face_preprocess(config.image),
        write_tokenizer=write_siglip_tokenizer,
        find_obstacle=lambda config: find_siglip_obstacle(config.image),
    ),
)

# --- OpenAI, open_clip --------------------------------------------------------------------------------------------

_TEXT_TOWERS: Final = ("token_embedding.weight", "text.token_embedding.weight")
"""One of these is in a file with a text tower of open_clip's own; with one of Hugging Face's only the image tower is
read."""


def _read_open_clip(checkpoint: Checkpoint, image: Layout[ViTConfig]) -> ImageTextConfig:
    vision = image.read_config(checkpoint.view(layout=image))
    text = read_open_clip_text(checkpoint)
    return ImageTextConfig(
        image=vision,
        text=text,
        has_bias="logit_bias" in checkpoint,
        tokenizer=find_open_clip_tokenizer(checkpoint, text.context),
    )


def _map_openai(config: ImageTextConfig) -> tuple[Rule, ...]:
    image = prefix_rules(OPENAI_CLIP_IMAGE.rules(config.image), ours="image.")
    return (*image, *map_open_clip_text(config.text, within=False), *_SCALE)


def _write_open_clip(config: ImageTextConfig) -> Settings:
    return {
        "model_cfg": {
            "embed_dim": config.image.num_classes,
            "quick_gelu": config.image.encoder.activation == "quick_gelu",
            **({"init_logit_bias": 0} if config.has_bias else {}),  # or open_clip has no bias
            "vision_cfg": write_vision_cfg(config.image),
            "text_cfg": {**write_open_clip_text(config.text), **write_tokenizer_cfg(config)},
        },
        "preprocess_cfg": write_open_clip_preprocess(config.image),
    }


def _find_open_clip_obstacle(config: ImageTextConfig) -> str:
    """What open_clip's settings cannot say."""
    if config.image.channels != 3:
        return f"images have 3 channels there, got {config.image.channels}"
    return ""


OPENAI_CLIP: Final = Layout(
    name="openai_clip",
    title="OpenAI's CLIP and open_clip",
    library=OPEN_CLIP,
    kind=ImageTextConfig,
    image=OPENAI_CLIP_IMAGE,
    read_config=lambda checkpoint: _read_open_clip(checkpoint, OPENAI_CLIP_IMAGE),
    rules=_map_openai,
    signature=(*OPENAI_CLIP_IMAGE.signature, "logit_scale"),
    one_of=(_TEXT_TOWERS,),
    ignored=(NUMBERS,),
    export=Export(
        find_towers_misreading,
        write_config=_write_open_clip,
        settings=OPEN_CLIP_CONFIG,
        write_tokenizer=write_open_clip_tokenizer,
        read_first=("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors"),
        find_obstacle=_find_open_clip_obstacle,
    ),
)


def _wrap_timm(image: Layout[ViTConfig]) -> Layout[ImageTextConfig]:
    """The layout of open_clip's models whose image tower is a model of timm's."""

    trunk = re.escape(OPEN_CLIP_TRUNK)

    def name_whole(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(OPEN_CLIP_TRUNK + name for name in names)

    def computer(compute: Callable[[ViTConfig], NumpyArray]) -> Callable[[ImageTextConfig], NumpyArray]:
        return lambda config: compute(config.image)

    def make_rules(config: ImageTextConfig) -> tuple[Rule, ...]:
        rules = prefix_rules(image.rules(config.image), ours="image.", theirs=OPEN_CLIP_TRUNK, bare=(OPEN_CLIP_HEAD,))
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
        one_of=(_TEXT_TOWERS, *map(name_whole, image.one_of)),
        foreign=name_whole(image.foreign),
        architectures=image.architectures,
        ignored=tuple((f"{trunk}(?:{pattern})", why) for pattern, why in image.ignored),
        computed=tuple((f"{trunk}(?:{pattern})", computer(compute)) for pattern, compute in image.computed),
    )


TIMM_VIT: Final = _wrap_timm(TIMM_VIT_IMAGE)
TIMM_EVA: Final = _wrap_timm(TIMM_EVA_IMAGE)
TIMM_NAFLEX: Final = _wrap_timm(TIMM_NAFLEX_IMAGE)
