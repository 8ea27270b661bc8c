"""Images by where they are."""

from pathlib import Path

from ._data import DataError, Dataset
from ._folder import load_folder
from ._idx import holds_idx, load_idx


def load_images(folder: Path | str, *, image_size: tuple[int, int] | None = None) -> Dataset:
    """The images in a folder: those of the four IDX files where it holds any of them, else of one subfolder a class.

    **Arguments:**

    - `folder`: what `load_idx` or `load_folder` takes.
    - `image_size`: height and width to bring the images to; `None` leaves those of IDX files, and makes others 64 x 64.

    **Returns:**

    A `Dataset`.

    **Raises:** `DataError` where the folder is not there, and what the two raise.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(
            f"{folder} must be a folder, with one subfolder for each class or the four IDX files of the MNIST family, "
            f"but it is {'a file' if folder.exists() else 'not there'}"
        )
    if holds_idx(folder):
        return load_idx(folder, image_size=image_size)
    return load_folder(folder, image_size=(64, 64) if image_size is None else image_size)
