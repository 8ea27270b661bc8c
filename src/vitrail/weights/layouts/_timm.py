"""The layouts of timm: `VisionTransformer` (ViT, DeiT, DeiT III, DINOv2, CLIP, SigLIP) and `Eva` (DINOv3, EVA).

Source: timm 1.0.31, `models/vision_transformer.py`, `models/deit.py`, `models/eva.py`. The tests compare what is read
here with the shapes and settings of every architecture that timm registers.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from ..._check import join_names
from ..._registry import PartSpec
from ...encoder import EncoderOptions, EncoderSize
from ...model import ViTConfig
from ...nn import ActivationName
from ...pool import POOLS
from .._errors import CheckpointError
from .._rules import FINAL_NORM, POSITION_ROWS, ZEROS, Rule, map_block, map_names
from ._checkpoint import Checkpoint
from ._layout import Export, Layout, Settings
from ._libraries import TIMM
from ._vit import find_misreading, use_attention_pool, use_learned

_KERNEL: Final = "patch_embed.proj.weight"
_TANH: Final = re.compile(r"vit_(base_patch32|giantopt_patch16|so400m_patch16)_siglip.*|vit_large_patch16_siglip.*_512")
# Arguments that follow from the tensors or other settings, or that only training needs.
_KNOWN_ARGUMENTS: Final = re.compile(
    r"(img_size|patch_size|in_chans|num_classes|global_pool|embed_dim|depth|num_heads|mlp_ratio|qkv_bias|qk_norm)|"
    r"(init_values|class_token|no_embed_class|reg_tokens|num_reg_tokens|pre_norm|fc_norm|dynamic_img_(size|pad))|"
    r"(weight_init|(pos_|patch_|proj_|attn_)?drop_rate|drop_path_rate|strict_img_size)"
)


# --- Settings -----------------------------------------------------------------------------------------------------


def _read_architecture(checkpoint: Checkpoint) -> str:
    """The name of timm's architecture; empty if the settings do not say it."""
    known, given = checkpoint.layout.architectures, checkpoint.settings.get("architecture") or ""
    name = given.partition(".")[0] if isinstance(given, str) else repr(given)
    if name and known is not None and not known.fullmatch(name):
        raise CheckpointError(
            f"{checkpoint.path} is timm's {name!r}, which may compute something else than this layout: pass config= "
            "with a ViTConfig if it does not"
        )
    return name


def _read_arguments(checkpoint: Checkpoint) -> dict[str, Any]:
    arguments: dict[str, Any] = dict(checkpoint.settings.get("model_args") or {})
    if unknown := [name for name in arguments if not _KNOWN_ARGUMENTS.fullmatch(name)]:
        raise CheckpointError(
            f"the settings beside {checkpoint.path} have the model_args {unknown[0]!r}, which vitrail does not know: "
            "pass config= with a ViTConfig"
        )
    return arguments


def _read_heads(checkpoint: Checkpoint, arguments: dict[str, Any], name: str, dim: int, *, gated: bool) -> int:
    if "num_heads" in arguments:
        return checkpoint.check_heads("num_heads", arguments["num_heads"], dim)
    usual = 16 if name == "vit_base_patch16_gap_224" or (dim == 1536 and not gated) else None
    usual = 20 if name.startswith("vit_huge_plus_patch16_dinov3") else usual
    heads = checkpoint.get_heads(dim, setting="num_heads", usual=usual)
    if name:  # the architecture says it
        checkpoint.assumed.pop("num_heads", None)
    return heads


def _read_pool(checkpoint: Checkpoint, arguments: dict[str, Any], known: Mapping[str, str]) -> str | None:
    """The pool of the settings; `None` if they do not say it."""
    given = arguments.get("global_pool", checkpoint.settings.get("global_pool"))
    if given is not None and given not in known:
        raise CheckpointError(
            f"the setting 'global_pool' beside {checkpoint.path} must be one of {join_names(known)} for these tensors, "
            f"got {given!r}"
        )
    return None if given is None else known[given]


def _read_image_size(checkpoint: Checkpoint, arguments: dict[str, Any]) -> Any:
    pretrained: dict[str, Any] = dict(checkpoint.settings.get("pretrained_cfg") or {})
    input_size = pretrained.get("input_size")
    return arguments.get("img_size") or (input_size[1:] if input_size else None)


