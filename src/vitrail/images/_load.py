"""Loads images of any kind of folder."""

from pathlib import Path

from ._dataset import HELD_OUT, Dataset
from ._folder import load_folder
from ._idx import holds_idx, load_idx
from ._preprocess import Preprocess
from ._problems import DataError


def load_images(
    folder: Path | str,
    *,
    image_size: tuple[int, int] | None = None,
    preprocess: Preprocess | None = None,
    channels: int | None = None,
    seed: int = 0,
    held_out: float | Path | str = HELD_OUT,
    lazy: bool = False,
    skip_broken: bool = False,
) -> Dataset:
    """Loads the images of a folder, by `load_idx` if it has any of the four IDX files, by `load_folder` otherwise.

    **Arguments:**

    - `folder`: what `load_idx` or `load_folder` takes.
    - `image_size`: height and width of the images after resizing; `None` for 64 x 64, and no resizing of IDX files.
    - `preprocess`, `channels`, `seed`, `held_out`, `lazy`, `skip_broken`: as in `load_folder`. IDX files have their own
        division and are in memory.

    **Returns:**

    A `Dataset`.

    **Raises:** `DataError` if there is no such folder, and what `load_idx` and `load_folder` raise.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(
            f"{folder} must be a folder, with one subfolder for each class or the four IDX files of the MNIST family, "
            f"got {'a file' if folder.exists() else 'no such folder'}"
        )
    if holds_idx(folder):
        return load_idx(folder, image_size=image_size, preprocess=preprocess, channels=channels)
    size = (64, 64) if image_size is None else image_size
    return load_folder(
        folder,
        image_size=size,
        preprocess=preprocess,
        channels=channels,
        seed=seed,
        held_out=held_out,
        lazy=lazy,
        skip_broken=skip_broken,
    )
