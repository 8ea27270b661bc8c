"""The layouts of CLIP's image tower: OpenAI's and open_clip's, and Hugging Face's.

Source: openai/CLIP `clip/model.py`; open_clip 3.3.0 `transformer.py`; transformers 5.23.0, the module `clip`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal

from ..._check import join_names
from ..._spec import PartSpec
from ...encoder import EncoderOptions
from ...model import ViTConfig
from ...nn import ActivationName
from .._errors import CheckpointError
from .._rules import FINAL_NORM, POSITION_ROWS, Rule, map_names
from ._adapt import adapt_in_turn, cover_all, drop_zero_bias
from ._checkpoint import Checkpoint
from ._hugging_face import TEXT_TOWER, map_hugging_face_block, read_activation, select_vision_tower, write_config
from ._layout import Export, Layout, Settings
from ._libraries import HUGGING_FACE, OPEN_CLIP
from ._open_clip import (
    TEXT_TOWER as OPEN_CLIP_TEXT,
    map_open_clip_block,
    read_open_clip_encoder,
    write_open_clip_encoder,
)
from ._preprocess import CLIP, Preprocess, find_full_size
from ._processor import write_hugging_face_preprocess
from ._timm import compute_mlp_ratio
from ._vit import find_misreading, find_square_obstacle, has_projection, use_learned, write_sides

_NO_BIAS: Final = (("bias", False),)


def _read_config(
    checkpoint: Checkpoint,
    *,
    kernel: str,
    positions: str,
    block: str,
    norm1: str,
    hidden: str,
    heads: str,
    num_classes: int | None,
    position: PartSpec,
    encoder: EncoderOptions,
    pool: str = "cls",
    norm_order: Literal["norm_pool", "pool_norm"] = "norm_pool",
) -> ViTConfig:
    dim, channels, patch = checkpoint.get_kernel(kernel)
    rows = checkpoint.get_shape(positions, 2)[0]
    given = checkpoint.settings.get("image_size")
    image_size = checkpoint.find_image_size(rows - 1, patch, given)
    return ViTConfig(
        image_size=image_size,
        patch_size=patch,
        channels=channels,
        size=checkpoint.get_size(
            dim,
            depth=checkpoint.count_blocks(f"{block}{norm1}.weight"),
            mlp_dim=checkpoint.get_shape(f"{block.format(i=0)}{hidden}.weight", 2)[0],
            patch=patch,
            setting=heads,
        ),
        num_classes=num_classes,
        patch=PartSpec("conv", _NO_BIAS),
        position=position,
        pool=pool,
        head="none" if num_classes is None else PartSpec("linear", _NO_BIAS),
        norm_order=norm_order,
        class_token=True,
        encoder=encoder,
        preprocess=checkpoint.find_preprocess(channels, checkpoint.count_unread(patch, given)),
    )


# --- OpenAI, open_clip --------------------------------------------------------------------------------------------

_BLOCK: Final = "visual.transformer.resblocks.{i}."


_POOLS: Final[Mapping[str, str]] = MappingProxyType({"tok": "cls", "avg": "mean"})
"""Our names of open_clip's pools."""


def _read_config_openai(checkpoint: Checkpoint) -> ViTConfig:
    pre_norm, given = "visual.ln_pre.weight" in checkpoint, checkpoint.settings.get("vision_cfg")
    if not pre_norm and not given:
        raise CheckpointError(
            f"{checkpoint.path} has no 'visual.ln_pre.weight', and does not say how its image tower pools: put its "
            "open_clip_config.json beside it, or pass config= with its 'vision_cfg'"
        )
    vision: Settings = given or {}
    pool = vision.get("pool_type", "tok")
    if pool not in _POOLS:
        raise CheckpointError(f"{checkpoint.path} must have a 'pool_type' of {join_names(_POOLS)}, got {pool!r}")
    return _read_config(
        checkpoint,
        kernel="visual.conv1.weight",
        positions="visual.positional_embedding",
        block=_BLOCK,
        norm1="ln_1",
        hidden="mlp.c_fc",
        heads="num_heads",
        num_classes=checkpoint.get_shape("visual.proj", 2)[1] if "visual.proj" in checkpoint else None,
        position=use_learned("torch_bicubic_antialias"),
        encoder=read_open_clip_encoder(checkpoint, vision, _BLOCK, pre_norm=pre_norm),
        pool=_POOLS[pool],
        norm_order="pool_norm" if vision.get("final_ln_after_pool") else "norm_pool",
    )


def write_vision_cfg(config: ViTConfig) -> Settings:
    """open_clip's settings of the image tower."""
    size = config.size
    return {
        "image_size": write_sides(find_full_size(config)),
        "patch_size": write_sides(config.patch_size),
        "width": size.dim,
        "layers": size.depth,
        "head_width": size.dim // size.num_heads,
        "mlp_ratio": compute_mlp_ratio(size.dim, size.mlp_dim),
        "no_ln_pre": not config.encoder.pre_norm,
        "pool_type": next((theirs for theirs, ours in _POOLS.items() if ours == config.pool), str(config.pool)),
        "final_ln_after_pool": config.norm_order == "pool_norm",
        **write_open_clip_encoder(config.encoder),
    }