def _make_settings(config: ViTConfig) -> Settings:
    """The settings of timm for a `VisionTransformer`. An architecture stands for the activation that it has."""
    names = {"quick_gelu": "vit_base_patch16_clip_quickgelu_224", "gelu_tanh": "vit_so400m_patch16_siglip_256"}
    pool = config.pool.name if isinstance(config.pool, PartSpec) else str(config.pool)
    pools = {"cls": "token", "mean": "avg", "attention": "map"}
    return {
        "architecture": names.get(config.encoder.activation, "vit_base_patch16_224"),
        "global_pool": pools.get(POOLS.aliases.get(pool, pool), pool),
        "model_args": {"num_heads": config.size.num_heads, "img_size": list(config.image_size)},
    }


# --- VisionTransformer --------------------------------------------------------------------------------------------


def _read_config_vit(checkpoint: Checkpoint) -> ViTConfig:
    name, arguments = _read_architecture(checkpoint), _read_arguments(checkpoint)
    dim, channels, patch = checkpoint.get_kernel(_KERNEL)
    class_token, pre_norm = "cls_token" in checkpoint, "norm_pre.weight" in checkpoint
    if not name:
        _check_plain(checkpoint)
    gated = (
        checkpoint.get_shape("blocks.0.mlp.fc1.weight", 2)[0] != checkpoint.get_shape("blocks.0.mlp.fc2.weight", 2)[1]
    )
    extra = "dist_token" if "dist_token" in checkpoint else "reg_token"
    registers = checkpoint.get_shape(extra, 3)[1] if extra in checkpoint else 0
    covers, image_size = _read_positions(checkpoint, arguments, patch, int(class_token) + registers)
    num_heads = _read_heads(checkpoint, arguments, name, dim, gated=gated)
    activation: ActivationName = "gelu_tanh" if _TANH.fullmatch(name) else "gelu"
    activation = "quick_gelu" if "quickgelu" in name else activation
    eps = 1e-5 if pre_norm else 1e-6
    num_classes, distilled = checkpoint.count_classes("head.weight"), "head_dist.weight" in checkpoint
    return ViTConfig(
        image_size=image_size,
        patch_size=patch,
        channels=channels,
        size=EncoderSize(
            dim=dim,
            depth=checkpoint.count_blocks("blocks.{i}.norm1.weight"),
            num_heads=num_heads,
            mlp_dim=checkpoint.get_shape("blocks.0.mlp.fc2.weight", 2)[1],
        ),
        num_classes=num_classes,
        classes=checkpoint.find_classes(num_classes),
        patch="conv" if "patch_embed.proj.bias" in checkpoint else PartSpec("conv", (("bias", False),)),
        position=use_learned("torch_bicubic_antialias", covers_prefix=covers),
        pool=_choose_vit_pool(checkpoint, arguments, activation, eps, num_heads),
        head="none" if num_classes is None else "distilled" if distilled else "linear",
        norm_order="pool_norm" if "fc_norm.weight" in checkpoint else "norm_pool",
        class_token=class_token,
        num_registers=registers,
        encoder=EncoderOptions(
            qkv_bias="blocks.0.attn.qkv.bias" in checkpoint,
            qk_norm="blocks.0.attn.q_norm.weight" in checkpoint,
            activation="swiglu" if gated else activation,
            norm_eps=eps,
            pre_norm=pre_norm,
            layer_scale=1.0 if "blocks.0.ls1.gamma" in checkpoint else None,
        ),
        preprocess=checkpoint.find_preprocess(channels),
    )


def _check_plain(checkpoint: Checkpoint) -> None:
    """Raises a `CheckpointError` if a file without settings is not a plain ViT."""
    for name, there, kind in (
        ("norm_pre.weight", True, "of CLIP"),
        ("attn_pool.latent", True, "of SigLIP"),
        ("cls_token", False, "without a class token"),
    ):
        if (name in checkpoint) == there:
            raise CheckpointError(
                f"{checkpoint.path} is a ViT {kind}, whose tensors do not say which activation and norm it has: put "
                "its config.json beside it, or pass config={'architecture': ...} with timm's name of it"
            )
    checkpoint.assumed["architecture"] = "a plain ViT's"


