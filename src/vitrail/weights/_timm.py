"""timm's layouts: `VisionTransformer` (ViT, DeiT, DeiT III, DINOv2, CLIP, SigLIP) and `Eva` (DINOv3, EVA).

Source: timm 1.0.31, `models/vision_transformer.py`, `models/deit.py`, `models/eva.py`, and the shapes and settings of
every architecture that it registers, which the tests against it compare with what is read here.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from .._check import listed
from .._registry import PartSpec
from ..encoder import EncoderOptions
from ..model import ViTConfig
from ..pool import POOLS
from ._checkpoint import Checkpoint, Layout, Settings, classes, divisor, learned, model_config
from ._errors import CheckpointError
from ._rules import FINAL_NORM, POSITION_ROWS, ZEROS, Rule, block_rules, rule

_VIT: Final = re.compile(
    r"(vit|deit|deit3)_(tiny|xsmall|small|wee|little|medium|mediumd|betwixt|base|large|huge|giant|giantopt|gigantic|"
    r"so150m2?|so400m)(_distilled)?_patch\d+"
    r"(_plus|_reg\d|_gap|_map|_clip|_quickgelu|_siglip|_dinov2|_miil)*(_\d+)?|flexivit_(small|base|large)"
)
_EVA: Final = re.compile(r"vit_(tiny|small|base|large|small_plus|huge_plus|7b)_patch16_dinov3(_qkvb)?|eva_giant_.*")
_TANH: Final = re.compile(r"vit_(base_patch32|giantopt_patch16|so400m_patch16)_siglip.*|vit_large_patch16_siglip.*_512")
# What an architecture may be built with that the tensors or other settings say, or that only training needs.
_KNOWN_ARGUMENTS: Final = re.compile(
    r"(img_size|patch_size|in_chans|num_classes|global_pool|embed_dim|depth|num_heads|mlp_ratio|qkv_bias|qk_norm)|"
    r"(init_values|class_token|no_embed_class|reg_tokens|num_reg_tokens|pre_norm|fc_norm|dynamic_img_(size|pad))|"
    r"(weight_init|(pos_|patch_|proj_|attn_)?drop_rate|drop_path_rate|strict_img_size)"
)


def _architecture(checkpoint: Checkpoint, known: re.Pattern[str]) -> str:
    """The name of timm's architecture; the empty one where nothing says it."""
    given = checkpoint.settings.get("architecture") or ""
    name = given.partition(".")[0] if isinstance(given, str) else repr(given)
    if name and not known.fullmatch(name):
        raise CheckpointError(
            f"{checkpoint.path} is timm's {name!r}, whose forward pass is not known to be this layout's: if it is, "
            "pass config= with a ViTConfig"
        )
    return name


def _arguments(checkpoint: Checkpoint) -> dict[str, Any]:
    arguments: dict[str, Any] = dict(checkpoint.settings.get("model_args") or {})
    if unknown := [name for name in arguments if not _KNOWN_ARGUMENTS.fullmatch(name)]:
        raise CheckpointError(
            f"the settings beside {checkpoint.path} have the model_args {unknown[0]!r}, which vitrail does not know: "
            "pass config= with a ViTConfig"
        )
    return arguments


def _heads(checkpoint: Checkpoint, arguments: dict[str, Any], name: str, dim: int, *, gated: bool) -> int:
    if "num_heads" in arguments:
        return divisor(checkpoint, "num_heads", arguments["num_heads"], dim)
    usual = 16 if name == "vit_base_patch16_gap_224" or (dim == 1536 and not gated) else None
    heads = checkpoint.heads(
        dim, named="num_heads", usual=20 if name.startswith("vit_huge_plus_patch16_dinov3") else usual
    )
    if name:  # which says it
        checkpoint.assumed.pop("num_heads", None)
    return heads


