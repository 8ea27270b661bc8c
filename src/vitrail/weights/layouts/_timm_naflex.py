"""The layout of timm's `NaFlexVit`: native aspect ratio, SigLIP 2 among it.

Source: timm 1.0.31, `models/naflexvit.py`.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, cast

from ..._check import join_names
from ..._spec import PartSpec
from ...encoder import EncoderOptions
from ...model import ViTConfig
from ...nn import ResizeRule
from .._errors import CheckpointError
from .._rules import POSITION_ROWS, Rule, map_names
from ._checkpoint import Checkpoint, Kernel
from ._layout import Export, Layout, Settings
from ._libraries import TIMM
from ._open_clip import TEXT_TOWER
from ._preprocess import Preprocess
from ._timm import (
    OPEN_CLIP_HEAD,
    OPEN_CLIP_TRUNK,
    compute_mlp_ratio,
    read_architecture,
    read_arguments,
    read_head,
    read_size,
    write_pool,
    write_timm_config,
)
from ._timm_vit import TIMM_VIT_IMAGE, choose_pool, read_activation
from ._vit import find_misreading, list_shapes

_KERNEL: Final = "embeds.proj.weight"
_TABLE: Final = "embeds.pos_embed"
_AXES: Final = ("embeds.pos_embed_y", "embeds.pos_embed_x")
_RULES: Final[Mapping[tuple[str, bool, bool], ResizeRule]] = MappingProxyType(
    {
        ("bicubic", True, False): "torch_bicubic_antialias",
        ("bicubic", False, False): "torch_bicubic",
        ("bicubic", False, True): "torchvision_corners",
        ("bilinear", True, False): "bilinear_antialias",
        ("bilinear", False, False): "bilinear",
        ("bilinear", False, True): "bilinear_corners",
    }
)
"""Our names of the rules, by what timm's arguments say."""
_RESAMPLING: Final = ("pos_embed_interp_mode", "pos_embed_antialias", "pos_embed_align_corners")
"""The arguments that the keys of `_RULES` are the values of."""
_ARGUMENTS: Final = re.compile(
    r"pos_embed(_grid_size|_interp_mode|_ar_preserving|_antialias|_align_corners)?|embed_proj_type|fix_init|"
    r"attn_pool_num_heads|attn_pool_mlp_ratio|enable_patch_interpolator|use_key_only_attn_mask"
)
"""What follows from the tensors, or is read here, or changes no patch that counts."""
_ELSEWHERE: Final = ("backbone.patch.", "backbone.class_token", "backbone.registers", "backbone.position.")


def _read_config(checkpoint: Checkpoint) -> ViTConfig:
    name = read_architecture(checkpoint)
    if not name:
        raise CheckpointError(
            f"{checkpoint.path} is a NaFlexVit of timm, whose tensors do not say which activation and rule of "
            "positions it has: put its config.json beside it, or pass config={'architecture': ...} with timm's name"
        )
    arguments = _read_arguments(checkpoint)
    dim, channels, patch = _read_kernel(checkpoint, name, arguments)
    factorized = _AXES[0] in checkpoint
    rows, cols = _read_grid(checkpoint, factorized)
    activation = read_activation(checkpoint, arguments, name, gated=False)
    size = read_size(checkpoint, arguments, name, dim, patch)
    pool_heads = arguments.get("attn_pool_num_heads") or size.num_heads
    num_classes, head = read_head(checkpoint)
    return ViTConfig(
        image_size=(rows * patch[0], cols * patch[1]),
        patch_size=patch,
        channels=channels,
        size=size,
        num_classes=num_classes,
        classes=checkpoint.find_classes(num_classes),
        patch="conv" if "embeds.proj.bias" in checkpoint else PartSpec("conv", (("bias", False),)),
        position=_read_position(checkpoint, name, arguments, factorized),
        pool=choose_pool(checkpoint, arguments, name, activation, 1e-6, pool_heads),
        head=head,
        norm_order="pool_norm" if "fc_norm.weight" in checkpoint else "norm_pool",
        class_token="embeds.cls_token" in checkpoint,
        num_registers=checkpoint.get_shape("embeds.reg_token", 3)[1] if "embeds.reg_token" in checkpoint else 0,
        encoder=EncoderOptions(
            qkv_bias="blocks.0.attn.qkv.bias" in checkpoint,
            qk_norm="blocks.0.attn.q_norm.weight" in checkpoint,
            activation=activation,
            pre_norm="norm_pre.weight" in checkpoint,
            layer_scale=1.0 if "blocks.0.ls1.gamma" in checkpoint else None,
        ),
        preprocess=_read_preprocess(checkpoint, channels, patch, (rows, cols)),
    )


