"""The layouts of DINOv2, with and without registers: Meta's, and Hugging Face's on the Hub and in memory.

Source: facebookresearch/dinov2 `models/vision_transformer.py`; transformers 5.23.0, the modules `dinov2` and
`dinov2_with_registers`.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from ..._spec import PartSpec
from ...encoder import EncoderOptions
from ...model import ViTConfig
from ...nn import ActivationName
from .._rules import FINAL_NORM, POSITION_ROWS, Rule, map_block, map_names
from ._adapt import cover_class
from ._checkpoint import Checkpoint
from ._hugging_face import MASK_TOKEN, read_activation, select_settings, write_config, write_labels
from ._layout import Export, Layout, Settings
from ._libraries import HUGGING_FACE, META
from ._preprocess import IMAGENET, Preprocess
from ._processor import write_hugging_face_preprocess
from ._vit import find_misreading, find_square_obstacle, use_learned


@dataclass(frozen=True)
class _Names:
    """What the three call the same things."""

    patch: str
    class_token: str
    registers: str
    positions: str
    block: str
    qkv: tuple[str, ...]
    project: str
    gated_hidden: tuple[str, ...]
    gated_out: str
    scales: tuple[str, str]
    norm: str
    hidden: str = "mlp.fc1"
    out: str = "mlp.fc2"
    classifier: str = ""
    """Empty if no file has one."""


META_NAMES: Final = _Names(
    patch="patch_embed.proj",
    class_token="cls_token",
    registers="register_tokens",
    positions="pos_embed",
    block="blocks.{i}.",
    qkv=("attn.qkv",),
    project="attn.proj",
    gated_hidden=("mlp.w12",),
    gated_out="mlp.w3",
    scales=("ls1.gamma", "ls2.gamma"),
    norm="norm",
)
_ON_THE_HUB: Final = _Names(
    patch="embeddings.patch_embeddings.projection",
    class_token="embeddings.cls_token",
    registers="embeddings.register_tokens",
    positions="embeddings.position_embeddings",
    block="encoder.layer.{i}.",
    qkv=("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    project="attention.output.dense",
    gated_hidden=("mlp.weights_in",),
    gated_out="mlp.weights_out",
    scales=("layer_scale1.lambda1", "layer_scale2.lambda1"),
    norm="layernorm",
    classifier="classifier",
)
_IN_MEMORY: Final = _Names(
    patch="embeddings.patch_embeddings.projection",
    class_token="embeddings.cls_token",
    registers="embeddings.register_tokens",
    positions="embeddings.position_embeddings",
    block="encoder.layer.{i}.",
    qkv=("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    project="attention.o_proj",
    gated_hidden=("mlp.gate_proj", "mlp.up_proj"),
    gated_out="mlp.down_proj",
    scales=("layer_scale1.lambda1", "layer_scale2.lambda1"),
    norm="layernorm",
    classifier="classifier",
)


def _read_config_meta(checkpoint: Checkpoint) -> ViTConfig:
    has_registers = META_NAMES.registers in checkpoint
    if has_registers and checkpoint.get_shape(META_NAMES.registers, 3)[1] == 1:
        raise checkpoint.ask("whether it is DINOv2 or TIPSv2", "pass layout='hf_tipsv2' for TIPSv2's")
    return read_dinov2(
        checkpoint,
        META_NAMES,
        heads="num_heads",
        image_size=None,
        position=use_learned("torch_bicubic_antialias", covers_prefix="class")
        if has_registers
        else use_learned("dinov2_offset"),
        activation="gelu",
        norm_eps=1e-6,
    )


def _read_config_hugging_face(checkpoint: Checkpoint, *, names: _Names) -> ViTConfig:
    checkpoint = select_settings(checkpoint)
    has_registers = names.registers in checkpoint
    return read_dinov2(
        checkpoint,
        names,
        heads="num_attention_heads",
        image_size=checkpoint.settings.get("image_size"),
        position=use_learned("torch_bicubic_antialias", covers_prefix="class")
        if has_registers
        else use_learned("torch_bicubic"),
        activation=read_activation(checkpoint),
        norm_eps=checkpoint.get_setting("layer_norm_eps", float),
    )


def read_dinov2(
    checkpoint: Checkpoint,
    names: _Names,
    *,
    heads: str,
    image_size: object,
    position: PartSpec,
    activation: ActivationName,
    norm_eps: float,
) -> ViTConfig:
    dim, channels, patch = checkpoint.get_kernel(f"{names.patch}.weight")
    first = names.block.format(i=0)
    gated = f"{first}{names.gated_out}.weight" in checkpoint
    positions = checkpoint.get_shape(names.positions, 3)[1]
    size = checkpoint.find_image_size(positions - 1, patch, image_size)
    num_classes = checkpoint.count_classes(f"{names.classifier}.weight")
    return ViTConfig(
        image_size=size,
        patch_size=patch,
        channels=channels,
        size=checkpoint.get_size(
            dim,
            depth=checkpoint.count_blocks(names.block + "norm1.weight"),
            mlp_dim=checkpoint.get_shape(f"{first}{names.gated_out if gated else names.out}.weight", 2)[1],
            patch=patch,
            setting=heads,
        ),
        num_classes=num_classes,
        classes=checkpoint.find_classes(num_classes),
        position=position,
        pool="cls" if num_classes is None else "cls_mean",
        head="none" if num_classes is None else "linear",
        class_token=True,
        num_registers=checkpoint.get_shape(names.registers, 3)[1] if names.registers in checkpoint else 0,
        encoder=EncoderOptions(
            qkv_bias=f"{first}{names.qkv[0]}.bias" in checkpoint,
            activation="swiglu" if gated else activation,
            norm_eps=norm_eps,
            layer_scale=1.0,
        ),
        preprocess=checkpoint.find_preprocess(channels, checkpoint.count_unread(patch, image_size)),
    )


def map_dinov2(config: ViTConfig, *, names: _Names) -> tuple[Rule, ...]:
    gated = config.encoder.activation == "swiglu"
    classifier = (map_names(f"{names.classifier}.*", "readout.head.linear.*"),) if names.classifier else ()
    return (
        map_names(f"{names.patch}.*", "backbone.patch.*"),
        map_names(names.class_token, "backbone.class_token", "1 1 d -> d"),
        map_names(names.registers, "backbone.registers", "1 n d -> n d"),
        map_names(names.positions, POSITION_ROWS, "1 n d -> n d"),
        *map_block(
            names.block,
            norm1="norm1",
            qkv=names.qkv,
            project=names.project,
            norm2="norm2",
            hidden=names.gated_hidden if gated else names.hidden,
            out=names.gated_out if gated else names.out,
            scales=names.scales,
        ),
        map_names(f"{names.norm}.*", FINAL_NORM),
        *classifier,
    )


def _choose_prefix(config: ViTConfig) -> str:
    name = "dinov2_with_registers." if config.num_registers else "dinov2."
    return "" if config.head == "none" else name


def _find_mlp_ratio(config: ViTConfig) -> int | None:
    """The ratio, a whole number there, from which Hugging Face computes the width of the MLP; `None` if none does."""
    dim, mlp_dim = config.size.dim, config.size.mlp_dim
    if config.encoder.activation != "swiglu":
        return None if mlp_dim % dim else mlp_dim // dim
    # Its gated MLP has two thirds of the width, rounded up to a multiple of 8.
    ratios = range(1, 2 * mlp_dim // dim + 2)
    return next((ratio for ratio in ratios if (int(dim * ratio * 2 / 3) + 7) // 8 * 8 == mlp_dim), None)


def _write_config(config: ViTConfig) -> Settings:
    name = "Dinov2WithRegisters" if config.num_registers else "Dinov2"
    family = {"num_register_tokens": config.num_registers} if config.num_registers else {"use_mask_token": False}
    classifies = config.head != "none"
    return write_config(
        config,
        "dinov2_with_registers" if config.num_registers else "dinov2",
        name + ("ForImageClassification" if classifies else "Model"),
        qkv_bias=config.encoder.qkv_bias,
        layerscale_value=config.encoder.layer_scale,
        mlp_ratio=_find_mlp_ratio(config),
        use_swiglu_ffn=config.encoder.activation == "swiglu",
        **family,
        **(write_labels(config) if classifies else {}),
    )


def _find_obstacle(config: ViTConfig) -> str:
    if _find_mlp_ratio(config) is None:
        dim, mlp_dim = config.size.dim, config.size.mlp_dim
        return f"mlp_dim must be one that a whole mlp_ratio gives for dim={dim}, got {mlp_dim}"
    return find_square_obstacle(config)


_PREFIXES: Final = ("dinov2.", "dinov2_with_registers.")
_MODEL_TYPES: Final = ("dinov2", "dinov2_with_registers")
_USUAL: Final = {"layer_norm_eps": 1e-6, "num_attention_heads": 12, "hidden_act": "gelu"}
_CUT: Final = Preprocess("cover", "bicubic", *IMAGENET, crop=0.875)

META_DINOV2_IMAGE: Final = Layout(
    name="dinov2",
    title="Meta's DINOv2, with and without registers",
    library=META,
    read_config=_read_config_meta,
    rules=partial(map_dinov2, names=META_NAMES),
    signature=("mask_token", "pos_embed", "cls_token", "blocks.0.ls1.gamma", "blocks.0.attn.qkv.weight"),
    foreign=("decoder_embed.weight", "storage_tokens", "blocks.0.mlp.c_fc.weight"),
    preprocess={"": _CUT},
    ignored=((r"mask_token", "only masked images need it"),),
)
HF_DINOV2: Final = Layout(
    name="hf_dinov2",
    title="Hugging Face's DINOv2, with and without registers",
    library=HUGGING_FACE,
    read_config=partial(_read_config_hugging_face, names=_ON_THE_HUB),
    rules=partial(map_dinov2, names=_ON_THE_HUB),
    signature=("encoder.layer.0.layer_scale1.lambda1", "encoder.layer.0.attention.attention.query.weight"),
    prefixes=_PREFIXES,
    model_types=_MODEL_TYPES,
    usual=_USUAL,
    preprocess=dict.fromkeys(_MODEL_TYPES, _CUT),
    ignored=MASK_TOKEN,
    export=Export(
        find_misreading,
        write_config=_write_config,
        write_preprocess=write_hugging_face_preprocess,
        adapt=cover_class,
        find_obstacle=_find_obstacle,
        prefix=_choose_prefix,
        kept=(r"embeddings\.mask_token",),
        describe_kept=lambda settings: (
            dict(settings) | ({"use_mask_token": True} if "use_mask_token" in settings else {})
        ),
        bare=("classifier",),
    ),
)
HF_DINOV2_5: Final = replace(
    HF_DINOV2,
    name="hf_dinov2_5",
    title="Hugging Face's DINOv2, as version 5 names it in memory",
    read_config=partial(_read_config_hugging_face, names=_IN_MEMORY),
    rules=partial(map_dinov2, names=_IN_MEMORY),
    signature=("encoder.layer.0.layer_scale1.lambda1", "encoder.layer.0.attention.q_proj.weight"),
    export=None,
)
