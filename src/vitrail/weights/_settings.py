"""What libraries write beside a checkpoint, as settings in the words of `config.json`."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

from ._checkpoint import Settings
from ._errors import CheckpointError
from ._source import MAX_HEADER

# What the tensors of open_clip's towers say, too, or only training or the text needs.
_OPEN_CLIP_SAID: Final = re.compile(
    r"layers|width|head_width|mlp_ratio|patch_size|image_size|patch_dropout|output_tokens|attn_pooler_(queries|heads)|"
    r"final_ln_after_pool|timm_(model_name|model_pretrained|pool|proj|proj_bias|drop|drop_path)"
)
# All else has to be as open_clip has it where nothing is said.
_OPEN_CLIP_DEFAULTS: Final[Mapping[str, object]] = {"pool_type": "tok", "pos_embed_type": "learnable"}


def settings_beside(path: Path) -> Settings:
    """What the `config.json` in the file's folder says, or open_clip's; nothing where there is none."""
    folder = path if path.is_dir() else path.parent
    if (folder / "open_clip_config.json").is_file() and not (folder / "model.safetensors").is_file():
        return _open_clip_settings(folder / "open_clip_config.json")
    return read_settings(folder / "config.json") if (folder / "config.json").is_file() else {}


def _open_clip_settings(path: Path) -> Settings:
    """open_clip's settings in the words of the others."""
    match read_settings(path):
        case {"model_cfg": {"vision_cfg": dict() as vision, **model}, **others}:
            vision, model = cast("dict[str, Any]", vision), cast("dict[str, Any]", model)
        case _:
            raise CheckpointError(f"{path} must say which vision tower open_clip has here, but it does not")
    for name, value in vision.items():
        if value and not _OPEN_CLIP_SAID.fullmatch(name) and value != _OPEN_CLIP_DEFAULTS.get(name):
            raise CheckpointError(
                f"{path} has {name!r} as {value!r} in its 'vision_cfg', which vitrail does not know: pass config= with "
                "a ViTConfig"
            )
    beside = {"image_size": vision.get("image_size"), "preprocess_cfg": others.get("preprocess_cfg") or {}}
    if "timm_model_name" in vision:
        arguments = {"img_size": beside["image_size"]}
        pool = vision.get("timm_pool", "avg")
        return {**beside, "architecture": vision["timm_model_name"], "global_pool": pool, "model_args": arguments}
    heads = vision["width"] // vision.get("head_width", 64)
    return {**beside, "hidden_act": "quick_gelu" if model.get("quick_gelu") else "gelu", "num_heads": heads}


def read_settings(path: Path) -> Settings:
    """A JSON object of settings."""
    if path.stat().st_size > MAX_HEADER:
        raise CheckpointError(f"{path} must be a file of settings, but it has {path.stat().st_size:,} bytes")
    try:
        settings: object = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} must be JSON, but it cannot be read: {error}") from error
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path} must be a JSON object, but it is not")
    return cast("dict[str, Any]", settings)
