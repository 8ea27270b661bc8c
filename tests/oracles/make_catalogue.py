"""Writes the catalogue of published checkpoints that vitrail reads: `python tests/oracles/make_catalogue.py`.

Each model is built without numbers by its own library. It is listed if vitrail finds its layout and a place for each
tensor, with what vitrail's card says of it.
"""

import csv
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from catalogue_sources import Published, read_open_clip, read_timm, read_transformers

from vitrail import CheckpointError, ModelCard, PartSpec, Preprocess
from vitrail.weights import LAYOUTS
from vitrail.weights._card import make_card
from vitrail.weights._catalogue import CATALOGUE
from vitrail.weights._read import choose_config
from vitrail.weights.formats import AbstractSource
from vitrail.weights.layouts import WrittenBeside, find_settings, recognise

CLAIMED = [known.architectures for layout in LAYOUTS.values() if (known := layout.image or layout).architectures]
# By the name of the architecture and the tag: the beginning of the short name, the family, who made it.
FAMILIES = (
    (r"eupe", "eupe", "EUPE", "Meta"),
    (r"dinov3", "dinov3", "DINOv3", "Meta"),
    (r"dinov2", "dinov2", "DINOv2", "Meta"),
    (r"tipsv2", "tipsv2", "TIPSv2", "Google"),
    (r"lingbot", "lingbot", "LingBot-Vision", "Robbyant"),
    (r"_pe_|^pe-core", "pe", "Perception Encoder", "Meta"),
    (r"aimv2", "aimv2", "AIMv2", "Apple"),
    (r"siglip2|siglip.*v2_webli", "siglip2", "SigLIP 2", "Google"),
    (r"siglip", "siglip", "SigLIP", "Google"),
    (r"mobileclip|mclip", "mobileclip", "MobileCLIP", "Apple"),
    (r"clipa", "clipa", "CLIPA", "UCSC"),
    (r"metaclip2", "metaclip2", "MetaCLIP 2", "Meta"),
    (r"metaclip", "metaclip", "MetaCLIP", "Meta"),
    (r"tinyclip", "tinyclip", "TinyCLIP", "Microsoft"),
    (r"dfn", "dfn", "DFN CLIP", "Apple"),
    (r"^eva02.*_clip_|^eva02-", "eva02-clip", "EVA-02 CLIP", "BAAI"),
    (r"^eva02", "eva02", "EVA-02", "BAAI"),
    (r"^eva_.*patch14_clip_|^eva01-", "eva-clip", "EVA CLIP", "BAAI"),
    (r"^eva", "eva", "EVA", "BAAI"),
    (r"_clip_.*openai|^clip-.*\.openai|^clip-vit-(base|large)-", "clip", "CLIP", "OpenAI"),
    (r"_clip_|^clip-", "clip", "CLIP", ""),
    (r"^beitv2", "beitv2", "BEiT v2", "Microsoft"),
    (r"^beit", "beit", "BEiT", "Microsoft"),
    (r"^deit3", "deit3", "DeiT III", "Meta"),
    (r"^deit", "deit", "DeiT", "Meta"),
    (r"^sam", "sam", "SAM", "Meta"),
    (r"^flexivit", "flexivit", "FlexiViT", "Google"),
    (r"^naflexvit", "naflexvit", "NaFlexViT", "timm"),
    (r"\bmae\b", "mae", "MAE", "Meta"),
    (r"\bdino\b", "dino", "DINO", "Meta"),
    (r"\bmsn\b", "msn", "MSN", "Meta"),
    (r"ijepa", "ijepa", "I-JEPA", "Meta"),
    (r"_rope_.*naver", "rope", "RoPE-ViT", "NAVER"),
    (r"_rope_", "rope", "RoPE-ViT", "timm"),
    (r"\.(augreg|sam_in1k|orig)", "vit", "ViT", "Google"),
    (r"\.(sw|sbb)", "vit", "ViT", "timm"),
    (r"", "vit", "ViT", ""),
)
OWNERS = {"laion": "LAION", "google": "Google", "facebook": "Meta"}
# What the words of a tag say of the images that a model was trained on, the first of a tag first.
DATA = {
    **{f"in{n}": f"ImageNet-{n}" for n in ("1k", "12k", "21k", "22k")},
    **{"lvd142m": "LVD-142M", "lvd1689m": "LVD-1689M", "sat493m": "SAT-493M", "sa1b": "SA-1B", "webli": "WebLI"},
    **{"laion2b": "LAION-2B", "laion400m": "LAION-400M", "merged2b": "Merged-2B", "m38m": "Merged-38M"},
    **{"m30m": "Merged-30M", "datacompxl": "DataComp-XL", "datacomp1b": "DataComp-1B", "datacompdr": "DataCompDR"},
    **{"dfn2b": "DFN-2B", "dfn5b": "DFN-5B", "dfndr2b": "DFNDR-2B", "yfcc15m": "YFCC-15M", "bamboo": "Bamboo"},
    "datacomp": "DataComp",
    **{f"datacomp_{n}": f"DataComp-{n.upper()}" for n in ("xl", "l", "m", "s")},
    **{f"commonpool_{n}": f"CommonPool-{n.upper()}" for n in ("xl", "l", "m", "s")},
    **{"metaclip_400m": "MetaCLIP-400M", "metaclip_2pt5b": "MetaCLIP-2.5B", "metaclip_fullcc": "MetaCLIP-2.5B"},
}
SIZES = {
    **{"tiny": "ti", "small": "s", "base": "b", "large": "l", "huge": "h", "giant": "g", "gigantic": "bigg"},
    **{"enormous": "e", "giantopt": "gopt", "medium": "m"},
}
IMPLIED = (
    "openai",
    "webli",
    "v2_webli",
    "meta",
    "mae",
    "dino",
    "fb",
    "apple_pt",
    "sa1b",
    "robbyant",
    "metaclip2_worldwide",
)
"""Tags that the family says already."""
PE_KINDS = ("core", "lang", "spatial")
TOWERS = (
    "clip",
    "eva02-clip",
    "eva-clip",
    "siglip",
    "siglip2",
    "metaclip",
    "metaclip2",
    "mobileclip",
    "tinyclip",
    "dfn",
    "clipa",
)
"""Families whose short name is that of both towers."""