def _read_arguments(checkpoint: Checkpoint) -> dict[str, Any]:
    """The arguments that are not off: an option that is off needs no word for it."""
    given: dict[str, Any] = dict(checkpoint.settings.get("model_args") or {})
    off = {key for key, value in given.items() if value in (None, False, "", "none", "standard")} - {"fc_norm"}
    kept = {key: value for key, value in given.items() if key not in off or _ARGUMENTS.fullmatch(key)}
    return read_arguments(checkpoint.view(settings={**checkpoint.settings, "model_args": kept}), _ARGUMENTS.pattern)


def _read_kernel(checkpoint: Checkpoint, name: str, arguments: dict[str, Any]) -> Kernel:
    """The patch embedding, a matrix for flattened patches, whose size the settings say."""
    dim, area = checkpoint.get_shape(_KERNEL, 2)
    found = re.search(r"_patch(\d+)", name)
    patch = checkpoint.read_size(arguments.get("patch_size") or int(found[1] if found else 16))
    channels = area // math.prod(patch)
    if channels * math.prod(patch) != area:
        raise CheckpointError(
            f"{checkpoint.path} has {_KERNEL!r} for patches of {area} numbers, which does not fit the patch size "
            f"{patch[0]} x {patch[1]} in the settings beside it"
        )
    return Kernel(dim, channels, patch)


def _read_grid(checkpoint: Checkpoint, factorized: bool) -> tuple[int, int]:
    if factorized:
        rows, cols = (checkpoint.get_shape(axis, 3)[1] for axis in _AXES)
        return rows, cols
    _, rows, cols, _ = checkpoint.get_shape(_TABLE, 4)
    return rows, cols


def _read_position(checkpoint: Checkpoint, name: str, arguments: dict[str, Any], factorized: bool) -> PartSpec:
    keep_aspect = bool(arguments.get("pos_embed_ar_preserving", "_par" in name))
    if factorized:
        return PartSpec("factorized", (("keep_aspect", keep_aspect), ("resize", "bilinear")))
    usual = "bilinear" if "siglip" in name else "bicubic", True, False
    said = cast(Any, tuple(arguments.get(name, value) for name, value in zip(_RESAMPLING, usual, strict=True)))
    if said not in _RULES:
        raise CheckpointError(
            f"the settings beside {checkpoint.path} have {join_names(_RESAMPLING)} {said}, a rule that vitrail does "
            "not know: pass config= with a ViTConfig"
        )
    return PartSpec("learned", (("covers_prefix", False), ("keep_aspect", keep_aspect), ("resize", _RULES[said])))


def _read_preprocess(
    checkpoint: Checkpoint, channels: int, patch: tuple[int, int], grid: tuple[int, int]
) -> Preprocess | None:
    """timm's transform for images of native aspect, which have as many patches at most as an image of `input_size`.

    Those of open_clip have one size. Where that is not the table's, no configuration says how they are prepared.
    """
    found = checkpoint.find_preprocess(channels)
    if found is None:
        return None
    if "preprocess_cfg" in checkpoint.settings:
        return found if checkpoint.count_patches(patch, checkpoint.settings.get("image_size") or 224) == grid else None
    pretrained: dict[str, Any] = dict(checkpoint.settings.get("pretrained_cfg") or {})
    given: Any = pretrained.get("input_size")
    size: Any = given[1:] if given else None
    most = math.prod(checkpoint.count_patches(patch, size)) if size else math.prod(grid)
    return dataclasses.replace(found, fit="native", crop=1.0, patch_size=patch, max_patches=most)


