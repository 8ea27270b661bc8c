"""What the layouts of timm share: the settings of its `config.json`.

Source: timm 1.0.31, `models/_hub.py` and `models/_factory.py`. The tests compare what is read here with the shapes and
settings of every architecture that timm registers.
"""

import math
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from ..._check import join_names
from ..._spec import PartSpec
from ...model import ViTConfig
from ...pool import POOLS
from .._errors import CheckpointError
from ._checkpoint import Checkpoint
from ._layout import Settings
from ._preprocess import write_timm_preprocess

KERNEL: Final = "patch_embed.proj.weight"
OPEN_CLIP_TRUNK: Final = "visual.trunk."
"""What open_clip puts before timm's names."""
OPEN_CLIP_HEAD: Final = "visual.head.proj"
"""The projection that open_clip puts after a model of timm's."""
_POOL_NAMES: Final[Mapping[str, str]] = MappingProxyType({"cls": "token", "mean": "avg", "attention": "map"})
"""timm's names of our pools."""
# Arguments that follow from the tensors or other settings, or that only training needs.
_KNOWN_ARGUMENTS: Final = re.compile(
    r"(img_size|patch_size|in_chans|num_classes|global_pool|embed_dim|depth|num_heads|mlp_ratio|qkv_bias|qk_norm)|"
    r"(init_values|class_token|no_embed_class|reg_tokens|num_reg_tokens|pre_norm|fc_norm|dynamic_img_(size|pad))|"
    r"(act_layer|use_fc_norm|swiglu_align_to)|"
    r"(weight_init|(pos_|patch_|proj_|attn_)?drop_rate|drop_path_rate|strict_img_size)"
)


def read_architecture(checkpoint: Checkpoint) -> str:
    """The name of timm's architecture; empty if the settings do not say it."""
    known, given = checkpoint.layout.architectures, checkpoint.settings.get("architecture") or ""
    name = given.partition(".")[0] if isinstance(given, str) else repr(given)
    if name and known is not None and not known.fullmatch(name):
        raise CheckpointError(
            f"{checkpoint.path} is timm's {name!r}, which may compute something else than this layout: pass config= "
            "with a ViTConfig if it does not"
        )
    return name


def read_arguments(checkpoint: Checkpoint, more: str = "") -> dict[str, Any]:
    """The arguments of the settings, which are all known: to every layout, or by the pattern `more` to this one."""
    arguments: dict[str, Any] = dict(checkpoint.settings.get("model_args") or {})
    if unknown := [name for name in arguments if not (_KNOWN_ARGUMENTS.fullmatch(name) or re.fullmatch(more, name))]:
        raise CheckpointError(
            f"the settings beside {checkpoint.path} have the model_args {unknown[0]!r}, which vitrail does not know: "
            "pass config= with a ViTConfig"
        )
    return arguments


def read_heads(checkpoint: Checkpoint, arguments: dict[str, Any], name: str, dim: int, *, gated: bool) -> int:
    if "num_heads" in arguments:
        return checkpoint.check_heads("num_heads", arguments["num_heads"], dim)
    usual = 16 if name == "vit_base_patch16_gap_224" or (dim == 1536 and not gated) else None
    usual = 20 if name.startswith("vit_huge_plus_patch16_dinov3") else usual
    heads = checkpoint.get_heads(dim, setting="num_heads", usual=usual)
    if name:  # the architecture says it
        checkpoint.assumed.pop("num_heads", None)
    return heads


def read_head(checkpoint: Checkpoint) -> tuple[int | None, str | PartSpec]:
    """The number of logits and the head: timm's own, or the projection of open_clip after it."""
    projection = checkpoint.count_classes(f"{OPEN_CLIP_HEAD}.weight")
    if projection is not None and f"{OPEN_CLIP_HEAD}.bias" not in checkpoint:
        return projection, PartSpec("linear", (("bias", False),))
    num_classes = checkpoint.count_classes("head.weight") if projection is None else projection
    return num_classes, "none" if num_classes is None else "linear"


def read_pool(checkpoint: Checkpoint, arguments: dict[str, Any], known: Mapping[str, str]) -> str | None:
    """The pool of the settings; `None` if they do not say it."""
    given = arguments.get("global_pool", checkpoint.settings.get("global_pool"))
    if given is not None and given not in known:
        raise CheckpointError(
            f"the setting 'global_pool' beside {checkpoint.path} must be one of {join_names(known)} for these tensors, "
            f"got {given!r}"
        )
    return None if given is None else known[given]


def read_image_size(checkpoint: Checkpoint, arguments: dict[str, Any]) -> Any:
    pretrained: dict[str, Any] = dict(checkpoint.settings.get("pretrained_cfg") or {})
    input_size = pretrained.get("input_size")
    return arguments.get("img_size") or (input_size[1:] if input_size else None)


def write_timm_config(
    config: ViTConfig, architecture: str, arguments: Settings, *, twice: bool = False, kernel: str = KERNEL
) -> Settings:
    """Makes timm's `config.json` of an architecture, whose size and `arguments` replace its own.

    `twice` is for an MLP whose gate counts as part of its width, `kernel` the weight of the patch embedding.
    """
    size = config.size
    common = {
        "img_size": list(config.image_size),
        "patch_size": list(config.patch_size),
        "in_chans": config.channels,
        "embed_dim": size.dim,
        "depth": size.depth,
        "num_heads": size.num_heads,
        "mlp_ratio": compute_mlp_ratio(size.dim, 2 * size.mlp_dim if twice else size.mlp_dim),
    }
    num_classes = {"num_classes": config.num_classes or 0}
    return {
        "architecture": architecture,
        "num_features": size.dim,
        **num_classes,
        **({} if config.classes is None else {"label_names": list(config.classes)}),
        "model_args": {**common, **arguments},
        "pretrained_cfg": {
            **num_classes,
            **write_timm_preprocess(config),
            "fixed_input_size": True,
            "first_conv": kernel.removesuffix(".weight"),
            "classifier": ["head", "head_dist"] if config.head == "distilled" else "head",
        },
    }


def write_pool(config: ViTConfig) -> Settings:
    """timm's argument for the pool; our name of a pool that it does not have."""
    pool = config.pool.name if isinstance(config.pool, PartSpec) else str(config.pool)
    pool = POOLS.aliases.get(pool, pool)
    return {"global_pool": _POOL_NAMES.get(pool, pool)}


def compute_mlp_ratio(dim: int, mlp_dim: int) -> float:
    """The ratio from which timm computes the width of the MLP: it cuts off what follows the point."""
    ratio = mlp_dim / dim
    return ratio if int(dim * ratio) == mlp_dim else math.nextafter(ratio, math.inf)
