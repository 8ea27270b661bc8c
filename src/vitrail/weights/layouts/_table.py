"""The table of layouts, and which of them a file has."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from ..._check import join_names
from .._errors import CheckpointError
from ..formats import AbstractSource, UnstackedSource
from ._checkpoint import Checkpoint
from ._clip import HF_CLIP, OPENAI_CLIP
from ._dino import META_DINO
from ._dinov2 import HF_DINOV2, HF_DINOV2_5, META_DINOV2
from ._dinov3 import HF_DINOV3, HF_DINOV3_5, META_DINOV3
from ._flax import BIG_VISION, VISION_TRANSFORMER
from ._layout import AnyLayout, Settings
from ._mae import HF_MAE, HF_MAE_5, META_MAE
from ._sam import HF_SAM, META_SAM, TIMM_SAM
from ._settings import Beside, find_nothing
from ._siglip import HF_SIGLIP
from ._timm_eva import TIMM_EVA
from ._timm_vit import TIMM_VIT
from ._torchvision import TORCHVISION

LAYOUTS: Final[Mapping[str, AnyLayout]] = MappingProxyType(
    {
        layout.name: layout
        for layout in (
            TIMM_VIT,
            TIMM_EVA,
            HF_MAE,
            HF_MAE_5,
            HF_DINOV2,
            HF_DINOV2_5,
            HF_DINOV3,
            HF_DINOV3_5,
            HF_CLIP,
            HF_SIGLIP,
            META_DINO,
            META_DINOV2,
            META_DINOV3,
            META_MAE,
            META_SAM,
            HF_SAM,
            TIMM_SAM,
            OPENAI_CLIP,
            TORCHVISION,
            BIG_VISION,
            VISION_TRANSFORMER,
        )
    }
)
"""Every layout by its name, but vitrail's own."""
WritableLayout = Literal[
    "vitrail",
    "timm",
    "timm_eva",
    "timm_sam",
    "hf_vit",
    "hf_dinov2",
    "hf_dinov3",
    "hf_clip",
    "hf_siglip",
    "hf_sam",
]
"""The layouts that `vitrail.save` writes."""


Part: TypeAlias = Literal["image"] | None
"""What of a file is read: the image model alone, or all."""


def recognise(
    source: AbstractSource,
    settings: Settings,
    *,
    layout: str | None = None,
    part: Part = None,
    beside: Beside = find_nothing,
) -> Checkpoint:
    """Recognises the layout of a file by the names of its tensors, or takes the one that is asked for.

    A file that holds a system has the layout of the system, or with `part="image"` that of its image model.

    **Raises:** `ValueError` if there is no layout of that name; `CheckpointError` if the file has no layout or could
    have several.
    """
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {join_names(LAYOUTS)}, got {layout!r}")
    found: list[Checkpoint] = []
    for known in LAYOUTS.values() if layout is None else (LAYOUTS[layout],):
        whole = None if known.image is None else _fit(source, known, settings, beside)
        if whole is not None and part is None:
            found.append(whole)
            continue
        image = known if known.image is None else known.image
        checkpoint = _fit(source, image, settings, beside, needed=layout is not None)
        if checkpoint is not None:
            found.append(checkpoint)
    if not found:
        raise CheckpointError(
            f"{source.path} has no layout that vitrail knows. Its {len(source.tensors):,} tensors begin with "
            f"{join_names(list(source.tensors)[:3])}; the layouts are vitrail's own and {join_names(LAYOUTS)}"
        )
    if len(found) > 1:
        names = join_names(checkpoint.layout.name for checkpoint in found)
        raise CheckpointError(f"{source.path} could have any of the layouts {names}: pass layout= to choose")
    return found[0]


def _fit(
    source: AbstractSource, layout: AnyLayout, settings: Settings, beside: Beside, *, needed: bool = False
) -> Checkpoint | None:
    """A file as a layout sees it; `None` if it does not have the layout and does not need to."""
    checkpoint = Checkpoint(source, layout, settings, beside)
    if layout.is_stacked(checkpoint.tensors):
        checkpoint = Checkpoint(UnstackedSource(source, layout.stacked), layout, settings, beside)
    return checkpoint if needed or layout.fits(checkpoint.tensors) else None
