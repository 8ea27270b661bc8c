"""How images are prepared for a checkpoint: what its library and its family say of it, checked and compared."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from ...images import CLIP as CLIP, HALF as HALF, IMAGENET as IMAGENET, Preprocess as Preprocess
from ...model import ViTConfig
from .._errors import CheckpointError

if TYPE_CHECKING:
    from ._checkpoint import Checkpoint
else:
    Checkpoint = object  # a checkpoint asks its layout, which asks this

UNIT: Final = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
"""Mean and deviation of a family that leaves pixels from 0 to 1."""
_Interpolation = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]
PILLOW: Final[Mapping[int, _Interpolation]] = MappingProxyType(
    {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
)
"""Pillow's interpolations by its numbers."""


def use_known_preprocess(checkpoint: Checkpoint, channels: int, known: Preprocess | None) -> Preprocess | None:
    """Uses what is known of the family, where nothing beside the weights says it."""
    found = match_channels(known, channels)
    if found is not None:
        checkpoint.assumed["preprocess"] = "that of the family"
    return found


def make_preprocess(
    path: Path,
    channels: int,
    fit: Any,
    interpolation: Any,
    mean: object,
    std: object,
    *,
    crop: object = 1.0,
    rescale: object = 1 / 255,
    **options: Any,
) -> Preprocess | None:
    """Makes a `Preprocess` of what a file says; `None` if that is not known, or not for images of so many channels.

    **Raises:** `CheckpointError` with the path of the file if it says what cannot be.
    """
    numbers = [_match_numbers(_read_numbers(path, given), channels) for given in (mean, std)]
    if interpolation is None or None in numbers:
        return None
    factor = 255 * read_number(path, rescale)
    if abs(factor - 1) > 1e-6:  # pixels that are not in [0, 1] are normalised as if they were
        numbers = [tuple(number / factor for number in cast("tuple[float, ...]", each)) for each in numbers]
    try:
        return Preprocess(fit, interpolation, *cast(Any, numbers), crop=read_number(path, crop), **options)
    except ValueError as error:
        raise CheckpointError(f"the preprocessing beside {path} is not possible: {error}") from error


def _read_numbers(path: Path, given: object) -> tuple[float, ...]:
    """The numbers of a list or a single one; none if it is something else."""
    if isinstance(given, list | tuple):
        return tuple(read_number(path, number) for number in cast("list[object]", given))
    return (float(given),) if isinstance(given, int | float) and not isinstance(given, bool) else ()


def read_number(path: Path, given: object) -> float:
    """Returns a number that a file must have."""
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise CheckpointError(f"the preprocessing beside {path} must have numbers, got {given!r}")
    return float(given)


def match_channels(preprocess: Preprocess | None, channels: int) -> Preprocess | None:
    """Returns `preprocess` for images of `channels` channels; `None` if its mean and deviation do not fit so many."""
    if preprocess is None:
        return None
    mean, std = (_match_numbers(numbers, channels) for numbers in (preprocess.mean, preprocess.std))
    if mean is None or std is None:
        return None
    return dataclasses.replace(preprocess, mean=cast(Any, mean), std=cast(Any, std))


def _match_numbers(numbers: Sequence[float], channels: int) -> tuple[float, ...] | None:
    """One number for each channel; `None` if the numbers do not say it.

    A single number counts for every channel, and so do equal ones.
    """
    if len(numbers) != channels and len(set(numbers)) == 1:
        return (numbers[0],) * channels
    return tuple(numbers) if len(numbers) == channels else None


def find_full_size(config: ViTConfig) -> tuple[int, int]:
    """The size that the library gives the images of a model, with the pixels that no patch reads."""
    preprocess = config.preprocess
    return config.image_size if preprocess is None else preprocess.compute_full_size(config.image_size)


def is_prepared_alike(ours: Preprocess | None, theirs: Preprocess | None, size: tuple[int, int]) -> bool:
    """Whether an image becomes the same in two ways, as far as a file can say it.

    A way that is not known is any. Where a crop begins at half a pixel belongs to the library.
    """
    if ours is None or theirs is None:
        return ours is None
    fixed = dataclasses.replace(theirs, crop=ours.crop, half_pixel=ours.half_pixel)
    return ours == fixed and ours.compute_scaled_size(size) == theirs.compute_scaled_size(size)