class Shapes(AbstractSource):
    """The tensors of a model that has no numbers."""

    def __init__(self, published: Published):
        self.path = Path(published.file)
        self.metadata = {}
        self.tensors = published.tensors

    def read(self, name: str, row: int | None = None):
        raise NotImplementedError


def read_card(published: Published) -> ModelCard | None:
    """What vitrail says of a file; `None` if it does not read it."""
    source, beside = Shapes(published), WrittenBeside(published.settings)
    try:
        checkpoint = recognise(source, find_settings(source.path, beside), beside=beside)
        card = make_card(checkpoint, choose_config(checkpoint, None))
    except CheckpointError:
        return None
    return None if card.missing or card.unknown else card


def find_family(published: Published) -> tuple[str, str, str]:
    name = f"{published.name}.{published.tag}".lower()
    if published.source == "open_clip" and name.startswith("vit-"):
        name = f"clip-{name}"
    slug, family, organisation = next(rest for pattern, *rest in FAMILIES if re.search(pattern, name))
    return slug, family, organisation or OWNERS.get(published.repository.partition("/")[0], "")


def find_data(tag: str) -> str:
    words = sorted(DATA, key=len, reverse=True)
    found = re.findall("|".join(rf"(?<![a-z0-9]){word}(?![a-z0-9])" for word in words), tag)
    return ", ".join(dict.fromkeys(DATA[word] for word in found))


def find_task(published: Published, card: ModelCard) -> str:
    """What the model returns for an image."""
    system = {"image_text": "image-text", "mae": "reconstruct", "segment_anything": "segment"}
    if card.kind != "vit":
        return system[card.kind]
    if card.config.num_classes is None:
        return "features"
    if published.source == "timm":
        is_tower = find_family(published)[0] in (*TOWERS, "pe") and not published.classes
        return "embed" if is_tower else "classify"
    return "features" if card.embeds else "classify"  # what a pooler returns


