"""How images are prepared for a checkpoint, as its library wrote it beside the weights."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from ...images import CLIP as CLIP, HALF as HALF, IMAGENET as IMAGENET, Preprocess as Preprocess
from ...model import ViTConfig
from .._errors import CheckpointError

if TYPE_CHECKING:
    from ._checkpoint import Checkpoint
    from ._layout import Settings
else:
    Checkpoint = object  # a checkpoint asks its layout, which asks this
    Settings = Mapping[str, Any]

_Interpolation = Literal["bilinear", "bicubic", "lanczos"]
_PILLOW: Final[Mapping[int, _Interpolation]] = MappingProxyType({1: "lanczos", 2: "bilinear", 3: "bicubic"})
_STEPS: Final = ("resize", "rescale", "normalize")
_CROP_MODES: Final[Mapping[str, Literal["cover", "squash"]]] = MappingProxyType({"center": "cover", "squash": "squash"})
"""Our names of timm's modes. Its "border" pads on all sides, which Preprocess does not."""
_RESIZE_MODES: Final[Mapping[str, Literal["cover", "squash"]]] = MappingProxyType(
    {"shortest": "cover", "squash": "squash"}
)
"""Our names of open_clip's modes."""
PROCESSOR: Final = "preprocessor_config.json"
"""The file in which Hugging Face says how images are prepared."""


def use_known_preprocess(checkpoint: Checkpoint, channels: int, known: Preprocess | None) -> Preprocess | None:
    """Uses what is known of the family, for a library that writes nothing beside its weights."""
    return match_channels(known, channels)


def read_timm_preprocess(checkpoint: Checkpoint, channels: int, known: Preprocess | None) -> Preprocess | None:
    """Reads timm's `pretrained_cfg` by the rule of its evaluation transform, or open_clip's for a tower of timm."""
    if "preprocess_cfg" in checkpoint.settings:
        return read_open_clip_preprocess(checkpoint, channels, known)
    settings: dict[str, Any] = dict(checkpoint.settings.get("pretrained_cfg") or {})
    if "interpolation" not in settings:
        return match_channels(known, channels)
    mode, interpolation = settings.get("crop_mode") or "center", settings["interpolation"]
    if interpolation not in _PILLOW.values() or mode not in _CROP_MODES:
        return None
    fit = _CROP_MODES[mode]
    mean, std, crop = settings.get("mean"), settings.get("std"), settings.get("crop_pct") or 1.0
    return _make_preprocess(checkpoint.path, channels, fit, interpolation, mean, std, crop=crop)


def read_open_clip_preprocess(checkpoint: Checkpoint, channels: int, known: Preprocess | None) -> Preprocess | None:
    """Reads open_clip's `preprocess_cfg`. open_clip assumes CLIP's own numbers for what it does not say."""
    if "preprocess_cfg" not in checkpoint.settings:
        return match_channels(known, channels)
    settings: dict[str, Any] = dict(checkpoint.settings["preprocess_cfg"])
    fit = _RESIZE_MODES.get(settings.get("resize_mode", "shortest"))
    interpolation = settings.get("interpolation", "bicubic")
    if fit is None or interpolation not in ("bicubic", "bilinear"):
        return None
    mean, std = settings.get("mean", CLIP[0]), settings.get("std", CLIP[1])
    return _make_preprocess(checkpoint.path, channels, fit, interpolation, mean, std)


def read_hugging_face_preprocess(checkpoint: Checkpoint, channels: int, known: Preprocess | None) -> Preprocess | None:
    """Reads Hugging Face's `preprocessor_config.json`."""
    found = match_channels(known, channels)
    if (settings := checkpoint.beside(PROCESSOR)) is not None:
        found = _read_processor(checkpoint.path.with_name(PROCESSOR), settings, channels)
    return None if found is None else dataclasses.replace(found, half_pixel="down")


def write_timm_preprocess(config: ViTConfig) -> Settings:
    """Makes timm's `pretrained_cfg`. It says nothing of images if the configuration does not, or if they are padded or
    keep their proportions."""
    given: Settings = {"input_size": [config.channels, *config.image_size]}
    preprocess = config.preprocess
    if preprocess is None or preprocess.fit in ("pad", "keep"):
        return given
    # Of images of native aspect timm's settings say nothing but what is the same for all images.
    mode = next((mode for mode, fit in _CROP_MODES.items() if fit == preprocess.fit), "center")
    said = {"interpolation": preprocess.interpolation, "crop_pct": preprocess.crop, "crop_mode": mode}
    return {**given, **said, "mean": list(preprocess.mean), "std": list(preprocess.std)}


def write_open_clip_preprocess(config: ViTConfig) -> Settings:
    """Makes open_clip's `preprocess_cfg`; empty if the configuration does not say it."""
    preprocess = config.preprocess
    if preprocess is None:
        return {}
    mode = next((mode for mode, fit in _RESIZE_MODES.items() if fit == preprocess.fit), preprocess.fit)
    return {
        "size": list(config.image_size),
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
        "interpolation": preprocess.interpolation,
        "resize_mode": mode,
    }


