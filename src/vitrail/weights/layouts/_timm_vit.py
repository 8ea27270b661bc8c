"""The layout of timm's `VisionTransformer`: ViT, DeiT, DeiT III, DINOv2, CLIP, SigLIP.

Source: timm 1.0.31, `models/vision_transformer.py` and `models/deit.py`.
"""

import math
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Literal

from ..._check import join_names
from ..._spec import PartSpec
from ...encoder import EncoderOptions
from ...model import NormOrder, ViTConfig
from ...nn import ActivationName, NormName
from .._errors import CheckpointError
from .._rules import FINAL_NORM, POSITION_ROWS, Rule, map_block, map_names
from ._adapt import adapt_in_turn, add_zero_bias, cover_all_or_none
from ._checkpoint import Checkpoint
from ._layout import Export, Layout, Settings
from ._libraries import TIMM
from ._open_clip import TEXT_TOWER
from ._timm import (
    KERNEL,
    OPEN_CLIP_HEAD,
    OPEN_CLIP_TRUNK,
    read_architecture,
    read_arguments,
    read_head,
    read_image_size,
    read_norm_order,
    read_pool,
    read_size,
    write_pool,
    write_timm_config,
)
from ._vit import find_misreading, list_shapes, use_attention_pool, use_learned

_TANH: Final = re.compile(
    r"vit_(base_patch32|giantopt_patch16|so400m_patch16)_siglip.*|vit_large_patch16_siglip.*_512|naflexvit_.*_siglip"
)
_ACTIVATIONS: Final[Mapping[str, ActivationName]] = MappingProxyType(
    {
        "gelu": "gelu",
        "gelu_tanh": "gelu_tanh",
        "quick_gelu": "quick_gelu",
        "relu": "relu",
        "silu": "silu",
        "swish": "silu",
        "tanh": "tanh",
    }
)
"""Our names of the activations by timm's."""
_NOT_OF_META: Final = (
    "head.weight",
    f"{OPEN_CLIP_HEAD}.weight",
    "fc_norm.weight",
    "reg_token",
    "dist_token",
    "blocks.0.ls1.gamma",
    "blocks.0.attn.q_norm.weight",
)
"""Of these, MAE's encoder and DINO's backbone have none, which have timm's names."""
_USUAL_SIZE: Final = 224
"""Of an image, in timm's constructor."""


def _read_config(checkpoint: Checkpoint) -> ViTConfig:
    name = read_architecture(checkpoint)
    arguments = read_arguments(checkpoint, more="" if "pos_embed" in checkpoint else "pos_embed")
    if "pos_embed" not in checkpoint and arguments.get("pos_embed") not in ("none", ""):
        raise CheckpointError(
            f"{checkpoint.path} has no 'pos_embed', and no setting says that its model has no positions: put its "
            "config.json beside it, or pass config={'architecture': ..., 'model_args': {'pos_embed': 'none'}}"
        )
    dim, channels, patch = checkpoint.get_kernel(KERNEL)
    class_token, pre_norm = "cls_token" in checkpoint, "norm_pre.weight" in checkpoint
    if not name:
        _check_plain(checkpoint)
    gated = (
        checkpoint.get_shape("blocks.0.mlp.fc1.weight", 2)[0] != checkpoint.get_shape("blocks.0.mlp.fc2.weight", 2)[1]
    )
    extra = "dist_token" if "dist_token" in checkpoint else "reg_token"
    registers = checkpoint.get_shape(extra, 3)[1] if extra in checkpoint else 0
    covers, image_size = _read_positions(checkpoint, arguments, patch, int(class_token) + registers)
    size = read_size(checkpoint, arguments, name, dim, patch)
    activation = read_activation(checkpoint, arguments, name, gated=gated)
    norm, eps = _read_norm(checkpoint, arguments)
    num_classes, head = read_head(checkpoint)
    distilled = "head_dist.weight" in checkpoint
    encoder = EncoderOptions(
        qkv_bias="blocks.0.attn.qkv.bias" in checkpoint,
        bias="blocks.0.attn.proj.bias" in checkpoint,
        qk_norm="blocks.0.attn.q_norm.weight" in checkpoint,
        activation=activation,
        norm=norm,
        norm_eps=eps,
        pre_norm=pre_norm,
        attention_norm="blocks.0.attn.norm.weight" in checkpoint,
        mlp_norm="blocks.0.mlp.norm.weight" in checkpoint,
        layer_scale=1.0 if "blocks.0.ls1.gamma" in checkpoint else None,
    )
    norm_order = read_norm_order(checkpoint)
    _check_arguments(checkpoint, arguments, encoder, norm_order)
    return ViTConfig(
        image_size=image_size,
        patch_size=patch,
        channels=channels,
        size=size,
        num_classes=num_classes,
        classes=checkpoint.find_classes(num_classes),
        patch="conv" if "patch_embed.proj.bias" in checkpoint else PartSpec("conv", (("bias", False),)),
        position=use_learned("torch_bicubic_antialias", covers_prefix=covers) if "pos_embed" in checkpoint else "none",
        pool=choose_pool(checkpoint, arguments, name, activation, eps, size.num_heads),
        head="distilled" if distilled else head,
        norm_order=norm_order,
        class_token=class_token,
        num_registers=registers,
        encoder=encoder,
        preprocess=checkpoint.find_preprocess(
            channels, checkpoint.count_unread(patch, read_image_size(checkpoint, arguments))
        ),
    )