def _choose_vit_pool(
    checkpoint: Checkpoint, arguments: dict[str, Any], activation: str, eps: float, num_heads: int
) -> str | PartSpec:
    has_pool = "attn_pool.latent" in checkpoint
    pool = _read_pool(checkpoint, arguments, {"map": "attention"} if has_pool else {"token": "cls", "avg": "mean"})
    if has_pool:
        mlp_dim = checkpoint.get_shape("attn_pool.mlp.fc1.weight", 2)[0]
        return use_attention_pool(activation=activation, mlp_dim=mlp_dim, norm_eps=eps, num_heads=num_heads)
    if "head_dist.weight" in checkpoint:
        return PartSpec("cls", (("num_tokens", 2),))
    usual = "cls" if "cls_token" in checkpoint and "fc_norm.weight" not in checkpoint else "mean"
    return usual if pool is None else pool


def _read_positions(
    checkpoint: Checkpoint, arguments: dict[str, Any], patch: tuple[int, int], num_prefix: int
) -> tuple[bool, tuple[int, int]]:
    """Whether the table of positions has rows for the prefix, and the size of the images."""
    rows = checkpoint.get_shape("pos_embed", 3)[1]
    image_size = _read_image_size(checkpoint, arguments)
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


def _map_vit(config: ViTConfig) -> tuple[Rule, ...]:
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
        map_names("fc_norm.*" if config.norm_order == "pool_norm" else "norm.*", FINAL_NORM),
        map_names("attn_pool.latent", "readout.pool.queries", "1 n d -> n d"),
        map_names(("attn_pool.q.*", "attn_pool.kv.*"), "readout.pool.attention.qkv.*", parts=(1, 2)),
        map_names("attn_pool.proj.*", "readout.pool.attention.project.*"),
        map_names("attn_pool.norm.*", "readout.pool.norm.*"),
        map_names("attn_pool.mlp.fc1.*", "readout.pool.mlp.hidden.*"),
        map_names("attn_pool.mlp.fc2.*", "readout.pool.mlp.out.*"),
        map_names("head.*", "readout.head.class_token.*" if distilled else "readout.head.linear.*"),
        map_names("head_dist.*", "readout.head.distillation_token.*"),
    )


TIMM_VIT: Final = Layout(
    name="timm",
    title="timm's VisionTransformer",
    library=TIMM,
    read_config=_read_config_vit,
    rules=_map_vit,
    signature=(_KERNEL, "blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight", "pos_embed"),
    foreign=("mask_token", "decoder_embed.weight", "blocks.0.attn.q_bias", "blocks.0.attn.rel_pos_h"),
    prefixes=("visual.trunk.",),
    architectures=re.compile(
        r"(vit|deit|deit3)_(tiny|xsmall|small|wee|little|medium|mediumd|betwixt|base|large|huge|giant|giantopt|gigantic|"
        r"so150m2?|so400m)(_distilled)?_patch\d+"
        r"(_plus|_reg\d|_gap|_map|_clip|_quickgelu|_siglip|_dinov2|_miil)*(_\d+)?|flexivit_(small|base|large)"
    ),
    ignored=((r"text\..*", "the text tower"), (r"logit_(scale|bias)", "part of the contrastive loss")),
    export=Export(find_misreading, settings=_make_settings),
)


# --- Eva ----------------------------------------------------------------------------------------------------------


