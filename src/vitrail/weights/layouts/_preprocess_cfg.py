"""How images are prepared by timm's `pretrained_cfg` and by open_clip's `preprocess_cfg`.

Source: timm 1.0.31 `data/config.py` and `data/transforms_factory.py`; open_clip 3.3.0 `transform.py`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Literal

from ...model import ViTConfig
from ._checkpoint import Checkpoint
from ._layout import Settings
from ._preprocess import CLIP, IMAGENET, PILLOW, Preprocess, find_full_size, make_preprocess, use_known_preprocess

_CROP_MODES: Final[Mapping[str, Literal["cover", "squash", "border"]]] = MappingProxyType(
    {"center": "cover", "squash": "squash", "border": "border"}
)
"""Our names of timm's modes."""
_RESIZE_MODES: Final[Mapping[str, Literal["cover", "squash", "border"]]] = MappingProxyType(
    {"shortest": "cover", "squash": "squash", "longest": "border"}
)
"""Our names of open_clip's modes."""
_TIMM_CROP: Final = 0.875
"""What timm crops by if `crop_pct` is not given."""


def read_timm_preprocess(checkpoint: Checkpoint, channels: int, known: Preprocess | None) -> Preprocess | None:
    """Reads timm's `pretrained_cfg` by the rule of its evaluation transform, or open_clip's for a tower of timm."""
    if "preprocess_cfg" in checkpoint.settings:
        return read_open_clip_preprocess(checkpoint, channels, known)
    settings: dict[str, Any] = dict(checkpoint.settings.get("pretrained_cfg") or {})
    if "interpolation" not in settings:
        return use_known_preprocess(checkpoint, channels, known)
    mode, interpolation = settings.get("crop_mode") or "center", settings["interpolation"]
    if interpolation not in PILLOW.values() or mode not in _CROP_MODES:
        return None  # timm's "random" is for training alone
    mean, std = (settings.get(name) or usual for name, usual in zip(("mean", "std"), IMAGENET, strict=True))
    crop = settings.get("crop_pct") or _TIMM_CROP
    return make_preprocess(checkpoint.path, channels, _CROP_MODES[mode], interpolation, mean, std, crop=crop)


def read_open_clip_preprocess(checkpoint: Checkpoint, channels: int, known: Preprocess | None) -> Preprocess | None:
    """Reads open_clip's `preprocess_cfg`. open_clip assumes CLIP's own numbers for what it does not say."""
    if "preprocess_cfg" not in checkpoint.settings:
        return use_known_preprocess(checkpoint, channels, known)
    settings: dict[str, Any] = dict(checkpoint.settings["preprocess_cfg"])
    fit = _RESIZE_MODES.get(settings.get("resize_mode", "shortest"))
    interpolation = settings.get("interpolation", "bicubic")
    interpolation = "bicubic" if interpolation == "random" else interpolation  # which is for training alone
    if fit is None or interpolation not in ("bicubic", "bilinear") or settings.get("fill_color"):
        return None
    mean, std = settings.get("mean", CLIP[0]), settings.get("std", CLIP[1])
    border = "black" if fit == "border" else "mean"
    return make_preprocess(checkpoint.path, channels, fit, interpolation, mean, std, border=border)


def write_timm_preprocess(config: ViTConfig) -> Settings:
    """Makes timm's `pretrained_cfg`. It says nothing of images if the configuration does not, or timm cannot."""
    given: Settings = {"input_size": [config.channels, *find_full_size(config)]}
    preprocess = config.preprocess
    if preprocess is None or (preprocess.fit == "border" and preprocess.border != "mean"):
        return given
    # Of images of native aspect timm's settings say nothing but what is the same for all images.
    modes = {**{fit: mode for mode, fit in _CROP_MODES.items()}, "native": "center"}
    if (mode := modes.get(preprocess.fit)) is None:
        return given
    said = {"interpolation": preprocess.interpolation, "crop_pct": preprocess.crop, "crop_mode": mode}
    return {**given, **said, "mean": list(preprocess.mean), "std": list(preprocess.std)}


def write_open_clip_preprocess(config: ViTConfig) -> Settings:
    """Makes open_clip's `preprocess_cfg`; empty if the configuration does not say it."""
    preprocess = config.preprocess
    if preprocess is None:
        return {}
    mode = next((mode for mode, fit in _RESIZE_MODES.items() if fit == preprocess.fit), preprocess.fit)
    return {
        "size": list(find_full_size(config)),
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
        "interpolation": preprocess.interpolation,
        "resize_mode": mode,
    }