def _check_arguments(
    checkpoint: Checkpoint, arguments: dict[str, Any], encoder: EncoderOptions, norm_order: NormOrder
) -> None:
    """Raises a `CheckpointError` if an argument says something else than the tensors."""
    told = {
        "final_norm": norm_order != "none",
        "proj_bias": encoder.bias,
        "scale_attn_norm": encoder.attention_norm,
        "scale_mlp_norm": encoder.mlp_norm,
    }
    for name, value in told.items():
        if bool(arguments.get(name, value)) != value:
            raise CheckpointError(
                f"the setting {name!r} beside {checkpoint.path} must be {value} for these tensors, got "
                f"{arguments[name]!r}"
            )


def read_activation(
    checkpoint: Checkpoint, arguments: dict[str, Any], name: str, *, gated: bool
) -> ActivationName | Literal["swiglu"]:
    """The activation of the arguments, or else of the architecture."""
    given = arguments.get("act_layer")
    known = ("silu", "swish") if gated else tuple(_ACTIVATIONS)
    if given is None:
        usual: ActivationName = "gelu_tanh" if _TANH.fullmatch(name) else "gelu"
        return "swiglu" if gated else "quick_gelu" if "quickgelu" in name else usual
    if given not in known:
        raise CheckpointError(
            f"the setting 'act_layer' beside {checkpoint.path} must be one of {join_names(known)} for these tensors, "
            f"got {given!r}"
        )
    return "swiglu" if gated else _ACTIVATIONS[given]


def _read_norm(checkpoint: Checkpoint, arguments: dict[str, Any]) -> tuple[NormName, float]:
    """The `norm` and `norm_eps` of the arguments, or else of the architecture: CLIP's has a norm before the first
    block."""
    given = arguments.get("norm_layer")
    if given not in (None, "", "layernorm", "rmsnorm"):
        raise CheckpointError(
            f"the setting 'norm_layer' beside {checkpoint.path} must be 'layernorm' or 'rmsnorm', got {given!r}, which "
            "vitrail does not know"
        )
    return "rms" if given == "rmsnorm" else "layer", 1e-5 if "norm_pre.weight" in checkpoint and not given else 1e-6


def _check_plain(checkpoint: Checkpoint) -> None:
    """Raises a `CheckpointError` if a file without settings is not a plain ViT."""
    kinds = {
        "of CLIP": "norm_pre.weight" in checkpoint,
        "of SigLIP": "attn_pool.latent" in checkpoint,
        "without a class token": "cls_token" not in checkpoint,
        "with a norm within its attention, as BEiT-3": "blocks.0.attn.norm.weight" in checkpoint,
        "with a norm within its MLP, as BEiT-3": "blocks.0.mlp.norm.weight" in checkpoint,
        "without a final norm, as RADIO": "norm.weight" not in checkpoint and "fc_norm.weight" not in checkpoint,
    }
    for kind, found in kinds.items():
        if found:
            raise CheckpointError(
                f"{checkpoint.path} is a ViT {kind}, whose tensors do not say which activation, norm and heads it has: "
                "put its config.json beside it, or pass config={'architecture': ...} with timm's name of it"
            )
    if not any(name in checkpoint for name in _NOT_OF_META):
        raise checkpoint.ask(
            "whether timm, MAE or DINO wrote it",
            "pass layout='mae' or layout='dino' for Meta's, or for timm's config={'architecture': ...} with its name",
        )
    checkpoint.assumed["architecture"] = "a plain ViT's"


