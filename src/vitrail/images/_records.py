"""Images of any source that can be read at any place."""

import dataclasses
import operator
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from jaxtyping import Bool, Integer, Shaped

from .._files import count_cores
from ._dataset import HELD_OUT, Dataset, Examples, divide, hold_out
from ._pictures import Pictures
from ._preprocess import Preprocess
from ._problems import DataError
from ._resize import choose_channels, make_resizer


@runtime_checkable
class RecordSource(Protocol):
    """Anything with a length and random access, whose records are mappings with an `"image"`: a source or a
    `MapDataset` of grain, a data set of Hugging Face, a list."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: Any, /) -> Any: ...


def load_records(
    source: RecordSource,
    *,
    image_size: tuple[int, int],
    preprocess: Preprocess | None = None,
    channels: int | None = None,
    classes: tuple[str, ...] | None = None,
    labels: Integer[np.ndarray, " records"] | None = None,
    texts: Shaped[np.ndarray, " records"] | None = None,
    seed: int = 0,
    held_out: float | Bool[np.ndarray, " records"] = HELD_OUT,
) -> Dataset:
    """Loads images from any source with random access. They are decoded when they are read.

    !!! example

        ```python
        source = [{"image": photo, "label": 0}, {"image": other, "label": 1}, ...]  # of Pillow, or uint8
        data = images.load_records(source, image_size=(224, 224), classes=("cat", "dog"))
        ```

    **Arguments:**

    - `source`: the records. Each is a mapping with `"image"`, a Pillow picture or an array of uint8 with shape
        `(height, width, channels)` of any size, and with `"label"`, the number of its class, or `"text"`. Several
        threads read it.
    - `image_size`, `preprocess`, `channels`, `seed`: as in `load_images`.
    - `classes`: the names of the classes; `None` for their numbers.
    - `labels`, `texts`: the labels or texts of all records, if you have them. Without both, each record is read once to
        find them.
    - `held_out`: the share of each class that is held out, or a mask, true for each record to hold out.

    **Returns:**

    A `Dataset`.

    **Raises:** `DataError` that names a record with neither a label nor a text, or with one of another type; what
    `Dataset` and `hold_out` raise.
    """
    channels = choose_channels(preprocess, channels)
    if not len(source):
        raise DataError("source must have records, got none")
    if labels is None and texts is None:
        labels, texts = _read_labels(source)
    names = np.arange(len(source)).astype(np.bytes_)
    pictures = Pictures("record", names, image_size, make_resizer(preprocess, 1), source=source)
    resizer = make_resizer(preprocess, channels or (1 if pictures.are_grey(at_most=64) else 3))
    numbers = np.zeros(len(names), np.int32) if labels is None else labels
    examples = Examples(dataclasses.replace(pictures, preprocess=resizer), numbers, texts)
    mask = hold_out(numbers, seed=seed, share=held_out) if isinstance(held_out, int | float) else held_out
    if classes is None:
        classes = () if labels is None else tuple(map(str, range(int(labels.max()) + 1)))
    return divide(f"{len(source):,} records", examples, mask, classes, preprocess)


def _read_labels(
    source: RecordSource,
) -> tuple[Integer[np.ndarray, " records"] | None, Shaped[np.ndarray, " records"] | None]:
    def read(number: int) -> tuple[Any, Any]:
        record = source[number]
        if not isinstance(record, Mapping):
            raise DataError(f"record {number} must be a mapping with an 'image', got a {type(record).__name__}")
        label, text = (cast(Any, record).get(name) for name in ("label", "text"))
        try:
            label = None if label is None else operator.index(label)
        except TypeError as error:
            raise DataError(
                f"record {number} must have a whole number as its 'label', got {label!r}: pass its place in classes"
            ) from error
        if text is not None and not isinstance(text, str):
            raise DataError(f"record {number} must have a string as its 'text', got {text!r}")
        return label, text

    with ThreadPoolExecutor(count_cores()) as pool:
        found = list(pool.map(read, range(len(source))))
    columns: list[list[Any]] = [list(column) for column in zip(*found, strict=True)]
    has = [any(value is not None for value in column) for column in columns]
    for number, values in enumerate(found):
        if not any(has) or any(there and value is None for there, value in zip(has, values, strict=True)):
            raise DataError(
                f"each record must have an 'image' and a 'label' or a 'text', as the others have, got record {number} "
                "without"
            )
    return (
        np.array(columns[0], np.int64) if has[0] else None,
        np.array(columns[1], np.dtypes.StringDType()) if has[1] else None,
    )