def find_names(published: Published) -> list[str]:
    """The short name, and timm's name of the architecture for the weights that timm takes for it."""
    architecture = published.name if published.source == "timm" and published.is_default else ""
    return [name for name in (find_short_name(published), architecture) if name]


def find_short_name(published: Published) -> str:
    """`family-size/patch`, then what tells it from others; empty if it has none."""
    slug = find_family(published)[0]
    if published.source == "timm":
        if slug in TOWERS or (match := re.search(r"_patch(\d+)", published.name)) is None:
            return ""
        start, _, rest = published.name.partition("_patch")
        before = start.split("_")
        plus, kinds = ("+" if "plus" in before else ""), [w for w in before if w in ("distilled", *PE_KINDS)]
        size = [word for word in before if word not in ("plus", *kinds)][-1]
        size = SIZES.get(size, size) + plus
        words = [*rest.split("_")[1:], *kinds]
        tag = "" if published.is_default or published.tag in IMPLIED else f".{published.tag}"
    elif match := re.fullmatch(r"(?:vit|pe-core|eva0\d|clipa)-([a-z0-9]+)-(\d+)-?(.*)", published.name.lower()):
        size, patch, rest = match.groups()
        words = [word for word in rest.split("-") if word]
        tag = "" if published.tag in IMPLIED else f".{published.tag}"
        return _join(slug, size, patch, words, tag)
    elif match := re.fullmatch(r"sam-vit-(\w+)", published.name):
        return f"sam-{SIZES[match[1]]}/16"
    else:
        return ""
    return _join(slug, size, match[1], words, tag)


def _join(slug: str, size: str, patch: str, words: list[str], tag: str) -> str:
    dropped = {slug, "224", "siglip", "siglip2", "worldwide", "clip", *(["dinov3"] if slug == "eupe" else [])}
    more = "".join(f"-{word}" for word in words if word not in dropped)
    return f"{slug}-{size}/{patch}{more}{tag.replace(f'.{slug}_', '.')}"


def describe_preprocess(preprocess: Preprocess | None) -> str:
    """As JSON, without what is as usual."""
    if preprocess is None:
        return ""
    usual = {each.name: each.default for each in fields(Preprocess)}
    said = {name: value for name, value in asdict(preprocess).items() if value != usual[name]}
    return json.dumps(said, separators=(",", ":"))


def make_row(published: Published, card: ModelCard) -> dict[str, Any]:
    _, family, organisation = find_family(published)
    config = card.config
    pool = config.pool.name if isinstance(config.pool, PartSpec) else str(config.pool)
    return {
        "repository": published.repository,
        "file": published.file,
        "names": " ".join(find_names(published)),
        "family": family,
        "task": find_task(published, card),
        "layout": card.layout.removesuffix("_5"),  # in files transformers writes the names of before
        "parameters": card.parameters,
        "flops": card.flops,
        "height": config.image_size[0],
        "width": config.image_size[1],
        "tokens": card.tokens,
        "licence": published.licence,
        "organisation": organisation,
        "data": find_data(published.tag or published.name),
        "pool": pool,
        "preprocess": describe_preprocess(config.preprocess),
        "notes": "; ".join(published.notes),
    }


def claims(architecture: str) -> bool:
    return any(pattern.fullmatch(architecture) for pattern in CLAIMED)


def read_all() -> Iterator[Published]:
    yield from read_timm(claims)
    yield from read_open_clip()
    yield from read_transformers()


def main() -> None:
    rows: list[dict[str, Any]] = []
    for published in read_all():
        card = read_card(published)
        if card is None:
            print(f"not read: {published.repository}", file=sys.stderr)
            continue
        rows.append(make_row(published, card))
    times = Counter(name for row in rows for name in row["names"].split())
    if twice := [name for name, count in times.items() if count > 1]:
        raise ValueError(f"each name must belong to one row, got {twice}")
    rows.sort(key=lambda row: (row["family"].lower(), row["parameters"], row["repository"]))
    with CATALOGUE.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"{len(rows)} checkpoints: {CATALOGUE}")


if __name__ == "__main__":
    main()