def _pool(checkpoint: Checkpoint, arguments: dict[str, Any], known: Mapping[str, str]) -> str | None:
    """The pool by the name that the settings give it; `None` where they give none."""
    given = arguments.get("global_pool", checkpoint.settings.get("global_pool"))
    if given is not None and given not in known:
        raise CheckpointError(
            f"the setting 'global_pool' beside {checkpoint.path} must be one of {listed(known)} with these tensors, "
            f"but it is {given!r}"
        )
    return None if given is None else known[given]


def _image_size(checkpoint: Checkpoint, arguments: dict[str, Any]) -> Any:
    pretrained: dict[str, Any] = dict(checkpoint.settings.get("pretrained_cfg") or {})
    input_size = pretrained.get("input_size")
    return arguments.get("img_size") or (input_size[1:] if input_size else None)


def _configure_vit(checkpoint: Checkpoint) -> ViTConfig:
    name, arguments = _architecture(checkpoint, _VIT), _arguments(checkpoint)
    dim, _, *patch = checkpoint.shape("patch_embed.proj.weight", 4)
    depth = checkpoint.depth("blocks.{i}.norm1.weight")
    pre_norm, has_pool, class_token = (n in checkpoint for n in ("norm_pre.weight", "attn_pool.latent", "cls_token"))
    if not name and (pre_norm or has_pool or not class_token):
        kind = "CLIP's" if pre_norm else "SigLIP's" if has_pool else "timm's without a class token"
        raise CheckpointError(
            f"{checkpoint.path} is a ViT of {kind} kind, whose tensors do not say which activation and norm it has: "
            "put its config.json beside it, or pass config={'architecture': ...} with timm's name of it"
        )
    if not name:
        checkpoint.assumed["architecture"] = "a plain ViT's"
    gated = checkpoint.shape("blocks.0.mlp.fc1.weight", 2)[0] != checkpoint.shape("blocks.0.mlp.fc2.weight", 2)[1]
    extra = "dist_token" if "dist_token" in checkpoint else "reg_token"
    registers = checkpoint.shape(extra, 3)[1] if extra in checkpoint else 0
    num_prefix = int(class_token) + registers
    positions = checkpoint.shape("pos_embed", 3)[1]
    image_size = _image_size(checkpoint, arguments)
    patches = None if image_size is None else math.prod(checkpoint.patches((patch[0], patch[1]), image_size))
    covers = _covers_prefix(positions, num_prefix, patches, arguments.get("no_embed_class"))
    grid = checkpoint.grid(positions - (num_prefix if covers else 0), (patch[0], patch[1]), image_size)
    distilled = "head_dist.weight" in checkpoint
    num_heads = _heads(checkpoint, arguments, name, dim, gated=gated)
    activation = "quick_gelu" if "quickgelu" in name else "gelu_tanh" if _TANH.fullmatch(name) else "gelu"
    eps = 1e-5 if pre_norm else 1e-6
    usual = "cls" if class_token and "fc_norm.weight" not in checkpoint else "mean"
    known = {"map": "attention"} if has_pool else {"token": "cls", "avg": "mean"}
    pool: str | PartSpec = _pool(checkpoint, arguments, known) or usual
    if distilled:
        pool = PartSpec("cls", (("num_tokens", 2),))
    if has_pool:
        mlp_dim = checkpoint.shape("attn_pool.mlp.fc1.weight", 2)[0]
        options = {"activation": activation, "mlp_dim": mlp_dim, "norm_eps": eps, "num_heads": num_heads}
        pool = PartSpec("attention", tuple(sorted(options.items())))
    num_classes = classes(checkpoint, "head.weight")
    return model_config(
        checkpoint,
        kernel="patch_embed.proj.weight",
        depth=depth,
        num_heads=num_heads,
        mlp_dim=checkpoint.shape("blocks.0.mlp.fc2.weight", 2)[1],
        grid=grid,
        num_classes=num_classes,
        patch="conv" if "patch_embed.proj.bias" in checkpoint else PartSpec("conv", (("bias", False),)),
        position=learned("torch_bicubic_antialias", covers_prefix=covers),
        pool=pool,
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
    )


