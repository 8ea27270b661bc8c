"""The layouts of DINOv3: Meta's, and Hugging Face's on the Hub and in memory.

Source: facebookresearch/dinov3 `models/vision_transformer.py` and `layers/attention.py`; transformers 5.23.0, the
module `dinov3_vit`.
"""

from dataclasses import replace
from functools import partial
from typing import Final

import numpy as np
from jaxtyping import Float

from ..._spec import PartSpec
from ...encoder import EncoderOptions, EncoderSize
from ...model import ViTConfig
from .._errors import CheckpointError
from .._rules import FINAL_NORM, QKV, ZEROS, Rule, map_block, map_names
from ._checkpoint import Checkpoint
from ._hugging_face import MASK_TOKEN, read_activation, select_settings, write_config
from ._layout import Export, Layout, Settings
from ._libraries import HUGGING_FACE, META
from ._preprocess import IMAGENET, Preprocess
from ._processor import find_preprocess_obstacle, write_hugging_face_preprocess
from ._vit import find_misreading

_BASE: Final = 100.0
_PATCHES: Final = 14
"""The side of the images of the published models, in patches."""
_ALSO_SATELLITE: Final = (1024, 4096)
"""The widths of models that are published for photographs and for pictures from satellites, whose means differ."""


# --- Meta ---------------------------------------------------------------------------------------------------------


