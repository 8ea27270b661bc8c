"""`vitrail look`: what a model sees in pictures."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .._extras import require
from ..images import raise_problems
from ..show import SUFFIXES, draw_look
from ._options import LoadOptions
from ._pictures import PreprocessName, check_images, check_picture, choose_preprocess, read_picture

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage
else:
    PILImage = object  # annotations are read when functions are defined, and Pillow may not be installed


@dataclass(frozen=True)
class Look(LoadOptions):
    """Draws the principal components of patch tokens and the attention of each head.

    The components are those of all pictures together, so that colours are comparable. The attention is that of the last
    block.
    """

    file: Path
    """A safetensors or npz file, an index of several, or a folder with one."""
    image: Path
    """An image file."""
    more_images: tuple[Path, ...]
    """More image files."""
    out: Path = Path("vitrail-look.png")
    """The picture to write: .png, .pdf or .svg."""
    image_size: int | None = None
    """The height and width in pixels at which the model reads the images, a multiple of its patch size. More pixels
    give finer maps. Default: the size of the model."""
    foreground: bool = False
    """Compute the components of the foreground only. The first component separates it from the background."""
    preprocess: PreprocessName | None = None
    """How to prepare images, as for `vitrail predict`."""


def run_look(command: Look) -> None:
    """Loads a model and pictures, and draws."""
    require("PIL", extra="weights")
    require("matplotlib", extra="demo")
    paths = (command.image, *command.more_images)
    check_picture("out", command.out, paths, SUFFIXES)
    check_images(paths)
    card = command.check_size(command.file, command.image_size)
    preprocess = choose_preprocess(command.preprocess, command.file, card.config)
    model = command.load_model(command.file, part="image", image_size=command.image_size)
    size = model.config.image_size

    def decode(picture: PILImage) -> PILImage:
        preprocess(picture, size)  # an error here names the file
        return picture.copy()

    problems: list[str] = []
    pictures = [read_picture(path, decode, problems) for path in paths]
    raise_problems(problems)
    draw_look(model, pictures, command.out, preprocess=preprocess, foreground=command.foreground)
    print(f"picture: {command.out}")
