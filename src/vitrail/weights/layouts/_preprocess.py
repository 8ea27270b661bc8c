"""How images are prepared for a checkpoint, as its library wrote it beside the weights."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from ...images import CLIP as CLIP, HALF as HALF, IMAGENET as IMAGENET, Preprocess as Preprocess
from .._errors import CheckpointError
from ._settings import read_settings_file

if TYPE_CHECKING:
    from ._checkpoint import Checkpoint
else:
    Checkpoint = object  # a checkpoint asks its layout, which asks this

_Interpolation = Literal["bilinear", "bicubic", "lanczos"]
_PILLOW: Final[Mapping[int, _Interpolation]] = MappingProxyType({1: "lanczos", 2: "bilinear", 3: "bicubic"})
_STEPS: Final = ("resize", "rescale", "normalize")


def use_known_preprocess(checkpoint: Checkpoint, channels: int, known: Preprocess | None) -> Preprocess | None:
    """Uses what is known of the family, for a library that writes nothing beside its weights."""
    return match_channels(known, channels)


def read_timm_preprocess(checkpoint: Checkpoint, channels: int, known: Preprocess | None) -> Preprocess | None:
    """Reads timm's `pretrained_cfg` by the rule of its evaluation transform, or open_clip's for a tower of timm."""
    if "preprocess_cfg" in checkpoint.settings:
        return read_open_clip_preprocess(checkpoint, channels, known)
    if "pretrained_cfg" not in checkpoint.settings:
        return match_channels(known, channels)
    settings: dict[str, Any] = dict(checkpoint.settings["pretrained_cfg"] or {})
    mode, interpolation = settings.get("crop_mode") or "center", settings.get("interpolation")
    if interpolation not in _PILLOW.values() or mode not in ("center", "squash"):
        return None
    fit = {"center": "cover", "squash": "squash"}[mode]  # "border" pads on all sides, which Preprocess does not
    mean, std, crop = settings.get("mean"), settings.get("std"), settings.get("crop_pct") or 1.0
    return _make_preprocess(checkpoint.path, channels, fit, interpolation, mean, std, crop)


def read_open_clip_preprocess(checkpoint: Checkpoint, channels: int, known: Preprocess | None) -> Preprocess | None:
    """Reads open_clip's `preprocess_cfg`. open_clip assumes CLIP's own numbers for what it does not say."""
    if "preprocess_cfg" not in checkpoint.settings:
        return match_channels(known, channels)
    settings: dict[str, Any] = dict(checkpoint.settings["preprocess_cfg"])
    fit = {"shortest": "cover", "squash": "squash"}.get(settings.get("resize_mode", "shortest"))
    interpolation = settings.get("interpolation", "bicubic")
    if fit is None or interpolation not in ("bicubic", "bilinear"):
        return None
    mean, std = settings.get("mean", CLIP[0]), settings.get("std", CLIP[1])
    return _make_preprocess(checkpoint.path, channels, fit, interpolation, mean, std, 1.0)


def read_hugging_face_preprocess(checkpoint: Checkpoint, channels: int, known: Preprocess | None) -> Preprocess | None:
    """Reads Hugging Face's `preprocessor_config.json`."""
    found = match_channels(known, channels)
    if checkpoint.folder is not None and (path := checkpoint.folder / "preprocessor_config.json").is_file():
        found = _read_processor(path, channels)
    return None if found is None else dataclasses.replace(found, half_pixel="down")


def match_channels(preprocess: Preprocess | None, channels: int) -> Preprocess | None:
    """Returns `preprocess` for images of `channels` channels; `None` if its mean and deviation do not fit so many."""
    if preprocess is None:
        return None
    mean, std = (_match_numbers(numbers, channels) for numbers in (preprocess.mean, preprocess.std))
    if mean is None or std is None:
        return None
    return dataclasses.replace(preprocess, mean=cast(Any, mean), std=cast(Any, std))


def _match_numbers(numbers: Sequence[float], channels: int) -> tuple[float, ...] | None:
    """One number for each channel, grey or RGB; `None` if the numbers do not say it.

    A single number counts for every channel, and so do equal ones.
    """
    if channels not in (1, 3):
        return None
    if len(numbers) != channels and len(set(numbers)) == 1:
        return (numbers[0],) * channels
    return tuple(numbers) if len(numbers) == channels else None


def _read_processor(path: Path, channels: int) -> Preprocess | None:
    settings = read_settings_file(path)
    size, crop_size = settings.get("size"), settings.get("crop_size")
    if isinstance(size, int):  # old files leave it to the class of the processor which side this is
        size = {"shortest_edge": size} if settings.get("do_center_crop") else {"height": size, "width": size}
    if not isinstance(size, dict) or any(settings.get(f"do_{step}") is False for step in _STEPS):
        return None
    if abs(_read_number(path, settings.get("rescale_factor", 1 / 255)) * 255 - 1) > 1e-6:
        return None
    sides = cast("dict[str, Any]", size)
    fit = "cover" if "shortest_edge" in sides else "pad" if "longest_edge" in sides else "squash"
    scaled = sides.get("shortest_edge") or sides.get("longest_edge") or sides.get("height")
    cropped = cast("dict[str, Any]", crop_size).get("height") if isinstance(crop_size, dict) else crop_size
    both = settings.get("do_center_crop") and cropped and scaled
    crop = _read_number(path, cropped) / _read_number(path, scaled) if both else 1.0
    interpolation = next((name for n, name in _PILLOW.items() if n == settings.get("resample", 2)), None)
    mean, std = settings.get("image_mean"), settings.get("image_std")
    return _make_preprocess(path, channels, fit, interpolation, mean, std, crop)


def _make_preprocess(
    path: Path, channels: int, fit: Any, interpolation: Any, mean: object, std: object, crop: object
) -> Preprocess | None:
    numbers = [_match_numbers(_read_numbers(path, given), channels) for given in (mean, std)]
    if interpolation is None or None in numbers:
        return None
    try:
        return Preprocess(fit, interpolation, *cast(Any, numbers), crop=_read_number(path, crop))
    except ValueError as error:
        raise CheckpointError(f"the preprocessing beside {path} is not possible: {error}") from error


def _read_numbers(path: Path, given: object) -> tuple[float, ...]:
    """The numbers of a list or a single one; none if it is something else."""
    if isinstance(given, list | tuple):
        return tuple(_read_number(path, number) for number in cast("list[object]", given))
    return (float(given),) if isinstance(given, int | float) and not isinstance(given, bool) else ()


def _read_number(path: Path, given: object) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise CheckpointError(f"the preprocessing beside {path} must have numbers, got {given!r}")
    return float(given)
