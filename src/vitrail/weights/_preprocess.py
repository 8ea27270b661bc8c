"""Which preprocessing belongs to a checkpoint: what its library wrote beside it, or what its family has."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, cast

from ..model import CLIP, HALF, IMAGENET, Preprocess
from ._checkpoint import Checkpoint, Layout, Settings
from ._errors import CheckpointError
from ._settings import read_settings

_Interpolation = Literal["bilinear", "bicubic", "lanczos"]
_PILLOW: Final[Mapping[int, _Interpolation]] = MappingProxyType({1: "lanczos", 2: "bilinear", 3: "bicubic"})
_STEPS: Final = ("resize", "rescale", "normalize")

# By layout, or by Hugging Face's `model_type`, what the family's published configurations and evaluation code have.
_KNOWN: Final[Mapping[str, Preprocess]] = MappingProxyType(
    {
        "vit": Preprocess("squash", "bilinear", *HALF),
        "deit": Preprocess("squash", "bicubic", *IMAGENET, crop=0.875),
        "vit_mae": Preprocess("squash", "bilinear", *IMAGENET),
        "dinov2": Preprocess("cover", "bicubic", *IMAGENET, crop=0.875),
        "dinov2_with_registers": Preprocess("cover", "bicubic", *IMAGENET, crop=0.875),
        "dinov3_vit": Preprocess("squash", "bilinear", *IMAGENET),
        "dinov3": Preprocess("squash", "bilinear", *IMAGENET),
        "clip": Preprocess("cover", "bicubic", *CLIP),
        "clip_vision_model": Preprocess("cover", "bicubic", *CLIP),
        "openai_clip": Preprocess("cover", "bicubic", *CLIP),
        "siglip": Preprocess("squash", "bicubic", *HALF),
        "siglip_vision_model": Preprocess("squash", "bicubic", *HALF),
        "mae": Preprocess("cover", "bicubic", *IMAGENET, crop=0.875),
        "sam": Preprocess("pad", "bilinear", *IMAGENET),
        "hf_sam": Preprocess("pad", "bilinear", *IMAGENET),
        "timm_sam": Preprocess("pad", "bilinear", *IMAGENET),
        "torchvision": Preprocess("cover", "bilinear", *IMAGENET, crop=0.875),
    }
)


def preprocess_of(layout: Layout, checkpoint: Checkpoint, folder: Path) -> Preprocess | None:
    """The preprocessing of a checkpoint; `None` where nothing says it."""
    if "preprocess_cfg" in checkpoint.settings:
        return _of_open_clip(checkpoint)
    if "pretrained_cfg" in checkpoint.settings:
        return _of_timm(checkpoint)
    beside = folder / "preprocessor_config.json"
    if beside.is_file() and layout.name.startswith("hf_"):
        return _of_hugging_face(beside, read_settings(beside))
    if layout.name.startswith("hf_"):
        known = _KNOWN.get(str(checkpoint.settings.get("model_type")), _KNOWN.get(layout.name))
        return None if known is None else dataclasses.replace(known, half_pixel="down")
    return _KNOWN.get(layout.name)


def _of_timm(checkpoint: Checkpoint) -> Preprocess | None:
    """timm's own numbers, by the rule of its evaluation transform."""
    settings: dict[str, Any] = dict(checkpoint.settings["pretrained_cfg"] or {})
    mode, interpolation = settings.get("crop_mode") or "center", settings.get("interpolation")
    if interpolation not in _PILLOW.values() or mode not in ("center", "squash", "border"):
        return None
    return _made(
        checkpoint.path,
        {"center": "cover", "squash": "squash", "border": "pad"}[mode],
        interpolation,
        settings.get("mean"),
        settings.get("std"),
        settings.get("crop_pct") or 1.0,
    )


def _of_open_clip(checkpoint: Checkpoint) -> Preprocess | None:
    """open_clip's own numbers, or CLIP's, which it takes where it is told nothing."""
    settings: dict[str, Any] = dict(checkpoint.settings["preprocess_cfg"])
    fit = {"shortest": "cover", "squash": "squash"}.get(settings.get("resize_mode", "shortest"))
    interpolation = settings.get("interpolation", "bicubic")
    if fit is None or interpolation not in ("bicubic", "bilinear"):
        return None
    return _made(checkpoint.path, fit, interpolation, settings.get("mean", CLIP[0]), settings.get("std", CLIP[1]), 1.0)


def _of_hugging_face(path: Path, settings: Settings) -> Preprocess | None:
    size, crop_size = settings.get("size"), settings.get("crop_size")
    if isinstance(size, int):  # of the time when the kind of processor said which side it is
        size = {"shortest_edge": size} if settings.get("do_center_crop") else {"height": size, "width": size}
    if not isinstance(size, dict) or any(settings.get(f"do_{step}") is False for step in _STEPS):
        return None
    if abs(_number(path, settings.get("rescale_factor", 1 / 255)) * 255 - 1) > 1e-6:
        return None
    sides = cast("dict[str, Any]", size)
    fit = "cover" if "shortest_edge" in sides else "pad" if "longest_edge" in sides else "squash"
    scaled = sides.get("shortest_edge") or sides.get("longest_edge") or sides.get("height")
    cropped = cast("dict[str, Any]", crop_size).get("height") if isinstance(crop_size, dict) else crop_size
    both = settings.get("do_center_crop") and cropped and scaled
    crop = _number(path, cropped) / _number(path, scaled) if both else 1.0
    interpolation = next((name for n, name in _PILLOW.items() if n == settings.get("resample", 2)), None)
    made = _made(path, fit, interpolation, settings.get("image_mean"), settings.get("image_std"), crop)
    return None if made is None else dataclasses.replace(made, half_pixel="down")


def _made(path: Path, fit: Any, interpolation: Any, mean: object, std: object, crop: object) -> Preprocess | None:
    given = [cast("list[object]", each) if isinstance(each, list | tuple) else [] for each in (mean, std)]
    if interpolation is None or any(len(each) != 3 for each in given):
        return None
    (r, g, b), (s, t, u) = ([_number(path, number) for number in each] for each in given)
    try:
        return Preprocess(fit, interpolation, (r, g, b), (s, t, u), _number(path, crop))
    except ValueError as error:
        raise CheckpointError(f"the preprocessing beside {path} is none that there can be: {error}") from error


def _number(path: Path, given: object) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise CheckpointError(f"the preprocessing beside {path} must be in numbers, but {given!r} came")
    return float(given)
