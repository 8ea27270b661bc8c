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
from ...encoder import EncoderSize
from ...model import NormOrder, ViTConfig
from ...pool import POOLS
from .._errors import CheckpointError
from .._rules import QKV, ZEROS, Rule, map_block, map_names
from ._checkpoint import Checkpoint
from ._layout import Settings
from ._preprocess import find_full_size
from ._preprocess_cfg import write_timm_preprocess

KERNEL: Final = "patch_embed.proj.weight"
OPEN_CLIP_TRUNK: Final = "visual.trunk."
"""What open_clip puts before timm's names."""
OPEN_CLIP_HEAD: Final = "visual.head.proj"
"""The projection that open_clip puts after a model of timm's."""
_POOL_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {"cls": "token", "mean": "avg", "attention": "map", "max": "max", "mean_max": "avgmax", "none": ""}
)
"""timm's names of our pools."""
_HEADS: Final = (
    (r"^vit_base_patch16_gap_", 16),
    (r"^aimv2_large_", 8),
    (r"^aimv2_huge_", 12),
    (r"^aimv2_1b_", 16),
    (r"^aimv2_3b_", 24),
    (r"_plus_(clip_)?(240|256)$", 14),
    (r"_huge_plus_", 20),
    (r"_giant_patch1\d.*_(dinov2|tipsv2|lingbot)", 24),
    (r"_tiny_", 3),
    (r"_(xsmall|d?wee)_", 4),
    (r"_d?little_", 5),
    (r"_small(_|$)", 6),
    (r"_mediumd?_", 8),
    (r"_betwixt_", 10),
    (r"_base(_|$)", 12),
    (r"_so150m2_", 13),
    (r"_so150m_", 14),
    (r"_(large|huge|giant|giantopt|gigantic|enormous|so400m)(_|$)", 16),
    (r"_7b_", 32),
)
"""The number of heads by the name of the architecture; the first that is found counts."""
# Arguments that follow from the tensors or other settings, or that only training needs.
_KNOWN_ARGUMENTS: Final = re.compile(
    r"(img_size|patch_size|in_chans|num_classes|global_pool|embed_dim|depth|num_heads|mlp_ratio|qkv_bias|qk_norm)|"
    r"(init_values|class_token|no_embed_class|reg_tokens|num_reg_tokens|pre_norm|fc_norm|dynamic_img_(size|pad))|"
    r"(act_layer|norm_layer|final_norm|proj_bias|scale_(attn|mlp)_norm|use_fc_norm|swiglu_align_to|pool_include_prefix)|"
    r"(weight_init|(pos_|patch_|proj_|attn_)?drop_rate|drop_path_rate|strict_img_size)"
)

_USUAL_ARGUMENTS: Final[Mapping[str, tuple[object, ...]]] = MappingProxyType(
    {
        "pos_embed": ("learn",),
        "fix_init": (True, False),
        **dict.fromkeys(("scale_mlp", "scale_attn_inner"), (False,)),
        **dict.fromkeys(("use_post_norm", "use_pre_transformer_norm", "attn_only_layer_scale"), (False, None)),
        **dict.fromkeys(("embed_norm_layer", "mlp_layer", "attn_layer", "block_fn", "embed_layer"), (None,)),
    }
)
"""Values that change nothing, of arguments that can."""


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
    """The arguments of timm's constructor. One that vitrail does not know is an error, unless it is timm's default, or
    the layout knows it by the pattern `more`."""
    arguments: dict[str, Any] = dict(checkpoint.settings.get("model_args") or {})
    unknown = [n for n, value in arguments.items() if not (_is_known_argument(n, value) or re.fullmatch(more, n))]
    if unknown:
        raise CheckpointError(
            f"the settings beside {checkpoint.path} have the model_args {unknown[0]!r}, which vitrail does not know: "
            "pass config= with a ViTConfig"
        )
    return arguments


def _is_known_argument(name: str, value: object) -> bool:
    return bool(_KNOWN_ARGUMENTS.fullmatch(name)) or (name in _USUAL_ARGUMENTS and value in _USUAL_ARGUMENTS[name])