def _map_openai(config: ViTConfig) -> tuple[Rule, ...]:
    return (
        map_names("visual.conv1.weight", "backbone.patch.weight"),
        map_names("visual.class_embedding", "backbone.class_token"),
        map_names("visual.positional_embedding", POSITION_ROWS, "n d -> n d"),
        map_names("visual.ln_pre.*", "backbone.encoder.pre_norm.*"),
        *map_open_clip_block(_BLOCK, "backbone.encoder.stack."),
        map_names("visual.ln_post.*", FINAL_NORM),
        map_names("visual.proj", "readout.head.linear.weight", "i o -> o i"),
    )


NUMBERS: Final = (r"input_resolution|context_length|vocab_size", "numbers that the shapes say, too")
"""What OpenAI's files have beside their tensors."""
OPENAI_CLIP_IMAGE: Final = Layout(
    name="openai_clip",
    title="OpenAI's CLIP and open_clip",
    library=OPEN_CLIP,
    read_config=_read_config_openai,
    rules=_map_openai,
    signature=(
        "visual.conv1.weight",
        "visual.class_embedding",
        _BLOCK.format(i=0) + "attn.in_proj_weight",
    ),
    preprocess={"": Preprocess("cover", "bicubic", *CLIP)},
    ignored=(*OPEN_CLIP_TEXT, NUMBERS),
    embeds=("visual.proj",),
)


# --- Hugging Face -------------------------------------------------------------------------------------------------

_LAYER: Final = "encoder.layers.{i}."
_MODEL_TYPES: Final = ("clip_vision_model", "clip")
USUAL_VISION: Final[Settings] = MappingProxyType(
    {"layer_norm_eps": 1e-5, "hidden_act": "quick_gelu", "num_attention_heads": 12}
)
"""What transformers assumes where the settings of CLIP's vision tower do not say it."""
_RELATIVES: Final = tuple(
    f"{family}{ending}"
    for family in ("metaclip_2", "chinese_clip", "altclip", "clipseg", "git")
    for ending in ("_vision_model", "")
)
"""Families whose image tower is CLIP's."""


def _read_config_hugging_face(whole: Checkpoint) -> ViTConfig:
    checkpoint = select_vision_tower(whole, USUAL_VISION)
    return _read_config(
        checkpoint,
        kernel="embeddings.patch_embedding.weight",
        positions="embeddings.position_embedding.weight",
        block=_LAYER,
        norm1="layer_norm1",
        hidden="mlp.fc1",
        heads="num_attention_heads",
        num_classes=checkpoint.count_classes("visual_projection.weight"),
        position=use_learned("torch_bicubic"),
        encoder=EncoderOptions(
            activation=_read_activation(checkpoint),
            norm_eps=checkpoint.get_setting("layer_norm_eps", float),
            pre_norm=True,
        ),
    )


def _read_activation(checkpoint: Checkpoint) -> ActivationName:
    if "hidden_act" not in checkpoint.settings and not checkpoint.is_described:
        raise checkpoint.ask(
            "which activation its CLIP has",
            "pass config={'hidden_act': 'quick_gelu'} for OpenAI's and Meta's, {'hidden_act': 'gelu'} for LAION's",
        )
    return read_activation(checkpoint)


def _map_hugging_face(config: ViTConfig) -> tuple[Rule, ...]:
    return (
        map_names("embeddings.patch_embedding.weight", "backbone.patch.weight"),
        map_names("embeddings.class_embedding", "backbone.class_token"),
        map_names("embeddings.position_embedding.weight", POSITION_ROWS, "n d -> n d"),
        map_names("pre_layrnorm.*", "backbone.encoder.pre_norm.*"),
        *map_hugging_face_block(_LAYER),
        map_names("post_layernorm.*", FINAL_NORM),
        map_names("visual_projection.weight", "readout.head.linear.weight"),
    )


def _write_config(config: ViTConfig) -> Settings:
    if has_projection(config):
        projected = "CLIPVisionModelWithProjection"
        return write_config(config, "clip_vision_model", projected, projection_dim=config.num_classes)
    return write_config(config, "clip_vision_model", "CLIPVisionModel")


HF_CLIP_IMAGE: Final = Layout(
    name="hf_clip",
    title="Hugging Face's CLIP",
    library=HUGGING_FACE,
    read_config=_read_config_hugging_face,
    rules=_map_hugging_face,
    signature=("embeddings.class_embedding", "pre_layrnorm.weight"),
    prefixes=("vision_model.", "model.vision_model."),
    model_types=(*_MODEL_TYPES, *_RELATIVES),
    usual={"layer_norm_eps": 1e-5, "num_attention_heads": 12, "hidden_act": "quick_gelu"},
    preprocess=dict.fromkeys(_MODEL_TYPES, Preprocess("cover", "bicubic", *CLIP)),
    ignored=TEXT_TOWER,
    embeds=("visual_projection.weight",),
    export=Export(
        find_misreading,
        write_config=_write_config,
        write_preprocess=write_hugging_face_preprocess,
        adapt=adapt_in_turn(cover_all, drop_zero_bias),
        find_obstacle=find_square_obstacle,
        prefix=lambda config: "vision_model." if has_projection(config) else "",
        bare=("visual_projection",),
    ),
)
