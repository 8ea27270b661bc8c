"""The map that a model of dense prediction makes of a picture, as a picture."""

import math
from typing import TYPE_CHECKING, Final

import equinox as eqx
import numpy as np
from jaxtyping import Int, UInt8

from ..images import Preprocess
from ..show import choose_classes, draw_classes, draw_depth, resize_depth
from ..systems import Dense
from ..train import check_outputs

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage
else:
    PILImage = object  # annotations are read when functions are defined, and Pillow may not be installed

_MOST_PATCHES: Final = 2**14


def predict_map(
    model: Dense, preprocess: Preprocess, picture: PILImage, *, top: int
) -> tuple[list[str], UInt8[np.ndarray, "height width 3"]]:
    """Describes the map of an upright picture in words, and draws it in colours at the size of the picture.

    **Raises:** `ValueError` if the picture is so narrow that scaling it gives too many patches, and what preparing it
    raises; `FloatingPointError` if the map is not finite.
    """
    config, size = model.config.image, (picture.height, picture.width)
    pixels = _keep_whole(preprocess, config.patch_size)(picture, model.config.picture_size or config.image_size)
    height, width, _ = pixels.shape
    if height * width > _MOST_PATCHES * math.prod(config.patch_size):
        raise ValueError(
            f"image must be less narrow, got {size[0]} x {size[1]} pixels, which are scaled to {height} x {width}: "
            "crop it"
        )
    resized = model if (height, width) == config.image_size else model.resized((height, width))
    found = np.asarray(eqx.filter_jit(resized)(pixels))
    check_outputs("the map", found[None])
    if model.config.num_classes is None:
        depth = resize_depth(found, size)
        return [f"{size[0]} x {size[1]} pixels from {depth.min():.4g} to {depth.max():.4g}"], draw_depth(depth)
    classes = choose_classes(found, size)
    return _describe_classes(model, classes, top), draw_classes(classes)


def _keep_whole(preprocess: Preprocess, patch_size: tuple[int, int]) -> Preprocess:
    """A preprocessing that cuts or pads pictures, changed so that each pixel is in the map: the proportions stay."""
    if preprocess.crop == 1 and preprocess.fit in ("keep", "squash") and preprocess.unread == (0, 0):
        return preprocess
    given = preprocess.interpolation, preprocess.mean, preprocess.std
    if preprocess.fit == "squash" or patch_size[0] != patch_size[1]:
        return Preprocess("squash", *given)
    return Preprocess("keep", *given, multiple=patch_size[0])


def _describe_classes(model: Dense, classes: Int[np.ndarray, "height width"], top: int) -> list[str]:
    """The shares of the classes that most pixels have."""
    names, number = model.config.classes, model.config.num_classes or 1
    shares = np.bincount(classes.ravel(), minlength=number) / classes.size
    width = len(str(number - 1))
    most = [int(n) for n in np.argsort(-shares, kind="stable")[:top] if shares[n] > 0]
    return [f"{shares[n]:6.1%}  class {n:>{width}}{'' if names is None else f'  {names[n]}'}" for n in most]