def _map(config: ViTConfig) -> tuple[Rule, ...]:
    (height, width), (rows, cols) = config.patch_size, config.grid
    shared = [rule for rule in TIMM_VIT_IMAGE.rules(config) if not rule.ours[0].startswith(_ELSEWHERE)]
    flat = "d (h w c) -> d c h w"
    return (
        map_names(_KERNEL, "backbone.patch.weight", flat, sizes=(("h", height), ("w", width))),
        map_names("embeds.proj.bias", "backbone.patch.bias"),
        map_names("embeds.cls_token", "backbone.class_token", "1 1 d -> d"),
        map_names("embeds.reg_token", "backbone.registers", "1 n d -> n d"),
        map_names(_TABLE, POSITION_ROWS[2:], "1 h w d -> (h w) d", sizes=(("h", rows), ("w", cols))),
        map_names(_AXES[0], "backbone.position.rows", "1 n d -> n d"),
        map_names(_AXES[1], "backbone.position.cols", "1 n d -> n d"),
        *shared,
    )


def _write_config(config: ViTConfig) -> Settings:
    encoder, shapes = config.encoder, list_shapes(config)
    factorized = "backbone.position.rows" in shapes
    options = dict(config.position.options) if isinstance(config.position, PartSpec) else {}
    resize = options.get("resize")
    rule = next((said for said, ours in _RULES.items() if ours == resize), next(iter(_RULES)))  # timm's usual one
    arguments = {
        **write_pool(config),
        "act_layer": encoder.activation,
        "qkv_bias": encoder.qkv_bias,
        "qk_norm": encoder.qk_norm,
        "init_values": encoder.layer_scale,
        "class_token": "backbone.class_token" in shapes,
        "reg_tokens": config.num_registers,
        "pre_norm": encoder.pre_norm,
        "fc_norm": config.norm_order == "pool_norm",
        "pos_embed": "factorized" if factorized else "learned",
        "pos_embed_grid_size": list(config.grid),
        "pos_embed_ar_preserving": options.get("keep_aspect", False),
        **({} if factorized else dict(zip(_RESAMPLING, rule, strict=True))),
    }
    pool_mlp = shapes.get("readout.pool.mlp.hidden.weight")
    if pool_mlp is not None and isinstance(config.pool, PartSpec):
        arguments["attn_pool_num_heads"] = dict(config.pool.options).get("num_heads")
        arguments["attn_pool_mlp_ratio"] = compute_mlp_ratio(config.size.dim, pool_mlp[0])
    name = f"naflexvit_base_patch16_{'gap' if pool_mlp is None else 'map'}"
    written = write_timm_config(config, name, arguments, kernel=_KERNEL)
    if config.preprocess is None or config.preprocess.max_patches is None:
        return written
    side = math.isqrt(config.preprocess.max_patches)
    size = {"input_size": [config.channels, *(side * length for length in config.patch_size)]}
    return {**written, "pretrained_cfg": {**written["pretrained_cfg"], **size}}


def _find_obstacle(config: ViTConfig) -> str:
    """What no argument says, and so cannot be changed."""
    preprocess, shapes = config.preprocess, list_shapes(config)
    if ("backbone.patch.bias" in shapes) == config.encoder.pre_norm:
        return f"the patch embedding has a bias there unless pre_norm is set, got pre_norm={config.encoder.pre_norm}"
    if config.encoder.norm_eps != 1e-6:
        return f"norm_eps is 1e-6 there, got {config.encoder.norm_eps}"
    if preprocess is None:
        return ""
    if preprocess.max_patches is None:
        return f"images keep their own aspect there, got preprocess.fit={preprocess.fit!r}"
    if math.isqrt(preprocess.max_patches) ** 2 != preprocess.max_patches:
        return f"the most patches of an image are a square number there, got {preprocess.max_patches}"
    return ""


TIMM_NAFLEX_IMAGE: Final = Layout(
    name="timm_naflex",
    title="timm's NaFlexVit",
    library=TIMM,
    read_config=_read_config,
    rules=_map,
    signature=(_KERNEL, "blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight"),
    one_of=((_TABLE, _AXES[0]),),
    foreign=("blocks.0.gamma_1", "blocks.0.attn.q_bias"),
    prefixes=(OPEN_CLIP_TRUNK,),
    architectures=re.compile(r"naflexvit_(base|so150m2|so400m)_patch\d+(_reg\d|_gap|_map|_par|_parfac|_siglip)+"),
    ignored=TEXT_TOWER,
    embeds=(f"{OPEN_CLIP_HEAD}.weight",),
    export=Export(find_misreading, write_config=_write_config, find_obstacle=_find_obstacle),
)
