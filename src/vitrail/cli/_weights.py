"""`vitrail inspect`: what a file of weights is."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from ..images import Preprocess
from ..weights import ModelCard
from ._options import ReadOptions

_SHOWN: Final = 8


@dataclass(frozen=True)
class Inspect(ReadOptions):
    """Shows the layout, the model and the cost of a file of weights, without reading its numbers.

    It also lists the tensors that are ignored, missing or unknown.
    """

    file: Path
    """A safetensors or npz file, an index of several, or a folder with one. A name of `vitrail list models` or
    hub:owner/name is downloaded."""
    part: Literal["image"] | None = None
    """`image` takes only the image model of a system such as CLIP."""


def run_inspect(command: Inspect) -> None:
    """Prints the card of a file."""
    for line in describe_card(command.read_card(command.file, command.part)):
        print(line)


def describe_card(card: ModelCard) -> list[str]:
    """The lines that `vitrail inspect` prints."""
    config = card.config
    size, encoder = config.size, config.encoder
    parts = [f"{kind} {getattr(config, kind)}" for kind in ("patch", "position", "pool", "head")]
    prefix = card.tokens - config.grid[0] * config.grid[1]
    lines = [
        *([] if card.repository is None else [f"repository  {card.repository} at {card.commit}"]),
        f"layout      {card.layout} ({card.title})",
        *([] if card.kind == "vit" else [f"system      {card.kind}, whose image model is"]),
        f"model       width {size.dim}, depth {size.depth}, {size.num_heads} heads, MLP {size.mlp_dim}",
        f"images      {config.image_size[0]} x {config.image_size[1]} pixels, {config.channels} channels, patches of "
        f"{config.patch_size[0]} x {config.patch_size[1]}",
        f"tokens      {card.tokens:,}: {prefix} before {config.grid[0]} x {config.grid[1]} patches",
        f"parts       {', '.join(parts)}",
        f"encoder     {encoder.activation}, norm_eps {encoder.norm_eps:g}"
        + "".join(f", {name}" for name in ("pre_norm", "qk_norm") if getattr(encoder, name))
        + ("" if encoder.qkv_bias else ", no qkv_bias")
        + ("" if encoder.layer_scale is None else ", layer scale")
        + ("" if config.windows is None else f", windows of {config.windows.size}"),
        f"classes     {_describe_classes(card)}",
        f"parameters  {card.parameters:,}",
        f"dtypes      {_describe_dtypes(card)}",
        f"FLOPs       {card.flops / 1e9:.2f} G an image",
        f"licence     {card.licence or 'not known'}",
        f"preprocess  {'not known' if config.preprocess is None else _describe_preprocess(config.preprocess)}",
    ]
    if card.assumed:
        assumed = ", ".join(f"{name} {value}" for name, value in card.assumed.items())
        lines.append(f"assumed     {assumed}: no settings say it")
    lines += _describe_ignored(card)
    lines += list_entries("missing", list(card.missing))
    return lines + list_entries("unknown", list(card.unknown))


def _describe_classes(card: ModelCard) -> str:
    config = card.config
    if card.embeds:
        return f"none: the model returns an embedding of {config.num_classes or config.token_dim} numbers"
    if config.classes is None:
        return f"{config.num_classes or 'none'}"
    more = ", ..." if len(config.classes) > _SHOWN else ""
    return f"{config.num_classes}: {', '.join(config.classes[:_SHOWN])}{more}"


def _describe_dtypes(card: ModelCard) -> str:
    counts = ", ".join(f"{dtype} ({count:,})" for dtype, count in card.dtypes.items()) or "none"
    return counts if card.dtypes.keys() <= {"float32"} else f"{counts}: use convert to make them float32"


def _describe_preprocess(preprocess: Preprocess) -> str:
    mean, std = (" ".join(f"{n:g}" for n in numbers) for numbers in (preprocess.mean, preprocess.std))
    native = preprocess.max_patches is not None
    size = f"at most {preprocess.max_patches} patches" if native else f"crop {preprocess.crop:.4g}"
    return f"{preprocess.fit}, {preprocess.interpolation}, {size}, mean {mean}, std {std}"


def _describe_ignored(card: ModelCard) -> list[str]:
    """The number of ignored tensors, and the reasons."""
    by_reason: dict[str, list[str]] = {}
    for name, why in card.ignored.items():
        by_reason.setdefault(why, []).append(name)
    reasons = [f"{len(names):>4,}  {why}, for example {names[0]!r}" for why, names in by_reason.items()]
    return [f"{'ignored':12}{f'{len(card.ignored):,}' if reasons else 'nothing'}", *(f"        {r}" for r in reasons)]


def list_entries(title: str, entries: list[str]) -> list[str]:
    """A line with the number of entries, and a line for each of the first."""
    more = [f"            and {len(entries) - _SHOWN} more"] if len(entries) > _SHOWN else []
    return [f"{title:12}{len(entries) or 'nothing'}", *(f"            {entry}" for entry in entries[:_SHOWN]), *more]