def _covers_prefix(positions: int, num_prefix: int, patches: int | None, no_embed_class: object) -> bool:
    """Whether a table has rows for the prefix: as the image size has it, or else the setting, or else as leaves a
    square for the patches."""
    if patches in (positions, positions - num_prefix):
        return positions != patches
    if isinstance(no_embed_class, bool):
        return not no_embed_class
    return not _is_square(positions) or (num_prefix > 0 and _is_square(positions - num_prefix))


def _is_square(number: int) -> bool:
    return number >= 0 and round(number**0.5) ** 2 == number


def _vit_rules(config: ViTConfig) -> tuple[Rule, ...]:
    distilled = config.head == "distilled"
    return (
        rule("patch_embed.proj.*", "backbone.patch.*"),
        rule("cls_token", "backbone.class_token", "1 1 d -> d"),
        rule("dist_token" if distilled else "reg_token", "backbone.registers", "1 n d -> n d"),
        rule("pos_embed", POSITION_ROWS, "1 n d -> n d"),
        rule("norm_pre.*", "backbone.encoder.pre_norm.*"),
        *block_rules(
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
        rule("fc_norm.*" if config.norm_order == "pool_norm" else "norm.*", FINAL_NORM),
        rule("attn_pool.latent", "readout.pool.queries", "1 n d -> n d"),
        rule("attn_pool.q.*", "readout.pool.attention.q.*"),
        rule("attn_pool.kv.*", "readout.pool.attention.kv.*"),
        rule("attn_pool.proj.*", "readout.pool.attention.project.*"),
        rule("attn_pool.norm.*", "readout.pool.norm.*"),
        rule("attn_pool.mlp.fc1.*", "readout.pool.mlp.hidden.*"),
        rule("attn_pool.mlp.fc2.*", "readout.pool.mlp.out.*"),
        rule("head.*", "readout.head.class_token.*" if distilled else "readout.head.linear.*"),
        rule("head_dist.*", "readout.head.distillation_token.*"),
    )


def _configure_eva(checkpoint: Checkpoint) -> ViTConfig:
    name, arguments = _architecture(checkpoint, _EVA), _arguments(checkpoint)
    dim, _, *patch = checkpoint.shape("patch_embed.proj.weight", 4)
    registers = checkpoint.shape("reg_token", 3)[1] if "reg_token" in checkpoint else 0
    has_table = "pos_embed" in checkpoint
    gated = "blocks.0.mlp.fc1_g.weight" in checkpoint
    dinov3 = registers == 4 and not has_table and "fc_norm.weight" not in checkpoint
    if not dinov3 and (gated or not has_table or "blocks.0.gamma_1" in checkpoint):
        raise CheckpointError(
            f"{checkpoint.path} is one of timm's Eva models, but neither DINOv3 nor EVA: EVA-02 and the RoPE-ViTs have "
            "rotary positions of other rules, which vitrail does not load"
        )
    eps = 1e-5 if dinov3 else 1e-6
    image_size = _image_size(checkpoint, arguments)
    if dinov3:
        grid, position = None, PartSpec("rope", (("base", 100.0), ("rule", "dinov3")))
        image_size = image_size or 16 * patch[0]
    else:
        positions = checkpoint.shape("pos_embed", 3)[1]
        grid = checkpoint.grid(positions - 1 - registers, (patch[0], patch[1]), image_size)
        position = learned("torch_bicubic_antialias")
    num_classes = classes(checkpoint, "head.weight")
    pool = _pool(checkpoint, arguments, {"token": "cls", "avg": "mean"}) or "mean"
    return model_config(
        checkpoint,
        kernel="patch_embed.proj.weight",
        depth=checkpoint.depth("blocks.{i}.norm1.weight"),
        num_heads=_heads(checkpoint, arguments, name, dim, gated=gated or dinov3),
        mlp_dim=checkpoint.shape("blocks.0.mlp.fc2.weight", 2)[1],
        grid=grid,
        image_size=image_size,
        num_classes=num_classes,
        position=position,
        pool=pool,
        head="none" if num_classes is None else "linear",
        norm_order="pool_norm" if "fc_norm.weight" in checkpoint else "norm_pool",
        class_token=True,
        num_registers=registers,
        encoder=EncoderOptions(
            qkv_bias="blocks.0.attn.q_bias" in checkpoint,
            activation="swiglu" if gated else "gelu",
            norm_eps=eps,
            layer_scale=1.0 if "blocks.0.gamma_1" in checkpoint else None,
        ),
    )


def _eva_rules(config: ViTConfig) -> tuple[Rule, ...]:
    gated = config.encoder.activation == "swiglu"
    return (
        rule("patch_embed.proj.*", "backbone.patch.*"),
        rule("cls_token", "backbone.class_token", "1 1 d -> d"),
        rule("reg_token", "backbone.registers", "1 n d -> n d"),
        rule("pos_embed", POSITION_ROWS, "1 n d -> n d"),
        rule("blocks.{i}.attn.qkv.weight", "backbone.encoder.stack.attention.qkv.weight"),
        rule(("blocks.{i}.attn.q_bias", ZEROS, "blocks.{i}.attn.v_bias"), "backbone.encoder.stack.attention.qkv.bias"),
        *block_rules(
            "blocks.{i}.",
            norm1="norm1",
            qkv=(),
            project="attn.proj",
            norm2="norm2",
            hidden=("mlp.fc1_g", "mlp.fc1_x") if gated else "mlp.fc1",
            out="mlp.fc2",
            scales=("gamma_1", "gamma_2"),
        ),
        rule("fc_norm.*" if config.norm_order == "pool_norm" else "norm.*", FINAL_NORM),
        rule("head.*", "readout.head.linear.*"),
    )


def _written_settings(config: ViTConfig) -> Settings:
    """What timm would say of a `VisionTransformer`. Its architectures stand for the activation that they have."""
    names = {"quick_gelu": "vit_base_patch16_clip_quickgelu_224", "gelu_tanh": "vit_so400m_patch16_siglip_256"}
    pool = config.pool.name if isinstance(config.pool, PartSpec) else str(config.pool)
    pools = {"cls": "token", "mean": "avg", "attention": "map"}
    return {
        "architecture": names.get(config.encoder.activation, "vit_base_patch16_224"),
        "global_pool": pools.get(POOLS.aliases.get(pool, pool), pool),
        "model_args": {"num_heads": config.size.num_heads, "img_size": list(config.image_size)},
    }


TIMM_VIT: Final = Layout(
    name="timm",
    title="timm's VisionTransformer",
    signature=("patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight", "pos_embed"),
    foreign=("mask_token", "decoder_embed.weight", "blocks.0.attn.q_bias", "blocks.0.attn.rel_pos_h"),
    configure=_configure_vit,
    rules=_vit_rules,
    prefixes=("visual.trunk.",),
    ignored=((r"text\..*", "the text tower"), (r"logit_(scale|bias)", "of the contrastive loss")),
    written_prefix=lambda config: ("", ()),
    written_settings=_written_settings,
)
TIMM_EVA: Final = Layout(
    name="timm_eva",
    title="timm's Eva (DINOv3, EVA)",
    signature=("patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "cls_token", "blocks.0.attn.proj.weight"),
    one_of=("blocks.0.gamma_1", "blocks.0.attn.q_bias"),
    foreign=("mask_token", "storage_tokens", "blocks.0.attn.qkv.bias", "blocks.0.ls1.gamma", "register_tokens"),
    configure=_configure_eva,
    rules=_eva_rules,
    ignored=((r"blocks\.\d+\.attn\.k_bias", "a buffer of zeros"), (r"rope\..*", "computed from the sizes")),
    computed=((r"blocks\.\d+\.attn\.k_bias", lambda config: np.zeros(config.size.dim, np.float32)),),
    written_prefix=lambda config: ("", ()),
    written_settings=lambda config: {**_written_settings(config), "architecture": ""},
)
