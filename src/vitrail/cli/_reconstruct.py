"""`vitrail reconstruct`: what a masked autoencoder makes of pictures."""

import math
from dataclasses import dataclass
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._check import check_seed
from .._extras import require
from ..images import raise_problems
from ..show import SUFFIXES, draw_reconstructions
from ..systems import MaskedAutoencoder, choose_patches
from ..train import check_outputs
from ._options import LoadOptions
from ._pictures import PreprocessName, check_images, check_picture, choose_preprocess, read_picture


@dataclass(frozen=True)
class Reconstruct(LoadOptions):
    """Hides patches of images at random and draws what a masked autoencoder (MAE) predicts."""

    file: Path
    """A MAE with its decoder: a safetensors file, an index of several, or a folder with one."""
    image: Path
    """An image file."""
    more_images: tuple[Path, ...]
    """More image files."""
    out: Path = Path("vitrail-reconstruction.png")
    """The picture to write: .png, .pdf or .svg."""
    ratio: float = 0.75
    """The fraction of the patches to hide."""
    seed: int = 0
    """The seed of the random choice of patches."""
    preprocess: PreprocessName | None = None
    """How to prepare images, as for `vitrail predict`."""


def run_reconstruct(command: Reconstruct) -> None:
    """Loads a masked autoencoder and pictures, and draws."""
    require("PIL", extra="weights")
    require("matplotlib", extra="demo")
    paths = (command.image, *command.more_images)
    check_picture("out", command.out, paths, SUFFIXES)
    check_seed(command.seed)
    check_images(paths)
    config = command.check_kind(
        command.file, "mae", "MAE with its decoder to reconstruct images", "pass a checkpoint of pre-training"
    ).config
    preprocess = choose_preprocess(command.preprocess, command.file, config)
    choose_patches(jnp.zeros(math.prod(config.grid)), command.ratio)  # raises for a ratio that hides all or none
    model: MaskedAutoencoder = command.load_model(command.file)
    problems: list[str] = []
    images = [read_picture(path, lambda picture: preprocess(picture, config.image_size), problems) for path in paths]
    raise_problems(problems)
    keys = jax.random.split(jax.random.key(command.seed), len(images))
    reconstruct = eqx.filter_jit(model.reconstruct)
    found = [image for image in images if image is not None]
    results = [reconstruct(image, command.ratio, key=key) for image, key in zip(found, keys, strict=True)]
    check_outputs("pixels", np.stack([np.asarray(result.pixels) for result in results]))
    for path, result in zip(paths, results, strict=True):
        print(f"{path}: {int(np.sum(result.masked))} of {result.masked.size} patches hidden, loss {result.loss:.4f}")
    draw_reconstructions(model, found, results, command.out, preprocess=preprocess)
    print(f"picture: {command.out}")
