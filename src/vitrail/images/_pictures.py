"""Image files that are decoded when they are read."""

import io
import os
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
from jaxtyping import Int, Shaped, UInt8

from .._check import check_positive
from .._extras import require
from .._files import count_cores
from ._open import check_image, is_whole_jpeg, load_pixels, make_decode_error, open_image, resize_image
from ._picture import GREY_MODES, from_array, to_picture
from ._preprocess import Preprocess
from ._problems import DataError, raise_problems
from ._span import open_span, read_ends

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage
else:
    PILImage = object  # annotations are read when functions are defined, and Pillow may not be installed

_CHUNK: Final = 256
"""How many files a thread reads before it takes others."""
_SHARD: Final = ".tar/"
"""What is between the name of a tar file and that of a picture in it."""


@final
@dataclass(frozen=True, eq=False)
class Pictures:
    """Image files, or records of a source, that are decoded when they are read, in place of an array of all images.

    Index it with a slice, indices or a mask to read those images as an array. It reads in as many threads as the
    machine has cores. Only the names of the files are in memory.

    !!! example

        ```python
        pictures = images.Pictures("photos", ["a.jpg", "b.png"], (224, 224), preprocess)
        pixels = pictures[:2]
        ```
    """

    folder: Path
    """The folder of the files."""
    names: Shaped[np.ndarray, " images"]
    """The path of each file within the folder, as bytes, such as `cat/1.jpg`. For a picture in a tar file it begins
    with that of the tar file, as `0.tar/1.jpg`. For a record it is its number."""
    image_size: tuple[int, int]
    """Height and width of the images after resizing."""
    preprocess: Preprocess
    """How the images are resized, and how many channels they have."""
    spans: Int[np.ndarray, "images 2"] | None = None
    """For pictures in tar files: the first byte of each picture and its number of bytes. `None` for other files."""
    source: Any = None
    """The source of the records: `source[number]["image"]` is a picture. `None` for files."""

    def __init__(
        self,
        folder: Path | str,
        names: Sequence[str] | Shaped[np.ndarray, " images"],
        image_size: tuple[int, int],
        preprocess: Preprocess,
        spans: Int[np.ndarray, "images 2"] | None = None,
        source: Any = None,
    ) -> None:
        require("PIL", extra="train")
        check_positive(image_size=image_size)
        listed = names if isinstance(names, np.ndarray) else np.array([os.fsencode(name) for name in names], np.bytes_)
        fields = {"folder": Path(folder), "names": listed, "image_size": image_size, "preprocess": preprocess}
        for name, value in (*fields.items(), ("spans", spans), ("source", source)):
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return f"<Pictures: {len(self):,} files in {self.folder}, read as {' x '.join(map(str, self.shape[1:]))}>"

    def __len__(self) -> int:
        return len(self.names)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape of the array of all images: their number, height, width and channels."""
        return len(self), *self.image_size, self.preprocess.channels

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        """The dtype of the pixels: uint8."""
        return np.dtype(np.uint8)

    def __getitem__(
        self, which: int | slice | Shaped[np.ndarray, " chosen"]
    ) -> UInt8[np.ndarray, "*chosen height width channels"]:
        """Reads some images.

        **Arguments:**

        - `which`: a number, a slice, indices or a mask.

        **Returns:**

        The pixels of the images, resized, in [0, 255]. For a number, those of one image, without the first axis.

        **Raises:** `DataError` that names each of them that cannot be decoded.
        """
        chosen = slice(which, which + 1 or None) if isinstance(which, int) else which
        pixels, broken = self.select(chosen).read()
        raise_problems(list(broken.values()))
        return pixels[0] if isinstance(which, int) else pixels

    def select(self, which: slice | Shaped[np.ndarray, " chosen"]) -> "Pictures":
        """Selects pictures without reading them.

        **Arguments:**

        - `which`: a slice, indices or a mask.

        **Returns:**

        The selected pictures.
        """
        spans = None if self.spans is None else self.spans[which]
        return replace(self, names=self.names[which], spans=spans)

    def read(self) -> tuple[UInt8[np.ndarray, "images height width channels"], dict[int, str]]:
        """Reads all images.

        **Returns:**

        The images, and what is wrong with each one that cannot be decoded, by its number. Its pixels have no meaning.
        """
        pixels = np.empty(self.shape, np.uint8)

        def read(index: int) -> None:
            with self._open(index) as image:
                pixels[index] = resize_image(self.get_path(index), image, self.preprocess, self.image_size)

        return pixels, _collect(read, range(len(self)))

    def find_broken(self, *, decode: bool = False) -> dict[int, str]:
        """Finds files that are broken.

        **Arguments:**

        - `decode`: whether each file is decoded. Otherwise its header and its end are read, and it is decoded only if
            the end is not that of its format. This is quick, and finds files of another kind and truncated files, but
            not all damage in the middle. Of a source, 64 records are read.

        **Returns:**

        What is wrong with each broken file, by its number.
        """

        def check(index: int) -> None:
            if self.source is not None:
                self.open(index)
                return
            with self._open_file(index) as file:
                if decode or not is_whole_jpeg(self.names[index], file):
                    file.seek(0)
                    check_image(self.get_path(index), file, decode=decode)

        few = self.source is not None and not decode
        return _collect(check, pick_evenly(len(self), 64).tolist() if few else range(len(self)))

    def measure_sizes(self) -> Int[np.ndarray, " images"]:
        """The number of bytes of each file; -1 for one that cannot be found."""
        if self.spans is not None:
            return self.spans[:, 1]
        folder = os.fsencode(self.folder)

        def measure(name: bytes) -> int:
            try:
                return os.stat(folder + b"/" + name).st_size
            except OSError:
                return -1

        return np.fromiter(map(measure, self.names.tolist()), np.int64, len(self))

    def read_ends(self, which: Int[np.ndarray, " chosen"], at_most: int | None) -> list[bytes]:
        """**Arguments:**

        - `which`: the numbers of some files.
        - `at_most`: how many bytes of each are read; `None` for all.

        **Returns:**

        The last bytes of each file; none, if it cannot be read.
        """
        folder = os.fsencode(self.folder) + b"/"
        names: list[bytes] = self.names[which].tolist()
        if self.spans is None:
            return [content for name in names for content in read_ends(folder + name, [None], at_most)]
        tar = os.fsencode(_SHARD)
        found: list[bytes] = []
        spans = zip(names, self.spans[which].tolist(), strict=True)
        for shard, group in groupby(spans, lambda pair: pair[0].partition(tar)[0]):  # each is opened once
            found += read_ends(folder + shard + tar[:-1], [span for _, span in group], at_most)
        return found

    def are_grey(self, *, at_most: int | None = None) -> bool:
        """Finds out whether all pictures are grey.

        **Arguments:**

        - `at_most`: how many headers are read, evenly spaced; `None` for all.

        **Returns:**

        Whether those are grey. A file that cannot be opened counts as grey: its error is reported when it is read.
        """
        some = pick_evenly(len(self), at_most or len(self))
        coloured = np.zeros(len(some), bool)

        def check(place: int) -> None:
            number = int(some[place])
            with self._open(number) as image:
                coloured[place] = image.mode not in GREY_MODES

        _collect(check, range(len(some)))
        return not coloured.any()

    def open(self, index: int) -> PILImage:
        """Opens one picture at its own size.

        **Arguments:**

        - `index`: the number of the picture.

        **Returns:**

        A Pillow picture, with the orientation in EXIF applied, grey or RGB as `preprocess` has one or three channels.

        **Raises:** `DataError` if it cannot be decoded.
        """
        path = self.get_path(index)
        with self._open(index) as image:
            load_pixels(path, image)
            try:
                return to_picture(image, self.preprocess.channels)
            except ValueError as error:
                raise DataError(f"{path}: {error}") from error

    def get_path(self, index: int) -> Path:
        """Returns where a picture is.

        **Arguments:**

        - `index`: the number of the picture.

        **Returns:**

        The path of its file. In a tar file: the path of the tar file, followed by the name of the picture in it.
        """
        return self.folder / os.fsdecode(self.names[index])

    @contextmanager
    def _open(self, index: int) -> Generator[PILImage]:
        """One picture, not decoded if it is in a file."""
        if self.source is not None:
            yield self._read_record(index)
            return
        with self._open_file(index) as file, open_image(self.get_path(index), file) as image:
            yield image

    def _read_record(self, index: int) -> PILImage:
        from PIL import Image

        try:
            image: Any = self.source[int(self.names[index])]["image"]
            return image if isinstance(image, Image.Image) else from_array(np.asarray(image))
        except Exception as error:  # of a user's own source
            raise DataError(
                f"{self.get_path(index)} must have an 'image' of uint8 or of Pillow, got an error: "
                f"{type(error).__name__}: {error}"
            ) from error

    def _open_file(self, index: int) -> io.BufferedIOBase:
        folder, name = os.fspath(self.folder), os.fsdecode(self.names[index])  # a Path takes half of the time to open
        try:
            if self.spans is None:
                return open(os.path.join(folder, name), "rb")
            begin, size = self.spans[index].tolist()
            shard, tar, _ = name.partition(_SHARD)
            return open_span(os.path.join(folder, shard + tar[:-1]), begin, size)
        except OSError as error:
            raise make_decode_error(self.get_path(index), error) from error


def pick_evenly(length: int, at_most: int) -> Int[np.ndarray, " chosen"]:
    """Some of the numbers below a length, at equal distances."""
    return np.linspace(0, length - 1, min(length, at_most)).round().astype(np.int64)


def _collect(function: Callable[[int], object], numbers: Sequence[int]) -> dict[int, str]:
    """Calls a function for each number in as many threads as there are cores, and returns its errors by number."""

    def call(start: int) -> dict[int, str]:
        errors: dict[int, str] = {}
        for number in numbers[start : start + size]:
            try:
                function(number)
            except DataError as error:
                errors[number] = str(error)
        return errors

    # A task for each of a million files would take a gigabyte.
    size = min(_CHUNK, max(1, len(numbers) // (4 * count_cores())))
    with ThreadPoolExecutor(count_cores()) as pool:
        return {
            number: error for each in pool.map(call, range(0, len(numbers), size)) for number, error in each.items()
        }
