"""How images are prepared by Hugging Face's `processor_config.json` and `preprocessor_config.json`.

Source: transformers 5.23.0 `image_processing_utils.py` and the image processors of the families.
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, cast

from ...model import ViTConfig
from .._errors import CheckpointError
from ._checkpoint import Checkpoint
from ._layout import Settings
from ._preprocess import (
    CLIP,
    HALF,
    IMAGENET,
    PILLOW,
    UNIT,
    Preprocess,
    find_full_size,
    make_preprocess,
    read_number,
    use_known_preprocess,
)

_Fit = Literal["cover", "squash", "pad", "border", "crop", "none", "keep", "native"]
"""The values of `Preprocess.fit`."""
PROCESSOR: Final = "preprocessor_config.json"
"""The file in which Hugging Face says how images are prepared."""
PROCESSORS: Final = "processor_config.json"
"""The file in which version 5 of transformers says it, and how texts are prepared."""


@dataclass(frozen=True)
class _Processor:
    """What a class of Hugging Face's processors does where a file does not say it."""

    square: bool
    """Whether a size of one number is both sides, and not the shorter one."""
    center_crop: bool
    resample: int
    normalisation: tuple[tuple[float, ...], tuple[float, ...]]


_PROCESSORS: Final[Mapping[str, _Processor]] = MappingProxyType(
    {
        "ViT": _Processor(True, False, 2, HALF),
        "DeiT": _Processor(True, True, 3, HALF),
        "CLIP": _Processor(False, True, 3, CLIP),
        "ChineseCLIP": _Processor(False, True, 3, CLIP),
        "Siglip": _Processor(False, False, 3, HALF),
        "Bit": _Processor(False, True, 3, CLIP),
        "Beit": _Processor(True, False, 3, HALF),
        "Blip": _Processor(True, False, 3, CLIP),
        "Flava": _Processor(True, True, 3, CLIP),
        "DPT": _Processor(True, False, 3, HALF),
        "DINOv3ViT": _Processor(True, False, 2, IMAGENET),
        "Sam": _Processor(False, False, 2, IMAGENET),
        "Siglip2": _Processor(False, False, 2, HALF),
        "Tipsv2": _Processor(True, False, 2, UNIT),
    }
)
"""The processors that are known, by the name of their class without its ending. Others do things of their own."""
_FAMILIES: Final[Mapping[str, str]] = MappingProxyType(
    {
        **dict.fromkeys(("vit", "vit_mae", "vit_msn", "ijepa", "clipseg"), "ViT"),
        **dict.fromkeys(("clip", "metaclip_2", "altclip", "git", "aimv2"), "CLIP"),
        **dict.fromkeys(("dinov2", "dinov2_with_registers"), "Bit"),
        **dict.fromkeys(("sam", "sam_hq"), "Sam"),
        **dict.fromkeys(("dpt", "depth_anything"), "DPT"),
        **dict.fromkeys(("beit", "data2vec-vision"), "Beit"),
        "siglip": "Siglip",
        "siglip2": "Siglip2",
        "tipsv2": "Tipsv2",
        "chinese_clip": "ChineseCLIP",
        "flava": "Flava",
        "deit": "DeiT",
        "dinov3_vit": "DINOv3ViT",
    }
)
"""The processors of the families, for files that do not name the class."""


def read_hugging_face_preprocess(checkpoint: Checkpoint, channels: int, known: Preprocess | None) -> Preprocess | None:
    """Reads the image processor in Hugging Face's `processor_config.json`, or else its `preprocessor_config.json`."""
    name, whole = PROCESSORS, checkpoint.beside(PROCESSORS) or {}
    settings = whole.get("image_processor")
    if not isinstance(settings, Mapping):
        name, settings = PROCESSOR, checkpoint.beside(PROCESSOR)
    if settings is None:
        found = use_known_preprocess(checkpoint, channels, known)
    else:
        family = str(checkpoint.settings.get("model_type") or checkpoint.layout.model_types[0])
        family = re.sub(r"_(vision|image)(_model)?$", "", family)
        path = checkpoint.path.with_name(name)
        found = _read_processor(path, cast(Settings, settings), channels, _FAMILIES.get(family, ""))
    return None if found is None else dataclasses.replace(found, half_pixel="down")


def _read_processor(path: Path, settings: Settings, channels: int, family: str) -> Preprocess | None:
    """What a processor does; `None` if that is not known."""
    named = settings.get("image_processor_type") or settings.get("feature_extractor_type")
    name = family if named is None else re.sub(r"(FeatureExtractor|ImageProcessor)(Fast|Pil)?$", "", str(named))
    processor = _PROCESSORS.get(name)
    if processor is None:
        return None
    resample = settings.get("resample", processor.resample)
    interpolation = next((n for number, n in PILLOW.items() if number == resample), None)
    mean, std = (
        settings.get(f"image_{n}", usual) for n, usual in zip(("mean", "std"), processor.normalisation, strict=True)
    )
    if settings.get("do_normalize") is False:
        mean, std = 0.0, 1.0
    rescale = 1.0 if settings.get("do_rescale") is False else settings.get("rescale_factor", 1 / 255)
    fit, options = _choose_fit(path, settings, name, processor)
    if fit is None:
        return None
    return make_preprocess(path, channels, fit, interpolation, mean, std, rescale=rescale, **options)


