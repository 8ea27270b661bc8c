"""`vitrail demo`: a small ViT learns real images before your eyes."""

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import equinox as eqx
import jax

from .._extras import require
from ..encoder import EncoderOptions, EncoderSize
from ..model import ViTConfig
from ..train import Dataset, Recipe, draw_predictions, evaluate, fit, load_images, load_mnist, progress_bar
from ..train._fit import check_classifier

_SIZE: Final = EncoderSize(dim=64, depth=4, num_heads=4, mlp_dim=128)
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
    if not command.out.parent.is_dir() or command.out.suffix not in _SUFFIXES:
        raise ValueError(
            f"out must end in {', '.join(_SUFFIXES)} and lie in a folder that is there, but {command.out} came"
        )
    if not 0 <= command.seed < 2**32:
        raise ValueError(f"seed must be in [0, 2**32), but {command.seed} came")
    recipe = replace(
        Recipe(), epochs=command.epochs, batch_size=command.batch_size, learning_rate=command.learning_rate
    )
    data = _load(command)
    config = _configure(command, data)
    build_key, fit_key = jax.random.split(jax.random.key(command.seed))
    # What does not fit shows in the shapes alone: nobody waits for a compiler to be told.
    check_classifier(eqx.filter_eval_shape(config.build, key=build_key), data)
    model = eqx.filter_jit(config.build)(key=build_key)

    print(
        f"{data.name}: {len(data.train):,} images to learn from, {len(data.test):,} held out, "
        f"{len(data.classes)} classes, {_by(data.image_size)}, {'grey' if data.channels == 1 else 'RGB'}"
    )
    print(
        f"ViT: {config.grid[0]} x {config.grid[1]} patches of {_by(config.patch_size)}, width {_SIZE.dim}, depth "
        f"{_SIZE.depth}, pool {command.pool}, {_count(model):,} parameters"
    )
    with progress_bar() as report:
        model = fit(model, data, recipe, key=fit_key, report=report)
    evaluation = evaluate(model, data)
    print(f"test accuracy: {evaluation.accuracy:.1%} ({evaluation.correct:,} of {len(data.test):,} held-out images)")
    draw_predictions(model, data, evaluation, command.out)
    print(f"picture: {command.out}")
    print(f"time: {time.perf_counter() - started:.0f} s")


def _load(command: Demo) -> Dataset:
    size = None if command.image_size is None else (command.image_size, command.image_size)
    if command.data is not None:
        return load_images(command.data, image_size=size)
    return load_mnist(image_size=size)


def _configure(command: Demo, data: Dataset) -> ViTConfig:
    height, width = data.image_size
    patch_size = (
        (_patch(height), _patch(width)) if command.patch_size is None else (command.patch_size, command.patch_size)
    )
    return ViTConfig(
        image_size=data.image_size,
        patch_size=patch_size,
        size=_SIZE,
        num_classes=len(data.classes),
        channels=data.channels,
        patch=command.patch,
        position=command.position,
        pool=command.pool,
        head=command.head,
        encoder=EncoderOptions(scan=False),  # 0.87 times the loop's time for a gradient of so small a model
        init="big_vision",
    )


def _patch(size: int) -> int:
    """The divisor nearest to a quarter, by ratio."""
    divisors = (n for n in range(1, size + 1) if size % n == 0)
    return min(divisors, key=lambda n: abs(math.log(4 * n / size)))


def _count(model: object) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_array)))


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