def write_hugging_face_preprocess(config: ViTConfig) -> Settings:
    """Makes Hugging Face's `preprocessor_config.json`; empty if the configuration does not say it."""
    preprocess, (height, width) = config.preprocess, config.image_size
    if preprocess is None:
        return {}
    resample = next(number for number, name in _PILLOW.items() if name == preprocess.interpolation)
    common = {
        "do_convert_rgb": config.channels == 3,
        "do_resize": True,
        "resample": resample,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
    }
    if preprocess.patch_size is not None:
        patches = {"patch_size": preprocess.patch_size[0], "max_num_patches": preprocess.max_patches}
        return {"image_processor_type": "Siglip2ImageProcessor", **common, **patches}
    down, across = preprocess.compute_scaled_size(config.image_size)
    cropped = (down, across) != (height, width)
    both = {"height": height, "width": width}
    kind, size = {
        "cover": ("BitImageProcessor", {"shortest_edge": down}),
        "squash": ("DeiTImageProcessor" if cropped else "ViTImageProcessor", {"height": down, "width": across}),
        "pad": ("SamImageProcessor", {"longest_edge": down}),
        "keep": ("DPTImageProcessor", both),
    }[preprocess.fit]
    more = {
        "pad": {"do_pad": True, "pad_size": both},
        "keep": {"keep_aspect_ratio": True, "ensure_multiple_of": preprocess.multiple},
    }.get(preprocess.fit, {"do_center_crop": cropped or preprocess.fit == "cover", "crop_size": both})
    return {
        "image_processor_type": kind,
        **common,
        "size": size,
        **more,
    }


def find_preprocess_obstacle(config: ViTConfig) -> str:
    """What neither timm nor Hugging Face can say of how images are prepared, in words; empty if nothing."""
    height, width = config.image_size
    if config.preprocess is not None and config.preprocess.fit == "native":
        return "all images have one size there, got preprocess.fit='native'"
    if config.preprocess is None or height == width or config.preprocess.fit in ("squash", "keep"):
        return ""
    return f"images that are not square are squashed there, got preprocess.fit={config.preprocess.fit!r}"


def is_prepared_alike(ours: Preprocess | None, theirs: Preprocess | None, size: tuple[int, int]) -> bool:
    """Whether an image becomes the same in two ways, as far as a file can say it.

    A way that is not known is any. Where a crop begins at half a pixel belongs to the library.
    """
    if ours is None or theirs is None:
        return ours is None
    fixed = dataclasses.replace(theirs, crop=ours.crop, half_pixel=ours.half_pixel)
    return ours == fixed and ours.compute_scaled_size(size) == theirs.compute_scaled_size(size)


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


def _read_processor(path: Path, settings: Settings, channels: int) -> Preprocess | None:
    size, crop_size = settings.get("size"), settings.get("crop_size")
    if isinstance(size, int):  # old files leave it to the class of the processor which side this is
        size = {"shortest_edge": size} if settings.get("do_center_crop") else {"height": size, "width": size}
    native = "max_num_patches" in settings
    if not (native or isinstance(size, dict)) or any(settings.get(f"do_{step}") is False for step in _STEPS):
        return None
    if abs(_read_number(path, settings.get("rescale_factor", 1 / 255)) * 255 - 1) > 1e-6:
        return None
    interpolation = next((name for n, name in _PILLOW.items() if n == settings.get("resample", 2)), None)
    mean, std = settings.get("image_mean"), settings.get("image_std")
    if native:
        patch, most = (_read_whole(path, settings.get(name, 16)) for name in ("patch_size", "max_num_patches"))
        options = {"patch_size": (patch, patch), "max_patches": most}
        return _make_preprocess(path, channels, "native", interpolation, mean, std, **options)
    sides = cast("dict[str, Any]", size)
    fit = "cover" if "shortest_edge" in sides else "pad" if "longest_edge" in sides else "squash"
    scaled = sides.get("shortest_edge") or sides.get("longest_edge") or sides.get("height")
    cropped = cast("dict[str, Any]", crop_size).get("height") if isinstance(crop_size, dict) else crop_size
    both = settings.get("do_center_crop") and cropped and scaled
    crop = _read_number(path, cropped) / _read_number(path, scaled) if both else 1.0
    options: dict[str, Any] = {}
    if settings.get("keep_aspect_ratio"):  # only DPT's processor has it
        fit, options = "keep", {"multiple": settings.get("ensure_multiple_of") or 1}
        if settings.get("do_pad") or len({sides.get("height"), sides.get("width")}) != 1:
            return None
    return _make_preprocess(path, channels, fit, interpolation, mean, std, crop=crop, **options)


def _make_preprocess(
    path: Path,
    channels: int,
    fit: Any,
    interpolation: Any,
    mean: object,
    std: object,
    *,
    crop: object = 1.0,
    **options: Any,
) -> Preprocess | None:
    numbers = [_match_numbers(_read_numbers(path, given), channels) for given in (mean, std)]
    if interpolation is None or None in numbers:
        return None
    try:
        return Preprocess(fit, interpolation, *cast(Any, numbers), crop=_read_number(path, crop), **options)
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


def _read_whole(path: Path, given: object) -> int:
    number = _read_number(path, given)
    if number != int(number):
        raise CheckpointError(f"the preprocessing beside {path} must have a whole number of patches, got {given!r}")
    return int(number)
