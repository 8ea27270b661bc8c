"""`vitrail demo`: trains a small ViT on real images."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import equinox as eqx
import jax

from .._check import check_seed
from .._extras import require
from ..nn import count_parameters
from ..show import SUFFIXES, draw_predictions
from ..train import Recipe, check_classifier, evaluate, fit, show_progress
from ..weights import save
from ._setup import EXECUTION, check_out, format_size, load_data, make_small_config, print_data


@dataclass(frozen=True)
class Demo:
    """Trains a small Vision Transformer on real images, prints its accuracy on held-out images, and draws them.

    Without --data it learns 4,000 handwritten digits of MNIST, in about a minute on two cores. Nothing is downloaded.
    """

    pool: str = "mean"
    """The pool: a name of `vitrail list pools`."""
    patch: str = "conv"
    """The patch embedding: a name of `vitrail list patches`."""
    position: str = "learned"
    """The position embedding: a name of `vitrail list positions`."""
    head: str = "linear"
    """The head: a name of `vitrail list heads`."""
    data: Path | None = None
    """Your own images: a folder with one subfolder for each class (JPEG, PNG, WebP), a fifth of which is held out; or a
    folder with the four IDX files of the MNIST family, plain or gzipped."""
    image_size: int | None = None
    """Height and width of the images in pixels after resizing: scaled by the shorter side, then cropped at the centre.
    By default 64, and no resizing for MNIST and IDX files."""
    patch_size: int | None = None
    """Height and width of a patch in pixels, a divisor of the image size; by default the one nearest to a quarter."""
    epochs: int = Recipe.epochs
    """How many times each training image is seen."""
    batch_size: int = Recipe.batch_size
    """The number of images in a step."""
    learning_rate: float = Recipe.learning_rate
    """The highest learning rate."""
    seed: int = 0
    """For the weights, the order of the images and their augmentation. The same seed gives the same numbers on the same
    machine."""
    out: Path = Path("vitrail-demo.png")
    """The picture to write: .png, .pdf or .svg."""
    save: Path = Path("vitrail-demo.safetensors")
    """The file to save the trained model to, for `vitrail predict` and `vitrail.load`."""


def run_demo(command: Demo) -> None:
    """Loads images, trains, evaluates and draws."""
    started = time.perf_counter()
    # Fail early if what is needed at the end is missing.
    require("matplotlib", extra="demo")
    require("safetensors", extra="demo")
    check_out("out", command.out, SUFFIXES)
    check_out("save", command.save, (".safetensors",))
    check_seed(command.seed)
    recipe = replace(
        Recipe(), epochs=command.epochs, batch_size=command.batch_size, learning_rate=command.learning_rate
    )
    size = None if command.image_size is None else (command.image_size, command.image_size)
    data = load_data(command.data, size)
    config = make_small_config(
        data,
        patch_size=command.patch_size,
        pool=command.pool,
        patch=command.patch,
        position=command.position,
        head=command.head,
    )
    build_key, fit_key = jax.random.split(jax.random.key(command.seed))
    # Shapes show what does not fit before anything is compiled.
    check_classifier(eqx.filter_eval_shape(config.build, key=build_key), data)
    model = eqx.filter_jit(config.build)(execution=EXECUTION, key=build_key)

    print_data(data)
    print(
        f"ViT: {format_size(config.grid)} patches of {format_size(config.patch_size)}, width {config.size.dim}, "
        f"depth {config.size.depth}, pool {command.pool}, {count_parameters(model):,} parameters"
    )
    with show_progress() as report:
        model = fit(model, data, recipe, key=fit_key, report=report)
    save(model, command.save)
    evaluation = evaluate(model, data)
    print(f"test accuracy: {evaluation.accuracy:.1%} ({evaluation.correct:,} of {len(data.test):,} held-out images)")
    draw_predictions(model, data, evaluation, command.out)
    print(f"picture: {command.out}")
    print(f"model: {command.save} (vitrail predict {command.save} IMAGE)")
    print(f"time: {time.perf_counter() - started:.0f} s")