def choose_pool(
    checkpoint: Checkpoint, arguments: dict[str, Any], name: str, activation: str, eps: float, num_heads: int
) -> str | PartSpec:
    """The pool. The attention pool and that of a distilled model follow from the tensors."""
    if "attn_pool.latent" in checkpoint:
        mlp_dim = checkpoint.get_shape("attn_pool.mlp.fc1.weight", 2)[0]
        pool = use_attention_pool(activation=activation, mlp_dim=mlp_dim, norm_eps=eps, num_heads=num_heads)
        return read_pool(checkpoint, arguments, name, "map", attention=pool)
    if "head_dist.weight" in checkpoint:
        return PartSpec("cls", (("num_tokens", 2),))
    usual = "token" if "cls_token" in checkpoint and "fc_norm.weight" not in checkpoint else "avg"
    return read_pool(checkpoint, arguments, name, usual)


def _read_positions(
    checkpoint: Checkpoint, arguments: dict[str, Any], patch: tuple[int, int], num_prefix: int
) -> tuple[bool, tuple[int, int]]:
    """Whether the table of positions has rows for the prefix, and the size of the images."""
    image_size = read_image_size(checkpoint, arguments)
    if "pos_embed" not in checkpoint:
        if image_size is None:
            checkpoint.assumed["img_size"] = image_size = _USUAL_SIZE
        return False, checkpoint.floor_size(image_size, patch)
    rows = checkpoint.get_shape("pos_embed", 3)[1]
    patches = None if image_size is None else math.prod(checkpoint.count_patches(patch, image_size))
    covers = _covers_prefix(rows, num_prefix, patches, arguments.get("no_embed_class"))
    return covers, checkpoint.find_image_size(rows - (num_prefix if covers else 0), patch, image_size)


def _covers_prefix(rows: int, num_prefix: int, patches: int | None, no_embed_class: object) -> bool:
    """Whether a table has rows for the prefix: by the image size, or else the setting, or else what is a square."""
    if patches in (rows, rows - num_prefix):
        return rows != patches
    if isinstance(no_embed_class, bool):
        return not no_embed_class
    return not _is_square(rows) or (num_prefix > 0 and _is_square(rows - num_prefix))


def _is_square(number: int) -> bool:
    return number >= 0 and math.isqrt(number) ** 2 == number


def _write_config(config: ViTConfig) -> Settings:
    """An architecture stands for what no argument says: the gate, `norm_eps` and the distillation token."""
    encoder, shapes = config.encoder, list_shapes(config)
    gated, distilled = encoder.activation == "swiglu", config.head == "distilled"
    plain = "vit_base_patch16_clip_224" if encoder.pre_norm else "vit_base_patch16_224"
    arguments = {
        **write_pool(config),
        "qkv_bias": encoder.qkv_bias,
        "qk_norm": encoder.qk_norm,
        "init_values": encoder.layer_scale or 0.0,
        "class_token": "backbone.class_token" in shapes,
        "pre_norm": encoder.pre_norm,
        "fc_norm": config.norm_order == "pool_norm",
        "final_norm": config.norm_order != "none",
        "proj_bias": encoder.bias,
        "scale_attn_norm": encoder.attention_norm,
        "scale_mlp_norm": encoder.mlp_norm,
    }
    if not gated:
        arguments["act_layer"] = encoder.activation
    if encoder.norm == "rms":
        arguments["norm_layer"] = "rmsnorm"
    if config.position == "none":
        arguments["pos_embed"] = "none"
    if isinstance(config.pool, PartSpec) and dict(config.pool.options).get("include_prefix"):
        arguments["pool_include_prefix"] = True
    if distilled:
        return write_timm_config(config, "deit_tiny_distilled_patch16_224", arguments)
    arguments["reg_tokens"] = config.num_registers
    arguments["no_embed_class"] = not _has_prefix_rows(shapes)
    return write_timm_config(config, "vit_giant_patch14_dinov2" if gated else plain, arguments, twice=gated)


def _has_prefix_rows(shapes: Mapping[str, object]) -> bool:
    return any(name in shapes for name in POSITION_ROWS[:2])


