"""`vitrail demo`: a small ViT learns real images before your eyes."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import equinox as eqx
import jax

from .._extras import require
from ..train import Recipe, draw_predictions, evaluate, fit, progress_bar
from ..train._fit import check_classifier
from ._setup import by, check_out, check_seed, count, load_data, say_data, small_config

_SUFFIXES: Final = (".png", ".pdf", ".svg")


@dataclass(frozen=True)
class Demo:
    """Trains a small Vision Transformer on real images, says how many held-out images it gets right, and draws them.

    Without --data it learns 4,000 handwritten digits of MNIST in about a minute on two cores, and nothing is
    downloaded.
    """

    pool: str = "mean"
    """How patch tokens become one vector: a name of `vitrail list pools`."""
    patch: str = "conv"
    """How patches become tokens: a name of `vitrail list patches`."""
    position: str = "learned"
    """How tokens know where they are: a name of `vitrail list positions`."""
    head: str = "linear"
    """How the vector becomes logits: a name of `vitrail list heads`."""
    data: Path | None = None
    """Your own images: a folder with one subfolder for each class (JPEG, PNG, WebP), of which a fifth is held out; or
    with the four IDX files of the MNIST family, plain or gzipped."""
    image_size: int | None = None
    """Pixels to a side that images are brought to: scaled by the shorter side, then cut at the centre. By default 64,
    and MNIST and IDX files as they are."""
    patch_size: int | None = None
    """Pixels to a side of a patch, a divisor of the image size. By default the divisor nearest to a quarter of it."""
    epochs: int = Recipe.epochs
    """How often each training image is seen."""
    batch_size: int = Recipe.batch_size
    """Images a step."""
    learning_rate: float = Recipe.learning_rate
    """At its highest."""
    seed: int = 0
    """Of the weights, the order of the images and their augmentation. The same seed gives the same figures on the same
    machine."""
    out: Path = Path("vitrail-demo.png")
    """Where the picture goes: .png, .pdf or .svg."""


def run_demo(command: Demo) -> None:
    """Loads, trains, evaluates, draws, and says so."""
    started = time.perf_counter()
    # What is only needed at the end must not be missing then.
    require("matplotlib", extra="demo")
    check_out("out", command.out, _SUFFIXES)
    check_seed(command.seed)
    recipe = replace(
        Recipe(), epochs=command.epochs, batch_size=command.batch_size, learning_rate=command.learning_rate
    )
    size = None if command.image_size is None else (command.image_size, command.image_size)
    data = load_data(command.data, size)
    config = small_config(
        data,
        patch_size=command.patch_size,
        pool=command.pool,
        patch=command.patch,
        position=command.position,
        head=command.head,
    )
    build_key, fit_key = jax.random.split(jax.random.key(command.seed))
    # What does not fit shows in the shapes alone: nobody waits for a compiler to be told.
    check_classifier(eqx.filter_eval_shape(config.build, key=build_key), data)
    model = eqx.filter_jit(config.build)(key=build_key)

    say_data(data)
    print(
        f"ViT: {config.grid[0]} x {config.grid[1]} patches of {by(config.patch_size)}, width {config.size.dim}, depth "
        f"{config.size.depth}, pool {command.pool}, {count(model):,} parameters"
    )
    with progress_bar() as report:
        model = fit(model, data, recipe, key=fit_key, report=report)
    evaluation = evaluate(model, data)
    print(f"test accuracy: {evaluation.accuracy:.1%} ({evaluation.correct:,} of {len(data.test):,} held-out images)")
    draw_predictions(model, data, evaluation, command.out)
    print(f"picture: {command.out}")
    print(f"time: {time.perf_counter() - started:.0f} s")
