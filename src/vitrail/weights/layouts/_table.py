"""The table of layouts, and which of them a file has."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from ..._check import join_names, suggest
from .._errors import CheckpointError
from ..formats import AbstractSource, RenamedSource, UnstackedSource, unwrap_names
from ._aimv2 import TIMM_AIMV2
from ._aimv2_text import APPLE_AIMV2, HF_AIMV2
from ._checkpoint import Checkpoint
from ._depth_anything import DEPTH_ANYTHING, HF_DEPTH_ANYTHING
from ._dino import META_DINO, META_DINOV2
from ._dinov2 import HF_DINOV2, HF_DINOV2_5
from ._dinov3 import HF_DINOV3, HF_DINOV3_5, META_DINOV3
from ._dpt import HF_DPT, HF_DPT_DINOV2
from ._flax import BIG_VISION, VISION_TRANSFORMER
from ._hf_beit import HF_BEIT, HF_BEIT_5
from ._image_text import HF_CLIP, HF_SIGLIP, OPENAI_CLIP, TIMM_EVA, TIMM_NAFLEX, TIMM_VIT
from ._layout import AnyLayout, Settings
from ._mae import HF_MAE, HF_MAE_5, META_MAE
from ._sam import TIMM_SAM
from ._segment_anything import HF_SAM, META_SAM
from ._settings import NOTHING_BESIDE, AbstractBeside
from ._timm_beit import TIMM_BEIT
from ._timm_rope import TIMM_PE, TIMM_PE_FEATURES, TIMM_ROPE, TIMM_ROPE_VIT
from ._tipsv2 import HF_TIPSV2
from ._torchvision import TORCHVISION

LAYOUTS: Final[Mapping[str, AnyLayout]] = MappingProxyType(
    {
        layout.name: layout
        for layout in (
            TIMM_VIT,
            TIMM_EVA,
            TIMM_NAFLEX,
            TIMM_ROPE_VIT,
            TIMM_ROPE,
            TIMM_PE,
            TIMM_PE_FEATURES,
            TIMM_BEIT,
            TIMM_AIMV2,
            HF_MAE,
            HF_MAE_5,
            HF_DINOV2,
            HF_DINOV2_5,
            HF_DINOV3,
            HF_DINOV3_5,
            HF_BEIT,
            HF_BEIT_5,
            HF_TIPSV2,
            HF_CLIP,
            HF_SIGLIP,
            HF_AIMV2,
            HF_DPT,
            HF_DPT_DINOV2,
            HF_DEPTH_ANYTHING,
            DEPTH_ANYTHING,
            META_DINO,
            META_DINOV2,
            META_DINOV3,
            META_MAE,
            APPLE_AIMV2,
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
    "timm_beit",
    "timm_naflex",
    "timm_rope_vit",
    "timm_rope",
    "timm_pe",
    "timm_pe_features",
    "timm_aimv2",
    "timm_sam",
    "hf_vit",
    "hf_dinov2",
    "hf_dinov3",
    "hf_beit",
    "hf_clip",
    "hf_siglip",
    "hf_aimv2",
    "sam",
    "hf_sam",
    "hf_dpt",
    "hf_dpt_dinov2",
    "hf_depth_anything",
    "openai_clip",
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
    prefix: str | None = None,
    beside: AbstractBeside = NOTHING_BESIDE,
) -> Checkpoint:
    """Recognises the layout of a file by the names of its tensors, or takes the one that is asked for.

    A file that holds a system has the layout of the system, or with `part="image"` that of its image model. Where the
    names have no layout, what follows a prefix of them can have one.

    **Raises:** `ValueError` if there is no layout of that name, or no tensor with that prefix; `CheckpointError` if the
    file has no layout or could have several.
    """
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {join_names(LAYOUTS)}, got {layout!r}{suggest(layout, LAYOUTS)}")
    known = list(LAYOUTS.values()) if layout is None else [LAYOUTS[layout]]
    first = RenamedSource(source) if prefix is None else _cut_prefix(source, prefix)
    scopes = [first]
    found = _fit_all(scopes, known, settings, part, beside)
    if not found and prefix is None:
        scopes = [RenamedSource(source, each) for each in _find_prefixes(source, known)]
        found = _fit_all(scopes, known, settings, part, beside)
    if not found and layout is not None:
        image = known[0].image or known[0]
        return Checkpoint(_unstack(first, image), image, settings, beside)
    found = _drop_inner(found)
    if not found:
        raise CheckpointError(
            f"{source.path} has no layout that vitrail knows. Its {len(first.tensors):,} tensors"
            f"{f' under {prefix!r}' if prefix else ''} begin with {join_names(list(first.tensors)[:3])}"
            f"{_find_nearest(first, known)}"
        )
    if len({checkpoint.prefix for checkpoint in found}) > 1:
        prefixes = join_names(dict.fromkeys(checkpoint.prefix for checkpoint in found))
        raise CheckpointError(
            f"{source.path} has several models, whose names begin with {prefixes}: pass prefix=, or "
            "--prefix, to choose one"
        )
    if len(found) > 1:
        # Some architectures of timm have the same tensors: then its name of them decides.
        found = [checkpoint for checkpoint in found if _is_named(checkpoint)] or found
    if len(found) > 1:
        names = join_names(checkpoint.layout.name for checkpoint in found)
        raise CheckpointError(f"{source.path} could have any of the layouts {names}: pass layout= to choose")
    return found[0]


def _find_nearest(source: AbstractSource, known: Sequence[AnyLayout]) -> str:
    """Which layout is the nearest and what it lacks or has too much, in words; empty if none has a name of its own."""
    names = [f".{name}" for name in unwrap_names(source.tensors)]

    def is_there(wanted: str) -> bool:
        return any(name.endswith(f".{wanted}") for name in names)

    def list_missing(layout: AnyLayout) -> list[str]:
        groups = [*((wanted,) for wanted in layout.signature), *layout.one_of]
        return [" or ".join(map(repr, group)) for group in groups if not any(map(is_there, group))]

    nearest = min(
        (layout.image or layout for layout in known),
        key=lambda layout: len(list_missing(layout)) / len((*layout.signature, *layout.one_of)),
    )
    missing, foreign = list_missing(nearest), [wanted for wanted in nearest.foreign if is_there(wanted)]
    if not any(map(is_there, nearest.signature)):
        ours = "vitrail's own, with its configuration in the header or as config="
        return f"; the layouts are {ours}, and {join_names(LAYOUTS)}"
    what = f"lacks {', '.join(missing)}"
    if not missing:
        what = (
            f"has {join_names(foreign)}, which that does not have"
            if foreign
            else "has these names under several prefixes"
        )
    return f". The nearest layout is {nearest.name!r} ({nearest.title}), but the file {what}"


def _cut_prefix(source: AbstractSource, prefix: str) -> RenamedSource:
    scope = RenamedSource(source, prefix)
    if not scope.tensors:
        raise ValueError(
            f"prefix must be what some names in {source.path} begin with, got {prefix!r}: the first are "
            f"{join_names(list(source.tensors)[:3])}"
        )
    if all(name.startswith(".") for name in scope.tensors):
        raise ValueError(f"prefix must end with the dot that follows it in {source.path}: pass prefix='{prefix}.'")
    return scope


def _drop_inner(found: list[Checkpoint]) -> list[Checkpoint]:
    """Without the part of a model that was found as a whole under a shorter prefix."""
    shorter = {(checkpoint.layout.name, checkpoint.prefix) for checkpoint in found}

    def is_inner(checkpoint: Checkpoint) -> bool:
        return any(
            name == checkpoint.layout.name and prefix != checkpoint.prefix and checkpoint.prefix.startswith(prefix)
            for name, prefix in shorter
        )

    return [checkpoint for checkpoint in found if not is_inner(checkpoint)]


def _find_prefixes(source: AbstractSource, known: Sequence[AnyLayout]) -> list[str]:
    """What stands before the names that a layout always has, without a prefix that the layout knows itself."""
    names = unwrap_names(source.tensors)
    found: dict[str, None] = {}
    for layout in [each for one in known for each in (one, one.image) if each is not None]:
        last = layout.signature[-1]
        for name in (name for name in names if name == last or name.endswith(f".{last}")):
            prefix = name.removesuffix(last)
            if all(prefix + each in names for each in layout.signature):
                own = next((p for p in layout.prefixes if f".{prefix}".endswith(f".{p}")), "")
                found[prefix.removesuffix(own)] = None
    return list(found)


def _fit_all(
    scopes: Sequence[AbstractSource], known: Sequence[AnyLayout], settings: Settings, part: Part, beside: AbstractBeside
) -> list[Checkpoint]:
    """What the file is in each scope by each layout: the system, or where it is not one, the image model."""
    found: list[Checkpoint] = []
    for scope in scopes:
        for layout in known:
            parts = [layout] if layout.image is None else [*([layout] if part is None else []), layout.image]
            # Where two names become one without the layout's prefix, the file has several models.
            parts = [each for each in parts if len({*each.shorten(scope.tensors)}) == len(scope.tensors)]
            checkpoints = (Checkpoint(_unstack(scope, each), each, settings, beside) for each in parts)
            fitting = (checkpoint for checkpoint in checkpoints if checkpoint.layout.fits(checkpoint.tensors))
            found += [checkpoint for checkpoint in (next(fitting, None),) if checkpoint is not None]
    return found


def _unstack(source: AbstractSource, layout: AnyLayout) -> AbstractSource:
    """The source block by block, if its blocks are stacked."""
    if not layout.stacked or not layout.is_stacked(Checkpoint(source, layout, {}).tensors):
        return source
    return UnstackedSource(source, layout.stacked)


def _is_named(checkpoint: Checkpoint) -> bool:
    """Whether the settings say an architecture of timm that has the layout."""
    name, known = checkpoint.settings.get("architecture"), checkpoint.layout.architectures
    return known is not None and isinstance(name, str) and known.fullmatch(name.partition(".")[0]) is not None