def _find_obstacle(config: ViTConfig) -> str:
    """What no argument says, and so cannot be changed."""
    encoder, shapes = config.encoder, list_shapes(config)
    gated, distilled = encoder.activation == "swiglu", config.head == "distilled"
    if ("backbone.patch.bias" in shapes) == encoder.pre_norm:
        return f"the patch embedding has a bias there unless pre_norm is set, got pre_norm={encoder.pre_norm}"
    if gated and (encoder.pre_norm or distilled):
        return "a gated MLP has neither a pre_norm nor a distillation token there"
    if distilled and not _has_prefix_rows(shapes):
        return "the position embedding of a distilled model covers its tokens there"
    pool_mlp = shapes.get("readout.pool.mlp.hidden.weight")
    if pool_mlp is not None and (gated or pool_mlp[0] != config.size.mlp_dim):
        return f"the MLP of the attention pool is that of a block there, got mlp_dim={pool_mlp[0]}"
    return ""


def _map(config: ViTConfig) -> tuple[Rule, ...]:
    distilled = config.head == "distilled"
    return (
        map_names("patch_embed.proj.*", "backbone.patch.*"),
        map_names("cls_token", "backbone.class_token", "1 1 d -> d"),
        map_names("dist_token" if distilled else "reg_token", "backbone.registers", "1 n d -> n d"),
        map_names("pos_embed", POSITION_ROWS, "1 n d -> n d"),
        map_names("norm_pre.*", "backbone.encoder.pre_norm.*"),
        *map_block(
            "blocks.{i}.",
            norm1="norm1",
            qkv="attn.qkv",
            project="attn.proj",
            norm2="norm2",
            hidden="mlp.fc1",
            out="mlp.fc2",
            scales=("ls1.gamma", "ls2.gamma"),
            qk_norms=("attn.q_norm", "attn.k_norm"),
        ),
        map_names("blocks.{i}.attn.norm.*", "backbone.encoder.stack.attention.norm.*"),
        map_names("blocks.{i}.mlp.norm.*", "backbone.encoder.stack.mlp.norm.*"),
        map_names("fc_norm.*" if config.norm_order == "pool_norm" else "norm.*", FINAL_NORM),
        map_names("attn_pool.latent", "readout.pool.queries", "1 n d -> n d"),
        map_names(("attn_pool.q.*", "attn_pool.kv.*"), "readout.pool.attention.qkv.*", parts=(1, 2)),
        map_names("attn_pool.proj.*", "readout.pool.attention.project.*"),
        map_names("attn_pool.norm.*", "readout.pool.norm.*"),
        map_names("attn_pool.mlp.fc1.*", "readout.pool.mlp.hidden.*"),
        map_names("attn_pool.mlp.fc2.*", "readout.pool.mlp.out.*"),
        map_names("head.*", "readout.head.class_token.*" if distilled else "readout.head.linear.*"),
        map_names(OPEN_CLIP_HEAD + ".*", "readout.head.linear.*"),
        map_names("head_dist.*", "readout.head.distillation_token.*"),
    )


TIMM_VIT_IMAGE: Final = Layout(
    name="timm",
    title="timm's VisionTransformer",
    library=TIMM,
    read_config=_read_config,
    rules=_map,
    signature=(KERNEL, "blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight"),
    foreign=(
        "mask_token",
        "storage_tokens",
        "rope_embed.periods",
        "blocks.0.attn.relative_position_bias_table",
        "rel_pos_bias.relative_position_bias_table",
        "decoder_embed.weight",
        "head.last_layer.weight_v",
        "head.last_layer.parametrizations.weight.original1",
        "blocks.0.attn.q_bias",
        "blocks.0.attn.rel_pos_h",
        "blocks.0.gamma_1",
    ),
    prefixes=(OPEN_CLIP_TRUNK,),
    architectures=re.compile(
        r"(?!eva_giant)(vit|deit|deit3|eva)_(tiny|xsmall|small|wee|d?little|medium|mediumd|betwixt|base|large|huge|giant|giantopt|"
        r"gigantic|so150m2?|so400m|dwee)(_distilled)?_patch\d+"
        r"(_plus|_reg\d|_gap|_map|_clip|_quickgelu|_siglip|_dinov2|_tipsv2|_36x1)*(_\d+)?(_miil)?"
        r"(_in21k|_sam|_dino|_in21ft1k|_clip_laion2b)?|flexivit_(small|base|large)"
    ),
    ignored=TEXT_TOWER,
    embeds=(f"{OPEN_CLIP_HEAD}.weight",),
    export=Export(
        find_misreading,
        write_config=_write_config,
        adapt=adapt_in_turn(cover_all_or_none, add_zero_bias),
        find_obstacle=_find_obstacle,
    ),
)
