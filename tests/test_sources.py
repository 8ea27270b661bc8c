"""Images in tar files, with texts, and of any source: as in files of their own, and the errors that name them."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grain
import numpy as np
import pytest
from PIL import Image

from vitrail import images
from vitrail.images import DataError

Files = dict[str, bytes]
PREPROCESS = images.Preprocess("squash", "bilinear", *images.HALF)


def encode(seed: int, suffix: str = "png", size: tuple[int, int] = (12, 16)) -> bytes:
    rng = np.random.default_rng(seed)
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(file, {"jpg": "jpeg"}.get(suffix, suffix))
    return file.getvalue()


def write_tar(path: Path, files: Files, *, format: int = tarfile.PAX_FORMAT) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def make_samples(
    numbers: range, label: Callable[[int], str], suffix: str = ".cls", size: tuple[int, int] = (12, 16)
) -> Files:
    return {
        f"{i:04d}{end}": content
        for i in numbers
        for end, content in ((".png", encode(i, size=size)), (suffix, label(i).encode()))
    }


def read_tars(folder: Path) -> dict[str, bytes]:
    """All members of all tar files, by tarfile."""
    found: dict[str, bytes] = {}
    for path in sorted(folder.rglob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar.getmembers():
                file = tar.extractfile(member)
                assert file is not None
                found[f"{path.name}/{member.name}"] = file.read()
    return found


def names_of(examples: images.Examples) -> list[str]:
    assert isinstance(examples.images, images.Pictures)
    return [name.decode() for name in examples.images.names]


@pytest.mark.parametrize(
    ("format", "size"),
    [(tarfile.PAX_FORMAT, (12, 16)), (tarfile.GNU_FORMAT, (150, 160)), (tarfile.USTAR_FORMAT, (8, 8))],
)
def test_pictures_of_shards_are_those_that_tarfile_reads(tmp_path: Path, format: int, size: tuple[int, int]):
    far = "a folder/" * (12 if format == tarfile.USTAR_FORMAT else 30)  # what ustar divides, or does not have
    names = ("cat", "dog")
    first = make_samples(range(6), lambda i: f"{names[i % 2]}\n", size=size)
    first |= {"0000.seg.png": b"no picture", "._0000.png": b"a Mac's", "README": b"words"}
    second = {f"{far}é{i}.JPG": encode(i, "jpg", size) for i in range(4)}
    second |= {f"{far}é{i}.json": json.dumps({"label": names[i % 2], "width": 16}).encode() for i in range(4)}
    write_tar(tmp_path / "0.tar", first, format=format)
    write_tar(tmp_path / "1.tar", second, format=format)
    (tmp_path / "stats.json").write_text("{}")
    expected = read_tars(tmp_path)
    data = images.load_images(tmp_path, image_size=size, held_out=0.3, lazy=True)
    data.check_files()
    assert data.classes == names
    assert data.train.texts is None
    assert sorted(names_of(data.train) + names_of(data.test)) == sorted(
        name for name in expected if name.lower().endswith((".png", ".jpg")) and "seg" not in name and "._" not in name
    )
    for part in (data.train, data.test):
        for place, name in enumerate(names_of(part)):
            with Image.open(io.BytesIO(expected[name])) as image:
                assert np.array_equal(part.images[place], np.asarray(image))
                assert np.array_equal(part.open(place), image)
            assert part.labels[place] == int(name.partition(".tar/")[2].split(".")[0][-1]) % 2
    eager = images.load_images(tmp_path, image_size=size, held_out=0.3, lazy=False)
    assert np.array_equal(eager.train.images, data.train.images[:])


def test_labels_are_numbers_or_names(tmp_path: Path):
    for name, numbers in (("train", range(6)), ("val", range(6, 8))):
        write_tar(tmp_path / name / "0.tar", make_samples(numbers, lambda i: f"{3 * (i % 2):02d}"))
    data = images.load_images(tmp_path)
    assert data.classes == ("0", "1", "2", "3")
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == ([0, 3, 0, 3, 0, 3], [0, 3])
    assert data.name == f"{tmp_path} (train and val)"
    write_tar(tmp_path / "train" / "1.tar", make_samples(range(8, 16), lambda i: "a 3"))
    assert images.load_images(tmp_path).classes == ("00", "03", "a 3")


def test_texts_of_shards(tmp_path: Path):
    files = make_samples(range(5), lambda i: f"a picture of {i}\n", ".txt")
    write_tar(tmp_path / "0.tar", files | {"0003.json": b'{"caption": "another"}'})
    data = images.load_images(tmp_path)
    assert data.classes == ()
    assert data.train.texts is not None
    assert data.test.texts is not None
    assert sorted([*data.train.texts, *data.test.texts]) == [f"a picture of {i}" for i in range(5)]
    assert len(data.test) == 1
    write_tar(tmp_path / "0.tar", files | make_samples(range(5), lambda i: "cat" if i < 2 else "dog"))
    both = images.load_images(tmp_path)
    assert both.classes == ("cat", "dog")
    assert both.train.texts is not None
    assert "with texts" in repr(both)


def _replace(changes: dict[str, Any]) -> Callable[[Path], object]:
    def damage(path: Path) -> None:
        files = make_samples(range(6), lambda i: "ab"[i % 2])
        kept = {name: content for name, content in (files | changes).items() if content is not None}
        write_tar(path, kept)

    return damage


def _change(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(("damage", "sentence"), [
    (_replace({"0002.cls": None}), "0.tar/0002.png must have a .cls beside it, got none"),
    (_replace({"0002.png": None}), "0.tar/0002 must have an image beside its '.cls', got none"),
    (_replace({"0002.jpg": b"two"}), "0.tar/0002.jpg must be there once, got another image of that name"),
    (_replace({"0002.cls": b"\xff"}), "0.tar/0002 must have JSON and texts in UTF-8"),
    (_replace({"0002.cls": None, "0002.json": b"{"}), "0.tar/0002 must have JSON and texts in UTF-8"),
    (_replace({"0002.cls": b"c"}), "at least 2 images of each class, so that one can be held out, got 1 of 'c'"),
    (_replace({f"{i:04d}.cls": b"a" for i in range(6)}), "at least two classes, got 'a'"),
    (_replace({f"{i:04d}.cls": None for i in range(6)}), "0005.png must have a .txt beside it, got none"),
    (_replace({f"{i:04d}.cls": b"%d" % (i % 2 * 10**7) for i in range(6)}), "labels below 1,000,000, got 10,000,000"),
    (lambda path: write_tar(path, {"a.cls": b"a"}), "0.tar/a must have an image beside its '.cls', got none"),
    (lambda path: write_tar(path, {}), "must have tar files with images (.jpg, .jpeg, .png, .webp), got none"),
    (lambda path: path.write_bytes(b"words" * 1000), "0.tar must be a whole tar file, got an error"),
    (lambda path: path.write_bytes(b""), "0.tar must be a whole tar file, got an error: empty file"),
    (_change(lambda content: content[: len(content) // 2]), "0.tar must be a whole tar file, got an error"),
    (_change(lambda content: content[:2560]), "there is no end, nor a header, at byte 2560"),
    (_change(lambda content: content[:1536] + b"x" * 512 + content[2048:]), "nor a header, at byte 1536"),
    (_change(lambda content: content + content), "nor a header, at byte"),
    (lambda path: (path.parent / "cat").mkdir(), "must have tar files or folders, got both: move 'cat' elsewhere"),
    (lambda path: _replace({})(path.parent / "train" / "0.tar"), "images itself or in its folder 'train', got both"),
    (lambda path: path.with_suffix(".tar.gz").write_bytes(b""), "is packed, so its pictures cannot be read one by one"),
])  # fmt: skip
def test_a_bad_shard_is_named(tmp_path: Path, damage: Callable[[Path], object], sentence: str):
    path = tmp_path / "0.tar"
    _replace({})(path)
    images.load_images(tmp_path, lazy=True)
    damage(path)
    with pytest.raises(DataError) as caught:
        images.load_images(tmp_path, lazy=True)
    assert sentence in str(caught.value)


def test_a_broken_picture_in_a_shard_is_named_and_left_out(tmp_path: Path):
    whole = encode(2)
    _replace({"0002.png": whole[: len(whole) // 2], "0003.png": b"words"})(tmp_path / "0.tar")
    for load in (
        lambda: images.load_images(tmp_path),
        lambda: images.load_images(tmp_path, lazy=True).check_files(),
    ):
        with pytest.raises(DataError, match="2 files or folders cannot be used") as caught:
            load()
        assert all(f"{tmp_path}/0.tar/{name}.png cannot be decoded" in str(caught.value) for name in ("0002", "0003"))
    data = images.load_images(tmp_path, skip_broken=True, lazy=True)
    assert len(data.skipped) == 2
    assert sorted(names_of(data.train) + names_of(data.test)) == [f"0.tar/000{i}.png" for i in (0, 1, 4, 5)]
    (tmp_path / "test.txt").write_text("0.tar/0004.png\n0.tar/0001.png\n")
    held = images.load_images(tmp_path, skip_broken=True, lazy=True, held_out=tmp_path / "test.txt")
    assert sorted(names_of(held.test)) == ["0.tar/0001.png", "0.tar/0004.png"]


# Images with texts -----------------------------------------------------------------------------------------------


def write_pictures(folder: Path, number: int) -> None:
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    for i in range(number):
        (folder / "photos" / f"{i}.png").write_bytes(encode(i))


LINES = [("photos/0.png", 'a "cat", red'), ("photos/1.png", "ein Hündchen\nim Schnee"), ("./photos/0.png", "a cat")]


def write_csv(folder: Path) -> None:
    rows = "".join('{},"{}",7\n'.format(name, text.replace('"', '""')) for name, text in LINES)
    (folder / "captions.csv").write_text(f"file,text,id\n{rows}", encoding="utf-8-sig")


def write_lines(folder: Path) -> None:
    rows = [json.dumps({"id": 7, "file": name, "text": text}) for name, text in LINES]
    (folder / "captions.jsonl").write_text("\n\n".join(rows))


@pytest.mark.parametrize("write", [write_csv, write_lines])
def test_texts_beside_a_folder(tmp_path: Path, write: Callable[[Path], None]):
    write_pictures(tmp_path, 3)
    write(tmp_path)
    for lazy in (False, True):
        data = images.load_images(tmp_path, image_size=(12, 16), lazy=lazy, held_out=0.5)
        data.check_files()
        assert (data.classes, len(data.train) + len(data.test)) == ((), 3)
        for part in (data.train, data.test):
            assert part.texts is not None
            for place, text in enumerate(part.texts):
                name = next(name for name, other in LINES if other == text)
                with Image.open(tmp_path / name) as image:
                    assert np.array_equal(part.images[place], np.asarray(image))
        # Both texts of one picture are on one side.
        assert {len(data.train), len(data.test)} == {1, 2}
    (tmp_path / "test.txt").write_text("photos/0.png")
    held = images.load_images(tmp_path, held_out=tmp_path / "test.txt").test
    assert held.texts is not None
    assert held.texts.tolist() == [LINES[0][1], LINES[2][1]]


@pytest.mark.parametrize(("name", "content", "sentence"), [
    ("captions.csv", "file,text\nphotos/9.png,a cat\n", "line 2 of {} must name a file in"),
    ("captions.csv", "file,text\nphotos/0.png\n", "line 2 of {} must have 2 values as the first line, got 1"),
    ("captions.csv", "file,text\nphotos/0.png,a cat, asleep\n", "2 values as the first line, got 3: put a text with"),
    ("captions.csv", "text,file\na cat,\n", "line 2 of {} must have a file and its text, got {{'text': 'a cat'"),
    ("captions.csv", "file,text\nphotos/0.png,  \n", "line 2 of {} must have a file and its text"),
    ("captions.csv", "file,text\nphotos/0.gif,a cat\n", "line 2 of {} must name an image (.jpg, .jpeg, .png, .webp)"),
    ("captions.csv", "file,text\n../x/0.png,a cat\n", "line 2 of {} must name a file within"),
    ("captions.csv", "file,text\nphotos/0.png,a cat\n", "at least two lines, each with a file and its text, got 1"),
    ("captions.csv", "image,text\nphotos/0.png,a cat\n", "must have the columns file and text in its first line"),
    ("captions.csv", "file,text\nphotos/0.png,\udcff\n", "{} must be a text in UTF-8"),
    ("captions.jsonl", '{"file": "photos/0.png"', "line 1 of {} must be JSON"),
    ("captions.jsonl", "[]", 'line 1 of {} must be as {{"file": "1.jpg", "text": "a cat"}}, got []'),
    ("captions.jsonl", '{"file": "photos/0.png", "text": "\\ud800"}', "line 1 of {} must have a file and its text"),
])  # fmt: skip
def test_a_bad_line_of_texts_is_named(tmp_path: Path, name: str, content: str, sentence: str):
    write_pictures(tmp_path, 3)
    (tmp_path / name).write_text(content, "utf-8", errors="surrogateescape")
    with pytest.raises(DataError) as caught:
        images.load_images(tmp_path)
    assert sentence.format(tmp_path / name) in str(caught.value)
    write_pictures(tmp_path / "train", 2)
    write_csv(tmp_path / "train")
    with pytest.raises(DataError, match="images itself or in its folder 'train', got both"):
        images.load_images(tmp_path)
    (tmp_path / "train" / "captions.csv").unlink()
    (tmp_path / "captions.csv").touch()
    (tmp_path / "captions.jsonl").touch()
    with pytest.raises(DataError, match=r"must have one of captions\.csv and captions\.jsonl, got 2"):
        images.load_images(tmp_path)


# Records of any source -------------------------------------------------------------------------------------------


def make_records(**columns: Any) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, (9 + i % 3, 8, 3), dtype=np.uint8) for i in range(10)]
    return [{"image": image, **{name: value[i] for name, value in columns.items()}} for i, image in enumerate(pixels)]


def test_records_of_a_grain_source_are_read_as_files_are(tmp_path: Path):
    records = make_records(label=np.arange(10) % 2)
    for i, record in enumerate(records):
        path = tmp_path / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(record["image"]).save(path)
    files = images.load_images(tmp_path, image_size=(6, 8), held_out=0.4, lazy=True)
    source = grain.MapDataset.source(records).map(lambda record: record | {"label": int(record["label"])})
    loaded = [images.load_records(each, image_size=(6, 8), held_out=0.4) for each in (source, records)]
    loaded.append(
        images.load_records(
            [{"image": Image.fromarray(record["image"])} for record in records],
            image_size=(6, 8),
            classes=("a", "b"),
            labels=np.arange(10) % 2,
            held_out=np.isin(np.arange(10), [int(name[2:-4]) for name in names_of(files.test)]),
        )
    )
    assert (loaded[0].classes, loaded[2].classes) == (("0", "1"), ("a", "b"))
    for data in loaded:
        data.check_files()
        for part, expected in ((data.train, files.train), (data.test, files.test)):
            order = np.argsort([int(name[2:-4]) for name in names_of(expected)])
            assert np.array_equal(part.images[:], expected.images[order])
            assert np.array_equal(part.labels, expected.labels[order])
            assert np.array_equal(part.open(1), expected.open(int(order[1])))
    mean = (data.preprocess.mean, files.preprocess.mean)
    np.testing.assert_allclose(*mean, rtol=1e-6)


def test_records_with_texts_and_grey_ones():
    data = images.load_records(make_records(text=list("abcdefghij")), image_size=(6, 8))
    assert data.train.texts is not None
    assert (data.classes, "".join(data.train.texts)) == ((), "".join(sorted(data.train.texts)))
    grey = [{"image": np.full((4, 4, 1), i, np.uint8), "label": i % 2} for i in range(10)]
    data = images.load_records(grey, image_size=(4, 4))
    assert data.channels == 1
    assert sorted(int(image[0, 0, 0]) for part in (data.train, data.test) for image in part.images[:]) == [*range(10)]


def test_bad_records_are_named():
    records = make_records(label=np.arange(10) % 2)
    del records[3]["label"]
    for wrong in (records, make_records()):
        with pytest.raises(DataError, match=r"a 'label' or a 'text', as the others have, got record [03] without"):
            images.load_records(wrong, image_size=(6, 8))
    labels = np.arange(10) % 2
    for source, sentence in (
        ([], "source must have records, got none"),
        ([(np.zeros((4, 4, 3), np.uint8), 1)], "record 0 must be a mapping with an 'image', got a tuple"),
        (make_records(label=["cat"] * 10), "record 0 must have a whole number as its 'label', got 'cat'"),
        (make_records(label=[0, 1.5] * 5), "record 1 must have a whole number as its 'label', got 1.5"),
        (make_records(text=[3] * 10), "record 0 must have a string as its 'text', got 3"),
    ):
        with pytest.raises(DataError, match=sentence):
            images.load_records(source, image_size=(6, 8))
    for mask in (np.ones(3, bool), np.ones(10, bool), np.zeros(10, bool)):
        with pytest.raises(ValueError, match="held_out must be a mask of 10 records, true for some of them"):
            images.load_records(make_records(label=labels), image_size=(6, 8), held_out=mask)
    for image in (None, np.zeros((4, 4, 3), np.float32), np.zeros(3, np.uint8)):
        records[3]["image"] = image
        data = images.load_records(records, image_size=(6, 8), labels=labels, preprocess=PREPROCESS)
        with pytest.raises(DataError, match="record/3 must have an 'image' of uint8 or of Pillow, got an error"):
            data.check_files()