def _read_config_meta(checkpoint: Checkpoint) -> ViTConfig:
    dim, channels, patch = checkpoint.get_kernel("patch_embed.proj.weight")
    gated = "blocks.0.mlp.w3.weight" in checkpoint
    periods = checkpoint.get_shape("rope_embed.periods", 1)[0]
    return ViTConfig(
        image_size=(_PATCHES * patch[0], _PATCHES * patch[0]),
        patch_size=patch,
        channels=channels,
        size=EncoderSize(
            dim=dim,
            depth=checkpoint.count_blocks("blocks.{i}.norm1.weight"),
            num_heads=checkpoint.check_heads(
                "num_heads", checkpoint.settings.get("num_heads", dim // (4 * periods)), dim
            ),
            mlp_dim=checkpoint.get_shape(f"blocks.0.mlp.{'w3' if gated else 'fc2'}.weight", 2)[1],
        ),
        position=PartSpec("rope", (("base", _BASE), ("rule", "dinov3"))),
        pool="cls",
        head="none",
        class_token=True,
        num_registers=checkpoint.get_shape("storage_tokens", 3)[1],
        encoder=EncoderOptions(
            qkv_bias="blocks.0.attn.qkv.bias" in checkpoint,
            activation="swiglu" if gated else "gelu",
            norm_eps=1e-5,
            layer_scale=1.0,
        ),
        preprocess=checkpoint.find_preprocess(channels, is_known=dim not in _ALSO_SATELLITE),
    )


def _map_meta(config: ViTConfig) -> tuple[Rule, ...]:
    gated = config.encoder.activation == "swiglu"
    qkv = "blocks.{i}.attn.qkv."
    return (
        map_names("patch_embed.proj.*", "backbone.patch.*"),
        map_names("cls_token", "backbone.class_token", "1 1 d -> d"),
        map_names("storage_tokens", "backbone.registers", "1 n d -> n d"),
        map_names(qkv + "weight", QKV + "weight"),
        map_names(qkv + "bias", QKV + "bias", mask=qkv + "bias_mask"),
        *map_block(
            "blocks.{i}.",
            norm1="norm1",
            qkv=(),
            project="attn.proj",
            norm2="norm2",
            hidden=("mlp.w1", "mlp.w2") if gated else "mlp.fc1",
            out="mlp.w3" if gated else "mlp.fc2",
            scales=("ls1.gamma", "ls2.gamma"),
        ),
        map_names("norm.*", FINAL_NORM),
    )


def _compute_periods(config: ViTConfig) -> Float[np.ndarray, " periods"]:
    head_dim = config.size.dim // config.size.num_heads
    return np.float32(_BASE) ** (4 * np.arange(head_dim // 4, dtype=np.float32) / head_dim)


# --- Hugging Face -------------------------------------------------------------------------------------------------


def _read_config_hugging_face(checkpoint: Checkpoint, *, layer: str) -> ViTConfig:
    checkpoint = select_settings(checkpoint)
    dim, channels, patch = checkpoint.get_kernel("embeddings.patch_embeddings.weight")
    first = layer.format(i=0)
    gated = f"{first}mlp.gate_proj.weight" in checkpoint
    registers = checkpoint.tensors.get("embeddings.register_tokens")
    given = checkpoint.settings.get("image_size", _PATCHES * patch[0])
    activation = read_activation(checkpoint, "silu" if gated and not checkpoint.is_described else "gelu")
    if gated and activation != "silu":
        raise CheckpointError(
            f"{checkpoint.path} has a gated MLP, which must have 'silu', got {activation!r} in its config.json"
        )
    return ViTConfig(
        image_size=checkpoint.floor_size(given, patch),
        patch_size=patch,
        channels=channels,
        size=checkpoint.get_size(
            dim,
            depth=checkpoint.count_blocks(layer + "norm1.weight"),
            mlp_dim=checkpoint.get_shape(f"{first}mlp.down_proj.weight", 2)[1],
            patch=patch,
            setting="num_attention_heads",
            usual=20 if (dim, gated) == (1280, True) else None,
        ),
        position=PartSpec("rope", (("base", checkpoint.get_setting("rope_theta", float)), ("rule", "dinov3"))),
        pool="cls",
        head="none",
        class_token=True,
        num_registers=0 if registers is None or 0 in registers.shape else registers.shape[1],
        encoder=EncoderOptions(
            qkv_bias=f"{first}attention.q_proj.bias" in checkpoint,
            activation="swiglu" if gated else activation,
            norm_eps=checkpoint.get_setting("layer_norm_eps", float),
            layer_scale=1.0,
        ),
        preprocess=checkpoint.find_preprocess(
            channels, checkpoint.count_unread(patch, given), is_known=dim not in _ALSO_SATELLITE
        ),
    )


def _map_hugging_face(config: ViTConfig, *, layer: str) -> tuple[Rule, ...]:
    gated = config.encoder.activation == "swiglu"
    q, k, v = (f"{layer}attention.{name}_proj." for name in "qkv")
    return (
        map_names("embeddings.patch_embeddings.*", "backbone.patch.*"),
        map_names("embeddings.cls_token", "backbone.class_token", "1 1 d -> d"),
        map_names("embeddings.register_tokens", "backbone.registers", "1 n d -> n d"),
        map_names((q + "weight", k + "weight", v + "weight"), QKV + "weight"),
        map_names((q + "bias", ZEROS, v + "bias"), QKV + "bias"),
        *map_block(
            layer,
            norm1="norm1",
            qkv=(),
            project="attention.o_proj",
            norm2="norm2",
            hidden=("mlp.gate_proj", "mlp.up_proj") if gated else "mlp.up_proj",
            out="mlp.down_proj",
            scales=("layer_scale1.lambda1", "layer_scale2.lambda1"),
        ),
        map_names("norm.*", FINAL_NORM),
    )


def _write_config(config: ViTConfig) -> Settings:
    position = dict(config.position.options) if isinstance(config.position, PartSpec) else {}
    return write_config(
        config,
        "dinov3_vit",
        "DINOv3ViTModel",
        query_bias=config.encoder.qkv_bias,
        key_bias=False,
        value_bias=config.encoder.qkv_bias,
        use_gated_mlp=config.encoder.activation == "swiglu",
        layerscale_value=config.encoder.layer_scale,
        num_register_tokens=config.num_registers,
        rope_theta=position.get("base"),
    )


_MODEL_TYPES: Final = ("dinov3_vit",)
_USUAL: Final = {"layer_norm_eps": 1e-5, "num_attention_heads": 6, "rope_theta": _BASE}
_SQUASHED: Final = Preprocess("squash", "bilinear", *IMAGENET)

META_DINOV3: Final = Layout(
    name="dinov3",
    title="Meta's DINOv3",
    library=META,
    read_config=_read_config_meta,
    rules=_map_meta,
    signature=("storage_tokens", "rope_embed.periods", "blocks.0.attn.qkv.weight"),
    preprocess={"": _SQUASHED},
    ignored=(
        (r"mask_token", "only masked images need it"),
        (r"rope_embed\.periods", "computed from the base of 100"),
        (r"local_cls_norm\..*", "only training on crops needs it"),
    ),
    computed=((r"rope_embed\.periods", _compute_periods),),
)
HF_DINOV3: Final = Layout(
    name="hf_dinov3",
    title="Hugging Face's DINOv3",
    library=HUGGING_FACE,
    read_config=partial(_read_config_hugging_face, layer="layer.{i}."),
    rules=partial(_map_hugging_face, layer="layer.{i}."),
    signature=("embeddings.patch_embeddings.weight", "layer.0.layer_scale1.lambda1"),
    model_types=_MODEL_TYPES,
    usual=_USUAL,
    preprocess=dict.fromkeys(_MODEL_TYPES, _SQUASHED),
    ignored=(*MASK_TOKEN, (r"embeddings\.register_tokens", "a table without rows")),
    export=Export(
        find_misreading,
        write_config=_write_config,
        write_preprocess=write_hugging_face_preprocess,
        find_obstacle=find_preprocess_obstacle,
        kept=(r"embeddings\.mask_token",),
    ),
)
HF_DINOV3_5: Final = replace(
    HF_DINOV3,
    name="hf_dinov3_5",
    title="Hugging Face's DINOv3, as version 5 names it in memory",
    read_config=partial(_read_config_hugging_face, layer="model.layer.{i}."),
    rules=partial(_map_hugging_face, layer="model.layer.{i}."),
    signature=("embeddings.patch_embeddings.weight", "model.layer.0.layer_scale1.lambda1"),
    export=None,
)