def _read_config_eva(checkpoint: Checkpoint) -> ViTConfig:
    name, arguments = _read_architecture(checkpoint), _read_arguments(checkpoint)
    dim, channels, patch = checkpoint.get_kernel(_KERNEL)
    registers = checkpoint.get_shape("reg_token", 3)[1] if "reg_token" in checkpoint else 0
    has_table, gated = "pos_embed" in checkpoint, "blocks.0.mlp.fc1_g.weight" in checkpoint
    dinov3 = registers == 4 and not has_table and "fc_norm.weight" not in checkpoint
    if not dinov3 and (gated or not has_table or "blocks.0.gamma_1" in checkpoint):
        raise CheckpointError(
            f"{checkpoint.path} is an Eva model of timm that is neither DINOv3 nor EVA: vitrail does not load EVA-02 "
            "and the RoPE-ViTs, whose rotary positions follow other rules"
        )
    image_size = _read_image_size(checkpoint, arguments)
    if dinov3:
        position = PartSpec("rope", (("base", 100.0), ("rule", "dinov3")))
        image_size = checkpoint.read_size(image_size or 16 * patch[0])
    else:
        position = use_learned("torch_bicubic_antialias")
        rows = checkpoint.get_shape("pos_embed", 3)[1]
        image_size = checkpoint.find_image_size(rows - 1 - registers, patch, image_size)
    num_classes = checkpoint.count_classes("head.weight")
    return ViTConfig(
        image_size=image_size,
        patch_size=patch,
        channels=channels,
        size=EncoderSize(
            dim=dim,
            depth=checkpoint.count_blocks("blocks.{i}.norm1.weight"),
            num_heads=_read_heads(checkpoint, arguments, name, dim, gated=gated or dinov3),
            mlp_dim=checkpoint.get_shape("blocks.0.mlp.fc2.weight", 2)[1],
        ),
        num_classes=num_classes,
        classes=checkpoint.find_classes(num_classes),
        position=position,
        pool=_read_pool(checkpoint, arguments, {"token": "cls", "avg": "mean"}) or "mean",
        head="none" if num_classes is None else "linear",
        norm_order="pool_norm" if "fc_norm.weight" in checkpoint else "norm_pool",
        class_token=True,
        num_registers=registers,
        encoder=EncoderOptions(
            qkv_bias="blocks.0.attn.q_bias" in checkpoint,
            activation="swiglu" if gated else "gelu",
            norm_eps=1e-5 if dinov3 else 1e-6,
            layer_scale=1.0 if "blocks.0.gamma_1" in checkpoint else None,
        ),
        preprocess=checkpoint.find_preprocess(channels),
    )


def _map_eva(config: ViTConfig) -> tuple[Rule, ...]:
    gated = config.encoder.activation == "swiglu"
    qkv = "backbone.encoder.stack.attention.qkv."
    return (
        map_names("patch_embed.proj.*", "backbone.patch.*"),
        map_names("cls_token", "backbone.class_token", "1 1 d -> d"),
        map_names("reg_token", "backbone.registers", "1 n d -> n d"),
        map_names("pos_embed", POSITION_ROWS, "1 n d -> n d"),
        map_names("blocks.{i}.attn.qkv.weight", qkv + "weight"),
        map_names(("blocks.{i}.attn.q_bias", ZEROS, "blocks.{i}.attn.v_bias"), qkv + "bias"),
        *map_block(
            "blocks.{i}.",
            norm1="norm1",
            qkv=(),
            project="attn.proj",
            norm2="norm2",
            hidden=("mlp.fc1_g", "mlp.fc1_x") if gated else "mlp.fc1",
            out="mlp.fc2",
            scales=("gamma_1", "gamma_2"),
        ),
        map_names("fc_norm.*" if config.norm_order == "pool_norm" else "norm.*", FINAL_NORM),
        map_names("head.*", "readout.head.linear.*"),
    )


TIMM_EVA: Final = Layout(
    name="timm_eva",
    title="timm's Eva (DINOv3, EVA)",
    library=TIMM,
    read_config=_read_config_eva,
    rules=_map_eva,
    signature=(_KERNEL, "blocks.0.attn.qkv.weight", "cls_token", "blocks.0.attn.proj.weight"),
    one_of=("blocks.0.gamma_1", "blocks.0.attn.q_bias"),
    foreign=("mask_token", "storage_tokens", "blocks.0.attn.qkv.bias", "blocks.0.ls1.gamma", "register_tokens"),
    architectures=re.compile(
        r"vit_(tiny|small|base|large|small_plus|huge_plus|7b)_patch16_dinov3(_qkvb)?|eva_giant_.*"
    ),
    ignored=((r"blocks\.\d+\.attn\.k_bias", "a buffer of zeros"), (r"rope\..*", "computed from the sizes")),
    computed=((r"blocks\.\d+\.attn\.k_bias", lambda config: np.zeros(config.size.dim, np.float32)),),
    export=Export(find_misreading, settings=lambda config: {**_make_settings(config), "architecture": ""}),
)
