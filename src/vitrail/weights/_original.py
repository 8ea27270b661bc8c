"""Opens a folder with the library that its layout is from, and computes a picture with it."""

import importlib.util
import json
from pathlib import Path
from typing import Any, Final

import numpy as np

from ._card import ModelCard
from ._readme import find_library
from .formats import NumpyArray

_PACKAGES: Final = {"timm": "timm", "Hugging Face": "transformers", "OpenAI and open_clip": "open_clip"}
_SETTINGS: Final = {"open_clip": "open_clip_config.json"}
"""The settings that a package opens a folder by, if they are not `config.json`."""
_SYSTEMS: Final = {"image_text": ("transformers", "open_clip"), "segment_anything": ("transformers",)}
"""The systems that are compared, and with which packages."""
_NO_NORM: Final = ("hf_clip",)
"""Whose tokens the library returns before their norm."""


def explain_no_original(path: Path, card: ModelCard) -> str:
    """Why a file cannot be compared with its own library; empty if it can."""
    package = _PACKAGES.get(find_library(card))
    if package is None:
        return "no library that opens folders has this layout" if card.layout != "vitrail" else "vitrail's own format"
    folder = path if path.is_dir() else path.parent
    if card.kind != "vit" and package not in _SYSTEMS.get(card.kind, ()):
        return f"{package} is not asked for such a system: pass --part image"
    if card.kind == "vit" and package == "open_clip":
        return "open_clip is asked for both towers alone: leave out --part image"
    settings, files = _SETTINGS.get(package, "config.json"), ("model.safetensors", "open_clip_model.safetensors")
    if (
        path.name not in (folder.name, *(files if package == "open_clip" else files[:1]))
        or not (folder / settings).is_file()
    ):
        return f"{package} opens a folder with model.safetensors and {settings}"
    if card.config.preprocess is not None and card.config.preprocess.fit == "native":
        return f"{package} wants images of native aspect in patches"
    missing = [name for name in ("torch", package) if importlib.util.find_spec(name) is None]
    return f"{missing[0]} is not installed" if missing else ""


def run_original(path: Path, card: ModelCard, picture: NumpyArray, text: NumpyArray | None) -> dict[str, NumpyArray]:
    """What the library makes of a picture, and of the ids of a text for a model with both towers: the outputs of
    `run_probe` that it has.

    **Raises:** whatever the library raises.
    """
    folder = path if path.is_dir() else path.parent
    torch: Any = importlib.import_module("torch")
    known = card.config.preprocess
    unread = (0, 0) if known is None else known.unread
    whole = np.pad(picture, ((0, unread[0]), (0, unread[1]), (0, 0)))  # pixels that no patch reads
    image = torch.from_numpy(np.ascontiguousarray(whole.transpose(2, 0, 1)[None]))
    ids = None if text is None else torch.from_numpy(text[None]).long()
    with torch.no_grad():
        match find_library(card):
            case "timm":
                found = _run_timm(folder, card, image)
            case "Hugging Face":
                found = _run_transformers(folder, card, image, ids)
            case _:
                found = _run_open_clip(folder, image, ids)
    if card.config.windows is not None and card.kind == "vit":
        found = {name: tensor.flatten(2).transpose(1, 2) for name, tensor in found.items()}
    return {name: np.asarray(tensor.numpy()[0], np.float32) for name, tensor in found.items()}


def _run_timm(folder: Path, card: ModelCard, image: Any) -> dict[str, Any]:
    timm: Any = importlib.import_module("timm")
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).float().eval()
    features = model.forward_features(image)
    return {"tokens": features} if card.config.windows is not None else {"tokens": features, "output": model(image)}


def _run_open_clip(folder: Path, image: Any, ids: Any) -> dict[str, Any]:
    open_clip: Any = importlib.import_module("open_clip")
    model = open_clip.create_model(f"local-dir:{folder}").float().eval()
    embedding, text = model.encode_image(image, normalize=True), model.encode_text(ids, normalize=True)
    similarity = (embedding * text).sum(-1) * model.logit_scale.exp()
    bias = getattr(model, "logit_bias", None)
    return {"image": embedding, "text": text, "similarity": similarity if bias is None else similarity + bias}


def _run_transformers(folder: Path, card: ModelCard, image: Any, ids: Any) -> dict[str, Any]:
    transformers: Any = importlib.import_module("transformers")
    settings = json.loads((folder / "config.json").read_text("utf-8"))
    kind = getattr(transformers, next(iter(settings.get("architectures") or ["AutoModel"])))
    # With "sdpa", or without a mask, AIMv2 forgets that its text tower is causal.
    options: dict[str, Any] = {} if ids is None else {"attn_implementation": "eager"}
    bars: Any = transformers.utils.logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        model = kind.from_pretrained(folder, local_files_only=True, **options).float().eval()
    finally:
        if shown:
            bars.enable_progress_bar()
    if card.kind == "segment_anything":
        return _segment(model, image)
    if ids is not None:
        found = model(pixel_values=image, input_ids=ids, attention_mask=ids.new_ones(ids.shape))
        return {"image": found.image_embeds, "text": found.text_embeds, "similarity": found.logits_per_image[:, 0]}
    found = model(pixel_values=image)
    names = {"tokens": "last_hidden_state"} if card.layout not in _NO_NORM else {}
    unread = card.config.head == "none" and card.layout.startswith("hf_vit")  # its pooler is drawn anew
    last = [name for name in ("logits", "image_embeds", "pooler_output") if found.get(name) is not None]
    if last and not unread and card.config.windows is None:
        names |= {"output": last[0]}
    return {ours: found[theirs] for ours, theirs in names.items() if found.get(theirs) is not None}


def _segment(model: Any, image: Any) -> dict[str, Any]:
    """The tokens, and the masks for a point in the middle: that for a clear prompt, and those for any."""
    torch: Any = importlib.import_module("torch")
    tokens = model.get_image_embeddings(image)
    point = torch.tensor([[[[image.shape[3] / 2, image.shape[2] / 2]]]])
    given = {"image_embeddings": tokens, "input_points": point, "input_labels": torch.ones((1, 1, 1)).long()}
    found = [model(**given, multimask_output=several) for several in (False, True)]
    return {
        "tokens": tokens.permute(0, 2, 3, 1),
        "masks": torch.cat([each.pred_masks[:, 0] for each in found], dim=1),
        "quality": torch.cat([each.iou_scores[:, 0] for each in found], dim=1),
    }
