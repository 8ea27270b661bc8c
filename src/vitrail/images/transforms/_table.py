"""The transforms by name, and several of them, one after the other."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import jax
import numpy as np
from jaxtyping import UInt8

from ..._check import describe_value
from ..._extras import require
from ..._registry import Registry
from ..._spec import PartSpec
from ._base import AbstractTransform, PILImage, TransformContext, TransformFactory, to_pixels
from ._color_jitter import ColorJitter
from ._horizontal_flip import HorizontalFlip
from ._multi_crop import MultiCrop
from ._rand_augment import RandAugment
from ._random_erasing import RandomErasing
from ._random_resized_crop import RandomResizedCrop
from ._three_augment import ThreeAugment

TRANSFORMS: Final[Registry[AbstractTransform, TransformContext]] = Registry(
    "transform",
    group="vitrail.transforms",
    part=AbstractTransform,
    context=TransformContext,
    builtins={
        "random_resized_crop": RandomResizedCrop,
        "horizontal_flip": HorizontalFlip,
        "color_jitter": ColorJitter,
        "rand_augment": RandAugment,
        "three_augment": ThreeAugment,
        "random_erasing": RandomErasing,
        "multi_crop": MultiCrop,
    },
)
"""The transforms by name. Other packages add to it in the entry-point group `vitrail.transforms`."""


def make_transforms(
    choices: Sequence[str | PartSpec | TransformFactory], context: TransformContext
) -> tuple[AbstractTransform, ...]:
    """Builds the transforms of a recipe.

    **Arguments:**

    - `choices`: names of `TRANSFORMS`, names with options, or classes, as in `Recipe.transforms`.
    - `context`: the sizes and the preprocessing of the images.

    **Returns:**

    The transforms, in the same order.

    **Raises:** what `TRANSFORMS.build` raises; `ValueError` if one that makes crops is not the last;
    `MissingExtraError` if Pillow is not installed.
    """
    require("PIL", extra="train")
    made = tuple(TRANSFORMS.build(choice, context, key=jax.random.key(0)) for choice in choices)
    for choice, transform in zip(choices[:-1], made, strict=False):
        if transform.makes_crops:
            raise ValueError(
                f"{TRANSFORMS.describe(choice)} must be the last of the transforms, because it makes several images, "
                f"got {len(made)} transforms: move it to the end"
            )
    return made


def augment(
    image: PILImage, transforms: Sequence[AbstractTransform], *, random: np.random.Generator
) -> Mapping[str, UInt8[np.ndarray, "*crops height width channels"]]:
    """Changes a picture by one transform after the other.

    **Arguments:**

    - `image`: a Pillow picture, grey or RGB.
    - `transforms`: the transforms, in order.
    - `random`: NumPy's generator, for all that is random.

    **Returns:**

    The pixels in [0, 255]: `"image"`, or the arrays of crops that the last transform made, with a first axis for the
    crops.

    **Raises:** `TypeError` if a transform returns something else.
    """
    from PIL import Image

    for transform in transforms:
        made: Any = transform(image, random=random)
        if isinstance(made, Mapping):
            return cast("Mapping[str, UInt8[np.ndarray, '...']]", made)
        if not isinstance(made, Image.Image):
            raise TypeError(
                f"{type(transform).__name__} must return a picture of Pillow, or arrays by name, got "
                f"{describe_value(made)}"
            )
        image = made
    return {"image": to_pixels(image)}
