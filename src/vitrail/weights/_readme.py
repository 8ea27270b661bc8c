"""The README.md of a folder with a model: what it is, how images are prepared, and how it is opened."""

import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from ._card import ModelCard
from .layouts import LAYOUTS

_TASKS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "image_text": "zero-shot-image-classification",
        "segment_anything": "mask-generation",
        "mae": "image-feature-extraction",
        "dino": "image-feature-extraction",
    }
)
"""The Hub's name of what a system is for."""
_TAGS: Final[Mapping[str, str]] = MappingProxyType(
    {"timm": "timm", "Hugging Face": "transformers", "OpenAI and open_clip": "open_clip"}
)
"""The Hub's name of a library by ours."""
CONVERTED: Final = re.compile(r"^It was converted from .* by vitrail\.$", re.MULTILINE)
"""The line that says what a model was made from."""


def make_readme(card: ModelCard, *, place: str, name: str, origin: str = "", architecture: str = "") -> str:
    """Makes the README.md of a folder, with the front matter that the Hub reads.

    **Arguments:**

    - `card`: the card of the model in the folder.
    - `place`: how a library names it, as `"folder"` or `"org/name"`.
    - `name`: what the page is called.
    - `origin`: what the model was made from, in words that end a sentence; empty if that is not known.
    - `architecture`: the class of transformers that opens it; empty for `AutoModel`.
    """
    library = _TAGS.get(find_library(card), "")
    is_folder = _is_folder(place)
    opener = f"vitrail.{'load' if is_folder else 'from_hub'}({json.dumps(place)})"
    facts = [f"- {line}" for line in _list_facts(card)]
    return "\n".join(
        [
            "---",
            *_list_front_matter(card, library or "vitrail"),
            "---",
            "",
            f"# {name}",
            "",
            f"{card.title}: {card.parameters:,} parameters.",
            *([f"It was converted from {origin} by vitrail."] if origin else []),
            "",
            *facts,
            "",
            "```python",
            *_show_opening(library, place, architecture),
            "import vitrail",
            "",
            f"model = {opener}",
            "```",
            "",
        ]
    )


def find_library(card: ModelCard) -> str:
    """The name of the library that publishes the layout of a model; empty for vitrail's own."""
    layout = LAYOUTS.get(card.layout)
    if layout is None:
        return ""
    return (layout.image or layout if card.kind == "vit" else layout).library.name


def _list_front_matter(card: ModelCard, library: str) -> list[str]:
    lines = [f"library_name: {library}"]
    if card.licence is not None:
        short = card.licence.lower()
        known = re.fullmatch(r"[a-z0-9][a-z0-9.-]*", short) is not None
        lines += [f"license: {short}"] if known else ["license: other", f"license_name: {json.dumps(card.licence)}"]
    task = _TASKS.get(card.kind)
    if card.kind == "vit":
        classifies = card.config.num_classes is not None and not card.embeds
        task = "image-classification" if classifies else "image-feature-extraction"
    return [*lines, *([] if task is None else [f"pipeline_tag: {task}"]), "tags:", "- vitrail"]


def _list_facts(card: ModelCard) -> list[str]:
    config, size = card.config, card.config.size
    sides = f"{config.image_size[0]} x {config.image_size[1]} pixels, {config.channels} channels"
    preprocess = config.preprocess
    classes = "no classes" if config.num_classes is None or card.embeds else f"{config.num_classes} classes"
    return [
        f"{size.depth} blocks, {size.dim} wide, {size.num_heads} heads; {classes}",
        f"images of {sides}, in patches of {config.patch_size[0]} x {config.patch_size[1]}",
        "how images are prepared is not known"
        if preprocess is None
        else f"images are prepared by {preprocess.fit!r}, {preprocess.interpolation}, crop {preprocess.crop:g}, "
        f"mean {_join(preprocess.mean)}, std {_join(preprocess.std)}",
        f"licence: {card.licence or 'not known'}",
    ]


def _join(numbers: tuple[float, ...]) -> str:
    return " ".join(f"{number:g}" for number in numbers)


def _show_opening(library: str, place: str, architecture: str) -> list[str]:
    """The lines of code that open the folder with its own library, and an empty one."""
    is_folder = _is_folder(place)
    match library:
        case "timm":
            source = json.dumps(f"{'local-dir' if is_folder else 'hf-hub'}:{place}")
            return ["import timm", "", f"model = timm.create_model({source}, pretrained=True)", ""]
        case "transformers":
            kind = architecture or "AutoModel"
            source = json.dumps(place)
            return [f"from transformers import {kind}", "", f"model = {kind}.from_pretrained({source})", ""]
        case "open_clip":
            source = json.dumps(f"{'local-dir' if is_folder else 'hf-hub'}:{place}")
            return ["import open_clip", "", f"model = open_clip.create_model({source})", ""]
        case _:
            return []


def _is_folder(place: str) -> bool:
    """Whether it is a folder of this computer, and not the name of a repository, `org/name`."""
    return "/" not in place or place.startswith((".", "/"))
