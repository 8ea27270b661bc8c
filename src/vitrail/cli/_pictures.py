"""What the commands that read or write pictures share."""

import json
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, TypeVar, cast

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8, UInt16

from .._check import join_names
from .._files import write_whole
from .._patched import PatchedImage, pack
from ..images import CLIP, HALF, IMAGENET, Preprocess, raise_problems
from ..model import ViTConfig
from ..weights.layouts import match_channels
from ._setup import check_out

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage
else:
    PILImage = object  # annotations are read when functions are defined, and Pillow may not be installed

_T = TypeVar("_T")
PICTURES: Final = MappingProxyType({".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"})
"""Pillow's formats of the pictures that are written, by the suffix of their names."""
PreprocessName = Literal["imagenet", "half", "clip"]
"""The ways to prepare images that a command can be told."""
_PREPROCESS: Final[Mapping[PreprocessName, Preprocess]] = MappingProxyType(
    {
        "imagenet": Preprocess("cover", "bicubic", *IMAGENET, crop=0.875),
        "half": Preprocess("squash", "bicubic", *HALF),
        "clip": Preprocess("cover", "bicubic", *CLIP),
    }
)


def choose_preprocess(name: PreprocessName | None, file: Path, config: ViTConfig) -> Preprocess:
    """How images are prepared: as the command says, or else the file.

    **Raises:** `ValueError` if neither does, or what the command says does not fit the channels.
    """
    if name is not None:
        preprocess = match_channels(_PREPROCESS[name], config.channels)
        if preprocess is None:
            raise ValueError(
                f"preprocess must be 'half' for images with {config.channels} channels, got {name!r}, which is for RGB"
            )
        return preprocess
    if config.preprocess is None:
        raise ValueError(
            f"preprocess is not known for {file}, neither from the file nor from the settings beside it: pass "
            f"--preprocess with one of {join_names(_PREPROCESS)}"
        )
    return config.preprocess


def read_picture(path: Path, use: Callable[[PILImage], _T], problems: list[str]) -> _T | None:
    """What a function makes of a picture; `None` after an error, which is added to `problems`."""
    from PIL import Image

    try:
        with _blame_image(path), Image.open(path) as picture:
            return use(picture)
    except OSError as error:
        problems.append(f"{error.filename}: {error.strerror}")
    except ValueError as error:
        problems.append(str(error))
    return None


def check_images(paths: Iterable[Path]) -> None:
    """Raises a `ValueError` that names each file that is not an image, before anything is computed."""
    problems: list[str] = []
    for path in paths:
        read_picture(path, lambda picture: picture.size, problems)
    raise_problems(problems)


@contextmanager
def _blame_image(image: Path) -> Generator[None, None, None]:
    """Turns any error of an image that is opened and prepared into one that names the file."""
    from PIL import Image

    try:
        yield
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise  # the message of the system names the file
        raise ValueError(f"{image} must be an image that Pillow can read, got an error: {error}") from error


def make_batch(
    preprocess: Preprocess, images: Sequence[Float[np.ndarray, "_height _width channels"]]
) -> Float[Array, "batch height width channels"] | PatchedImage:
    """What a model reads of several images: an array, or the patches of images that have their own sizes."""
    if preprocess.patch_size is None or preprocess.max_patches is None:
        return jnp.asarray(np.stack(images))
    return pack(images, preprocess.patch_size, preprocess.max_patches)


def check_picture(name: str, out: Path, images: Iterable[Path], suffixes: Iterable[str] = PICTURES) -> None:
    """Raises a `ValueError` if a picture, the argument `name`, cannot be written, or would be one of the images."""
    check_out(name, out, suffixes)
    if out.resolve() in (image.resolve() for image in images):
        raise ValueError(f"{name} must not be one of the images, got {out}: it would be overwritten")


def write_picture(
    pixels: UInt8[np.ndarray, "height width *rgb"] | UInt16[np.ndarray, "height width"], out: Path
) -> None:
    """Writes an array as a picture, in the format that the suffix of its name says."""
    from PIL import Image

    drawn = Image.fromarray(pixels)
    write_whole(out, lambda part: drawn.save(part, format=PICTURES[out.suffix]))


def parse_settings(text: str | None) -> dict[str, object] | None:
    """The settings of `--config`; `None` if there are none."""
    if text is None:
        return None
    try:
        settings: object = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"config must be a JSON object, got {text!r}: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"config must be a JSON object, got {text!r}")
    return cast("dict[str, object]", settings)