def read_size(
    checkpoint: Checkpoint,
    arguments: dict[str, Any],
    name: str,
    dim: int,
    patch: tuple[int, int],
    *,
    usual: int | None = None,
) -> EncoderSize:
    """The size of the encoder. The arguments say the number of heads, or else the architecture, or else `usual`, or
    else the shape."""
    usual = next((heads for pattern, heads in _HEADS if name and re.search(pattern, name)), usual)
    if (given := arguments.get("num_heads")) is not None:
        usual = checkpoint.check_heads("num_heads", given, dim)
    size = checkpoint.get_size(
        dim,
        depth=checkpoint.count_blocks("blocks.{i}.norm1.weight"),
        mlp_dim=checkpoint.get_shape("blocks.0.mlp.fc2.weight", 2)[1],
        patch=patch,
        setting="num_heads",
        usual=usual,
    )
    if name or given is not None:
        checkpoint.assumed.pop("num_heads", None)
    return size


def read_head(checkpoint: Checkpoint) -> tuple[int | None, str | PartSpec]:
    """The number of logits and the head: timm's own, or the projection of open_clip after it."""
    projection = checkpoint.count_classes(f"{OPEN_CLIP_HEAD}.weight")
    if projection is not None and f"{OPEN_CLIP_HEAD}.bias" not in checkpoint:
        return projection, PartSpec("linear", (("bias", False),))
    num_classes = checkpoint.count_classes("head.weight") if projection is None else projection
    return num_classes, "none" if num_classes is None else "linear"


def read_pool(
    checkpoint: Checkpoint, arguments: dict[str, Any], name: str, usual: str, *, attention: PartSpec | None = None
) -> str | PartSpec:
    """The pool of the settings, or else `usual`, which is that of the architecture or the tensors.

    `attention` is the pool of a file that has its tensors, and the only one that fits them.
    """
    given = arguments.get("global_pool", checkpoint.settings.get("global_pool"))
    known = ("map",) if attention is not None else tuple(n for n in _POOL_NAMES.values() if n != "map")
    if given is None:
        if not name:
            checkpoint.assumed["global_pool"] = usual
        given = usual
    if given not in known:
        raise CheckpointError(
            f"the setting 'global_pool' beside {checkpoint.path} must be one of {join_names(known)} for these tensors, "
            f"got {given!r}"
        )
    include_prefix = bool(arguments.get("pool_include_prefix")) and given not in ("token", "")
    if include_prefix and given != "avg":
        raise CheckpointError(
            f"the setting 'pool_include_prefix' beside {checkpoint.path} must be false for global_pool={given!r}, "
            "whose pool reads the patches alone here: pass config= with a ViTConfig of your own pool"
        )
    if include_prefix:
        return PartSpec("mean", (("include_prefix", True),))
    return next(ours for ours, theirs in _POOL_NAMES.items() if theirs == given) if attention is None else attention


def read_norm_order(checkpoint: Checkpoint) -> NormOrder:
    """Where the final norm stands, which its name tells."""
    if "fc_norm.weight" in checkpoint:
        return "pool_norm"
    return "norm_pool" if "norm.weight" in checkpoint else "none"


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
        "img_size": list(find_full_size(config)),
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


def map_eva_block(
    hidden: str | tuple[str, str] = "mlp.fc1", *, bias: tuple[str, ...] = ("attn.q_bias", ZEROS, "attn.v_bias")
) -> tuple[Rule, ...]:
    """The rules of a block of timm's `Beit` and `Eva` whose queries, keys and values are one tensor, with the names of
    its hidden layer and of their bias."""
    block = "blocks.{i}."
    return (
        map_names(f"{block}attn.qkv.weight", QKV + "weight"),
        map_names([name if name == ZEROS else block + name for name in bias], QKV + "bias"),
        *map_block(
            block,
            norm1="norm1",
            qkv=(),
            project="attn.proj",
            norm2="norm2",
            hidden=hidden,
            out="mlp.fc2",
            scales=("gamma_1", "gamma_2"),
        ),
    )


def write_pool(config: ViTConfig) -> Settings:
    """timm's argument for the pool; our name of a pool that it does not have."""
    pool = config.pool.name if isinstance(config.pool, PartSpec) else str(config.pool)
    pool = POOLS.aliases.get(pool, pool)
    return {"global_pool": _POOL_NAMES.get(pool, pool)}


def compute_mlp_ratio(dim: int, mlp_dim: int) -> float:
    """The ratio from which timm computes the width of the MLP: it cuts off what follows the point."""
    ratio = mlp_dim / dim
    return ratio if int(dim * ratio) == mlp_dim else math.nextafter(ratio, math.inf)
