"""Opens a folder with the library that its layout is from, and computes a picture with it."""

import importlib.util
import json
from pathlib import Path
from typing import Any, Final

import numpy as np

from ._card import ModelCard
from ._readme import find_library
from .formats import NumpyArray

_PACKAGES: Final = {"timm": "timm", "Hugging Face": "transformers"}
_NO_NORM: Final = ("hf_clip",)
"""Whose tokens the library returns before their norm."""


def explain_no_original(path: Path, card: ModelCard) -> str:
    """Why a file cannot be compared with its own library; empty if it can."""
    package = _PACKAGES.get(find_library(card))
    if package is None:
        return "no library that opens folders has this layout" if card.layout != "vitrail" else "vitrail's own format"
    folder = path if path.is_dir() else path.parent
    if card.kind != "vit":
        return "only image models are compared: pass --part image"
    if path.name not in (folder.name, "model.safetensors") or not (folder / "config.json").is_file():
        return f"{package} opens a folder with model.safetensors and config.json"
    if card.config.preprocess is not None and card.config.preprocess.fit == "native":
        return f"{package} wants images of native aspect in patches"
    missing = [name for name in ("torch", package) if importlib.util.find_spec(name) is None]
    return f"{missing[0]} is not installed" if missing else ""


def run_original(path: Path, card: ModelCard, picture: NumpyArray) -> dict[str, NumpyArray]:
    """What the library makes of a picture: the outputs of `run_probe` that it has.

    **Raises:** whatever the library raises.
    """
    folder = path if path.is_dir() else path.parent
    torch: Any = importlib.import_module("torch")
    known = card.config.preprocess
    unread = (0, 0) if known is None else known.unread
    whole = np.pad(picture, ((0, unread[0]), (0, unread[1]), (0, 0)))  # pixels that no patch reads
    image = torch.from_numpy(np.ascontiguousarray(whole.transpose(2, 0, 1)[None]))
    with torch.no_grad():
        run = _run_timm if find_library(card) == "timm" else _run_transformers
        found = run(folder, card, image)
    if card.config.windows is not None:
        found = {name: tensor.flatten(2).transpose(1, 2) for name, tensor in found.items()}
    return {name: np.asarray(tensor.numpy()[0], np.float32) for name, tensor in found.items()}


def _run_timm(folder: Path, card: ModelCard, image: Any) -> dict[str, Any]:
    timm: Any = importlib.import_module("timm")
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).float().eval()
    features = model.forward_features(image)
    return {"tokens": features} if card.config.windows is not None else {"tokens": features, "output": model(image)}


def _run_transformers(folder: Path, card: ModelCard, image: Any) -> dict[str, Any]:
    transformers: Any = importlib.import_module("transformers")
    settings = json.loads((folder / "config.json").read_text("utf-8"))
    kind = getattr(transformers, next(iter(settings.get("architectures") or ["AutoModel"])))
    bars: Any = transformers.utils.logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        model = kind.from_pretrained(folder, local_files_only=True).float().eval()
    finally:
        if shown:
            bars.enable_progress_bar()
    found = model(pixel_values=image)
    names = {"tokens": "last_hidden_state"} if card.layout not in _NO_NORM else {}
    unread = card.config.head == "none" and card.layout.startswith("hf_vit")  # its pooler is drawn anew
    last = [name for name in ("logits", "image_embeds", "pooler_output") if found.get(name) is not None]
    if last and not unread and card.config.windows is None:
        names |= {"output": last[0]}
    return {ours: found[theirs] for ours, theirs in names.items() if found.get(theirs) is not None}
