"""What the commands that read pictures share."""

import json
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, TypeVar, cast

from .._check import join_names
from ..images import CLIP, HALF, IMAGENET, Preprocess
from ..model import ViTConfig
from ..weights.layouts import match_channels

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage
else:
    PILImage = object  # annotations are read when functions are defined, and Pillow may not be installed

_T = TypeVar("_T")
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
