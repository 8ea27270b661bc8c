"""The layouts by name, and which of them a file has."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

from .._check import listed
from ._checkpoint import Checkpoint, Layout, Settings
from ._errors import CheckpointError
from ._flax import BIG_VISION, VISION_TRANSFORMER
from ._hf_clip import HF_CLIP, HF_DINOV3, HF_DINOV3_5, HF_SIGLIP
from ._hf_vit import HF_DINOV2, HF_DINOV2_5, HF_VIT, HF_VIT_5
from ._meta import META_DINOV2, META_DINOV3, META_MAE
from ._npz import NpzFile
from ._pytorch import OPENAI_CLIP, TORCHVISION
from ._safetensors import SafetensorsFile
from ._sam import HF_SAM, META_SAM, TIMM_SAM
from ._shards import ShardedFile
from ._source import AbstractSource, UnstackedSource
from ._timm import TIMM_EVA, TIMM_VIT

LAYOUTS: Final[Mapping[str, Layout]] = MappingProxyType(
    {
        layout.name: layout
        for layout in (
            TIMM_VIT,
            TIMM_EVA,
            HF_VIT,
            HF_VIT_5,
            HF_DINOV2,
            HF_DINOV2_5,
            HF_DINOV3,
            HF_DINOV3_5,
            HF_CLIP,
            HF_SIGLIP,
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
"""All layouts but vitrail's own."""
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


def open_source(path: Path) -> AbstractSource:
    """The file's tensors by name, by what the file is; nothing is read yet."""
    if path.is_dir():
        return open_source(_main_file(path))
    with path.open("rb") as file:
        start = file.read(8)
    if start[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        if path.suffix in (".pt", ".pth", ".bin", ".ckpt"):
            raise _pickle(path)
        return NpzFile(path)
    if start[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise _pickle(path)
    if path.name.endswith(".index.json"):
        return ShardedFile(path)
    return SafetensorsFile(path)


def _pickle(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path} must be safetensors or npz, but it is a pickle of PyTorch's, which can run any code: make it a "
        f"safetensors file with 'vitrail convert --from-torch {path} {path.with_suffix('.safetensors')}'"
    )


def _main_file(folder: Path) -> Path:
    names = ("model.safetensors", "model.safetensors.index.json", "open_clip_model.safetensors")
    for name in names:
        if (folder / name).is_file():
            return folder / name
    pickle = next((path for kind in ("bin", "pth", "pt") for path in sorted(folder.glob(f"*.{kind}"))), None)
    if pickle is not None:
        raise _pickle(pickle)
    raise CheckpointError(f"{folder} must hold one of {listed(names)}, but it holds none: name the file itself")


def recognise(
    source: AbstractSource, settings: Settings, name: str | None
) -> tuple[Layout, AbstractSource, Checkpoint]:
    """The layout of a file by its names, or the one that is asked for, and the file as the layout sees it."""
    if name is not None:
        if name not in LAYOUTS:
            raise ValueError(f"layout must be one of {listed(LAYOUTS)}, but {name!r} came")
        candidates = [LAYOUTS[name]]
    else:
        candidates = list(LAYOUTS.values())
    found: list[tuple[Layout, AbstractSource, Checkpoint]] = []
    for layout in candidates:
        checkpoint, seen = Checkpoint(source, layout.prefixes, settings), source
        if layout.stacked and all(layout.in_stack(tensor) in checkpoint for tensor in layout.signature):
            seen = UnstackedSource(source, layout.stacked)
            checkpoint = Checkpoint(seen, layout.prefixes, settings)
        has = all(tensor in checkpoint for tensor in layout.signature)
        has = has and (not layout.one_of or any(tensor in checkpoint for tensor in layout.one_of))
        if name is not None or (has and not any(tensor in checkpoint for tensor in layout.foreign)):
            found.append((layout, seen, checkpoint))
    if not found:
        raise CheckpointError(
            f"{source.path} has {len(source.tensors):,} tensors, the first of them {_first(source)}, and is of no "
            f"layout that vitrail knows: these are its own, and {listed(LAYOUTS)}"
        )
    if len(found) > 1:
        raise CheckpointError(
            f"{source.path} may be of any of the layouts {listed(layout.name for layout, _, _ in found)}: pass layout="
        )
    return found[0]


def _first(source: AbstractSource) -> str:
    return listed(list(source.tensors)[:3])
