"""What the commands share: which images, which small model, and how numbers are said."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import equinox as eqx
import jax

from ..encoder import EncoderOptions, EncoderSize
from ..model import ViTConfig
from ..train import Dataset, load_images, load_mnist

SIZE: Final = EncoderSize(dim=64, depth=4, num_heads=4, mlp_dim=128)


def check_seed(seed: int) -> None:
    """Raises a `ValueError` where a seed does not fit into 32 bits."""
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be in [0, 2**32), but {seed} came")


def check_out(name: str, path: Path, suffixes: Iterable[str]) -> None:
    """Raises a `ValueError` where no file of these kinds can be written there, before any work is done for it."""
    if path.suffix not in suffixes or not path.parent.is_dir():
        raise ValueError(f"{name} must end in {', '.join(suffixes)} and lie in a folder that is there, but {path} came")


def load_data(folder: Path | None, size: tuple[int, int] | None) -> Dataset:
    """The images of a folder, or the digits that come with a package."""
    return load_mnist(image_size=size) if folder is None else load_images(folder, image_size=size)


def small_config(
    data: Dataset,
    *,
    patch_size: int | None,
    pool: str,
    patch: str = "conv",
    position: str = "learned",
    head: str = "linear",
) -> ViTConfig:
    """The demo's model for these images."""
    height, width = data.image_size
    return ViTConfig(
        image_size=data.image_size,
        patch_size=(_patch(height), _patch(width)) if patch_size is None else (patch_size, patch_size),
        size=SIZE,
        num_classes=len(data.classes),
        channels=data.channels,
        patch=patch,
        position=position,
        pool=pool,
        head=head,
        encoder=EncoderOptions(scan=False),  # 0.87 times the loop's time for a gradient of so small a model
        init="big_vision",
    )


def say_data(data: Dataset) -> None:
    """Prints what the images are."""
    print(
        f"{data.name}: {len(data.train):,} images to learn from, {len(data.test):,} held out, "
        f"{len(data.classes)} classes, {by(data.image_size)}, {'grey' if data.channels == 1 else 'RGB'}"
    )


def count(model: object) -> int:
    """How many parameters there are."""
    return sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_array)))


def by(size: tuple[int, int]) -> str:
    """`28 x 28`."""
    return f"{size[0]} x {size[1]}"


def _patch(size: int) -> int:
    """The divisor nearest to a quarter, by ratio."""
    divisors = (n for n in range(1, size + 1) if size % n == 0)
    return min(divisors, key=lambda n: abs(math.log(4 * n / size)))
