"""The table of the page "Results": its commands, what is read of their output, and their images."""

import csv
import gzip
import shlex
import struct
from pathlib import Path

import numpy as np
import pytest
import train_results

from vitrail import images
from vitrail.cli import _parser


def test_the_table_has_the_commands_of_the_script_which_the_program_reads():
    commands = dict(train_results.list_commands())
    with train_results.TABLE.open() as file:
        rows = list(csv.DictReader(file))
    assert rows
    for row in rows:
        assert commands[row["step"]] == row["command"]
    for command in commands.values():
        program, *words = shlex.split(command)
        assert program == "vitrail"
        _parser.parse(words)


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ("test accuracy: 81.2% (812 of 1,000 held-out images)\ntime: 3 s\n", ("", 0.812)),
        ("test k-NN accuracy of mae/last.safetensors: 79.4% (7,939 of 10,000 held-out images)\n", ("k-NN", 0.7939)),
        ("test zero-shot accuracy of clip/last.safetensors: 50.0% (1 of 2 held-out images)\n", ("zero-shot", 0.5)),
        ("test text accuracy: 25.0% (1 of 4 held-out images, whose own text is the best of 30)\n", ("text", 0.25)),
        ("neighbours    right  among the first five\n        20   70.55%                97.00%\n", ("k-NN", 0.7055)),
        ("ViT: 4 x 4 patches\n", ("", None)),
    ],
)
def test_accuracies_are_read(printed: str, expected: tuple[str, float | None]):
    assert train_results.read_accuracy(printed) == expected


def test_few_images_of_each_class_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    labels = np.repeat(np.arange(10, dtype=np.uint8), 5)
    pixels = np.random.default_rng(0).integers(0, 256, (50, 28, 28), np.uint8)
    (tmp_path / "all").mkdir()
    for part in ("train", "t10k"):
        for kind, head, array in (
            ("images-idx3", struct.pack(">IIII", 0x803, 50, 28, 28), pixels),
            ("labels-idx1", struct.pack(">II", 0x801, 50), labels),
        ):
            with gzip.open(tmp_path / "all" / f"{part}-{kind}-ubyte.gz", "wb") as file:
                file.write(head + array.tobytes())
    monkeypatch.setattr(train_results, "FASHION", str(tmp_path / "all"))
    train_results.write_few(tmp_path / "few", 2, seed=1)
    found = images.load_images(tmp_path / "few")
    assert np.array_equal(np.bincount(found.train.labels), [2] * 10)
    assert np.array_equal(found.test.images[:, :, :, 0], pixels)
    for image, label in zip(found.train.images[:, :, :, 0], found.train.labels, strict=True):
        (place,) = np.flatnonzero((pixels == image).all(axis=(1, 2)))
        assert labels[place] == label
