"""What the commands share: images, the small model of the demo, and formats."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from ..encoder import EncoderSize
from ..images import Dataset, Preprocess, load_images, load_mnist
from ..model import ViT, ViTConfig
from ..nn import Execution

SIZE: Final = EncoderSize(dim=64, depth=4, num_heads=4, mlp_dim=128)
EXECUTION: Final = Execution(scan=False)
"""A gradient of so small a model takes 0.87 times as long without the loop."""


def check_out(name: str, path: Path, suffixes: Iterable[str]) -> None:
    """Raises a `ValueError` if no such file can be written there, before any work is done."""
    if path.suffix not in suffixes or not path.parent.is_dir():
        raise ValueError(f"{name} must end in {', '.join(suffixes)} and be in a folder that exists, got {path}")


def check_data(folder: Path | None) -> None:
    """Raises what loading its images raises if there is no such folder, before a model is loaded."""
    if folder is not None and not folder.is_dir():
        load_images(folder)


def load_data(
    folder: Path | None,
    size: tuple[int, int] | None,
    preprocess: Preprocess | None = None,
    channels: int | None = None,
    **options: Any,
) -> Dataset:
    """Loads the images of a folder, with more arguments of `load_images`, or digits of MNIST."""
    if folder is None:
        return load_mnist(image_size=size, preprocess=preprocess, channels=channels)
    return load_images(folder, image_size=size, preprocess=preprocess, channels=channels, **options)


def load_data_for(model: ViT, folder: Path | None, **options: Any) -> Dataset:
    """Loads the images of a folder, or digits of MNIST, prepared for a model."""
    preprocess = model.config.preprocess
    if preprocess is None:
        print("preprocess: not known for the weights, so the normalisation is measured on the training images")
    elif preprocess.fit in ("pad", "keep", "native"):
        print("preprocess: images are squashed, because those of a data set have one size and no padding")
        preprocess = preprocess.squash()
    return load_data(folder, model.config.image_size, preprocess, model.config.channels, **options)


def make_small_config(
    data: Dataset,
    *,
    patch_size: int | None,
    pool: str,
    patch: str = "conv",
    position: str = "learned",
    head: str = "linear",
) -> ViTConfig:
    """The configuration of the demo's model for these images."""
    height, width = data.image_size
    return ViTConfig(
        image_size=data.image_size,
        patch_size=(_choose_patch(height), _choose_patch(width)) if patch_size is None else (patch_size, patch_size),
        size=SIZE,
        num_classes=len(data.classes) or None,
        channels=data.channels,
        patch=patch,
        position=position,
        pool=pool,
        head=head if data.classes else "none",
        init="big_vision",
        preprocess=data.preprocess,
    )


def print_data(data: Dataset) -> None:
    """Prints a line about the images, and one for each that was left out."""
    for problem in data.skipped:
        print(f"left out: {problem}")
    lost = f", {len(data.skipped):,} left out" if data.skipped else ""
    without = "no labels" if data.train.texts is None else "texts"
    labels = f"{len(data.classes)} classes" if data.classes else without
    print(
        f"{data.name}: {len(data.train):,} images to learn from, {len(data.test):,} held out{lost}, "
        f"{labels}, {format_size(data.image_size)}, {'grey' if data.channels == 1 else 'RGB'}"
    )


def format_size(size: tuple[int, int]) -> str:
    """Writes a size as `28 x 28`."""
    return f"{size[0]} x {size[1]}"


def _choose_patch(size: int) -> int:
    """The divisor of a size whose ratio to a quarter of it is nearest to one."""
    divisors = (n for n in range(1, size + 1) if size % n == 0)
    return min(divisors, key=lambda n: abs(math.log(4 * n / size)))
