"""Images to learn from are not held out too: found by their bytes, their pixels or their numbers."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import test_train_run as runs
from PIL import Image
from test_sources import write_tar

import vitrail
from vitrail import images, train


def write_picture(path: Path, seed: int, *, side: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def make_folder(folder: Path, *, side: int = 8) -> Path:
    """Sixteen to learn from and eight held out, all different."""
    for i in range(24):
        write_picture(folder / ("train" if i < 16 else "val") / "ab"[i % 2] / f"{i}.png", i, side=side)
    return folder


def pack(folder: Path) -> Path:
    """The same pictures in tar files, with labels."""
    for part in ("train", "val"):
        files = dict[str, bytes]()
        for path in sorted((folder / part).glob("*/*.png")):
            files |= {path.name: path.read_bytes(), f"{path.stem}.cls": path.parent.name.encode()}
        write_tar(folder / "shards" / part / "0.tar", files)
    return folder / "shards"


# Large pictures have ends that are read before the whole.
@pytest.mark.parametrize("side", [8, 60])
@pytest.mark.parametrize("kind", ["files", "links", "shards"])
@pytest.mark.parametrize("lazy", [False, True])
def test_a_file_under_two_names_is_not_learned_and_held_out(tmp_path: Path, side: int, kind: str, lazy: bool):
    folder, options = make_folder(tmp_path / "data", side=side), {"image_size": (8, 8), "lazy": lazy}
    source = folder / "train" / "a" / "2.png"
    shutil.copyfile(source, folder / "train" / "b" / "again.png")  # on one side, which is no matter of this check
    if kind != "shards":
        images.load_images(folder, **options).check_files()
    (folder / "val" / "b" / "x.png").hardlink_to(source) if kind == "links" else shutil.copyfile(
        source, folder / "val" / "b" / "x.png"
    )
    other = folder / "val" / "b" / "y.png"  # of the same size, with another byte in the middle
    content = bytearray(source.read_bytes())
    content[len(content) // 2] ^= 1
    other.write_bytes(content)
    other.unlink()
    where = pack(folder) if kind == "shards" else folder
    names = ("val/0.tar/x.png", "train/0.tar/2.png") if kind == "shards" else ("val/b/x.png", "train/a/2.png")
    expected = rf"got 1 files with the same bytes on both sides: {where}/{names[0]} and {where}/{names[1]}\. Remove one"
    with pytest.raises(images.DataError, match=expected):
        images.load_images(where, **options).check_files()


def test_files_that_differ_in_one_byte_are_not_equal(tmp_path: Path):
    """At the end and before it, where only the whole tells them apart."""
    preprocess = images.Preprocess("cover", "bicubic", (0.5,) * 3, (0.25,) * 3)
    content = np.random.default_rng(0).bytes(10_000)
    for name, place in (("a.png", None), ("end.png", -1), ("begin.png", 10), ("same.png", None)):
        changed = bytearray(content)
        if place is not None:
            changed[place] ^= 1
        (tmp_path / name).write_bytes(changed)
    (tmp_path / "longer.png").write_bytes(b"0" + content)
    one = images.Pictures(tmp_path, ["longer.png", "a.png"], (8, 8), preprocess)
    other = images.Pictures(tmp_path, ["end.png", "begin.png", "same.png", "missing.png"], (8, 8), preprocess)
    assert images.find_equal(one, other).tolist() == [[1, 2]]
    assert images.find_equal(other, one).tolist() == [[2, 1]]


def test_equal_rows_equal_a_comparison_of_all():
    rng = np.random.default_rng(0)
    one, other = (rng.integers(0, 2, (n, 2, 2, 1), dtype=np.uint8) for n in (9, 30))
    pairs = images.find_equal(one, other).tolist()
    assert {there for _, there in pairs} == {n for n in range(30) if any(np.array_equal(other[n], row) for row in one)}
    assert all(np.array_equal(one[here], other[there]) for here, there in pairs)
    assert images.find_equal(one, other.reshape(30, 4, 1, 1)).tolist() == []


def test_records_are_compared_by_their_numbers():
    source = [{"image": np.full((4, 4, 3), 7, np.uint8), "label": i % 2} for i in range(20)]
    data = images.load_records(source, image_size=(4, 4))
    assert images.find_equal(data.train.images, data.test.images).tolist() == []
    again = images.find_equal(data.train.images, data.train[3:5].images)
    assert again.tolist() == [[3, 0], [4, 1]]


def test_validation_on_training_images_is_refused(tmp_path: Path):
    data = runs.make_data()
    one = dataclasses.replace(data.test, images=np.concatenate([data.test.images[:-1], data.train.images[7:8]]))
    for validation, message in (
        (data.train, "got 80 that are in both, as 0 and 0; 1 and 1;"),
        (data.train[40:], "got 40 that are in both, as 0 and 40"),
        (one, r"got 1 that are in both, as 19 and 7 \(there and here\)"),
    ):
        with pytest.raises(ValueError, match=message):
            train.fit(
                runs.make_model(), data, runs.RECIPE, key=runs.KEY, folder=tmp_path / "run", validation=validation
            )
    folder = make_folder(tmp_path / "data")
    data = images.load_images(folder, image_size=(8, 8), channels=1, lazy=True)
    model = vitrail.replace(runs.make_model(), num_classes=2, key=runs.KEY)
    with pytest.raises(ValueError, match=rf"got 3 that are in both, as {folder}/train/a/0.png and"):
        train.fit(model, data, runs.RECIPE, key=runs.KEY, folder=tmp_path / "run", validation=data.train[:3])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_equal_images_are_held_out_together(share: float):
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 256, (20, 2, 2, 1), dtype=np.uint8)
    which = rng.integers(0, 20, 60)
    examples = images.Examples(drawn[which], (which % 2).astype(np.int32))
    mask = images.hold_out_images(examples, share=share)
    assert set(which[mask]).isdisjoint(which[~mask])
    assert 0.5 * share < len(set(which[mask])) / len(set(which)) < 1.5 * share
    different = images.Examples(drawn, np.arange(20) % 2)
    assert np.array_equal(images.hold_out_images(different, seed=3), images.hold_out(different.labels, seed=3))