def _choose_fit(path: Path, settings: Settings, name: str, processor: _Processor) -> tuple[_Fit | None, dict[str, Any]]:
    """The fit of a processor, `None` for one that Preprocess does not have, and what goes with it."""
    if name == "Siglip2":
        patch = _read_whole(path, settings.get("patch_size", 16))
        most = _read_whole(path, settings.get("max_num_patches", 256))
        resizes = settings.get("do_resize") is not False
        return "native" if resizes else None, {"patch_size": (patch, patch), "max_patches": most}
    if name == "DPT" and settings.get("do_pad"):  # on all sides, to whole patches
        return None, {}
    if settings.get("keep_aspect_ratio"):  # only DPT's processor has it
        size = settings.get("size")
        sides = cast("dict[str, Any]", size) if isinstance(size, dict) else {"height": size, "width": size}
        known = sides.get("height") == sides.get("width")
        multiple = settings.get("ensure_multiple_of") or 1
        if isinstance(multiple, bool) or not isinstance(multiple, int) or multiple < 1:
            raise CheckpointError(f"'ensure_multiple_of' beside {path} must be a whole number, got {multiple!r}")
        return "keep" if known else None, {"multiple": multiple}
    center_crop = settings.get("do_center_crop", processor.center_crop)
    fit, crop = _read_fit(path, settings, processor, center_crop=bool(center_crop))
    return fit, {"crop": crop}


def _read_fit(
    path: Path, settings: Settings, processor: _Processor, *, center_crop: bool
) -> tuple[_Fit | None, object]:
    """The fit of a processor, `None` for one that Preprocess does not have, and the crop."""
    if settings.get("do_resize") is False:
        return "crop" if center_crop else "none", 1.0
    size, crop_size = settings.get("size"), settings.get("crop_size")
    if isinstance(size, int):
        size = {"height": size, "width": size} if processor.square else {"shortest_edge": size}
    sides = cast("dict[str, Any]", size) if isinstance(size, dict) else {}
    known = {name: value for name, value in sides.items() if value is not None}
    cropped = (
        cast("dict[str, Any]", crop_size) if isinstance(crop_size, dict) else {"height": crop_size, "width": crop_size}
    )
    if known.keys() == {"longest_edge"}:
        return (None if settings.get("do_pad") is False else "pad"), 1.0
    if known.keys() == {"shortest_edge"}:
        # A side that is cropped to nothing else differs from picture to picture.
        square = center_crop and cropped.get("height") == cropped.get("width")
        return ("cover" if square else None), _divide(path, cropped.get("height"), known["shortest_edge"])
    if known.keys() == {"height", "width"}:
        crops = [_divide(path, cropped.get(side), known[side]) for side in known] if center_crop else [1.0]
        return ("squash" if len(set(crops)) == 1 else None), crops[0]
    return None, 1.0


def _divide(path: Path, cropped: object, scaled: object) -> float:
    return 1.0 if cropped is None else read_number(path, cropped) / read_number(path, scaled)


def _read_whole(path: Path, given: object) -> int:
    number = read_number(path, given)
    if number != int(number):
        raise CheckpointError(f"the preprocessing beside {path} must have a whole number of patches, got {given!r}")
    return int(number)


def write_hugging_face_preprocess(config: ViTConfig) -> Settings:
    """Makes Hugging Face's `preprocessor_config.json`; empty if the configuration does not say it."""
    preprocess, (height, width) = config.preprocess, find_full_size(config)
    if preprocess is None or preprocess.fit == "border":
        return {}
    resample = next(number for number, name in PILLOW.items() if name == preprocess.interpolation)
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
        "crop": ("ViTImageProcessor", both),
        "none": ("ViTImageProcessor", both),
    }[preprocess.fit]
    crops = cropped or preprocess.fit in ("cover", "crop")
    more = {
        "pad": {"do_pad": True, "pad_size": both},
        "keep": {"keep_aspect_ratio": True, "ensure_multiple_of": preprocess.multiple},
    }.get(preprocess.fit, {"do_center_crop": crops, "crop_size": both})
    return {
        "image_processor_type": kind,
        **common,
        "do_resize": preprocess.fit not in ("crop", "none"),
        "size": size,
        **more,
    }


def find_preprocess_obstacle(config: ViTConfig) -> str:
    """What Hugging Face cannot say of how images are prepared, in words; empty if nothing."""
    height, width = config.image_size
    if config.preprocess is not None and config.preprocess.fit == "native":
        return "all images have one size there, got preprocess.fit='native'"
    if config.preprocess is None or height == width or config.preprocess.fit in ("squash", "keep", "crop", "none"):
        return ""
    return f"images that are not square are squashed there, got preprocess.fit={config.preprocess.fit!r}"
