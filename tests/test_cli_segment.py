"""`vitrail segment`: the masks that it writes, and how it fails; and the picture of masks."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file
from sam_cases import PHOTO_SIZES, photo_of
from system_cases import load_system_cases

import vitrail
from vitrail.cli import main
from vitrail.show import add_masks

HEIGHT, WIDTH = PHOTO_SIZES[1]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Meta's file."""
    return load_system_cases()["Meta Sam"].publish(tmp_path_factory.mktemp("sam"))


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photo."""
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(photo_of((HEIGHT, WIDTH))).save(path)
    return path


def test_the_best_mask_is_written(file: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, picture = tmp_path / "mask.png", tmp_path / "picture.jpg"
    prompt = ["--point", "12,80", "--point", "60.5,30", "--background", "3,3", "--box", "1,20,90,140"]
    assert main(["segment", str(file), str(photo), *prompt, "--out", str(out), "--picture", str(picture)]) == 0
    sam = vitrail.load(file)
    found = sam.segment(
        sam.embed(photo_of((HEIGHT, WIDTH))),
        points=[(12, 80), (60.5, 30), (3, 3)],
        labels=[1, 1, 0],
        box=(1, 20, 90, 140),
    )
    with Image.open(out) as written:
        assert written.mode == "L"
        assert np.array_equal(np.asarray(written), np.where(found.masks[found.best], 255, 0))
    with Image.open(picture) as drawn:
        assert drawn.size == (WIDTH, HEIGHT)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(photo)
    for line, quality, mask in zip(lines[1:4], found.quality, found.masks, strict=True):
        assert f"quality {quality:.3f}  {int(mask.sum()):,} pixels" in line
    assert lines[1 + found.best].endswith("(the best)")
    assert lines[4:] == [f"mask: {out}", f"picture: {picture}"]
    assert main(["segment", str(file), str(photo), "--point", "12,80", "--single", "--out", str(out)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_all_masks_are_numbered(file: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mask.png"
    options = ["--points-per-side", "6", "--min-quality", "0.1", "--min-stability", "0"]
    assert main(["segment", str(file), str(photo), "--everything", *options, "--out", str(out)]) == 0
    search = vitrail.MaskSearch(points_per_side=6, min_quality=0.1, min_stability=0)
    found = vitrail.find_masks(vitrail.load(file), photo_of((HEIGHT, WIDTH)), search=search)
    assert len(found) > 1
    expected = np.zeros((HEIGHT, WIDTH), int)
    for number, one in enumerate(sorted(found, key=lambda one: -one.area)):
        expected[one.mask] = number + 1
    with Image.open(out) as written:
        assert np.array_equal(np.asarray(written), expected)
    assert f"  {len(found)} masks in all" in capsys.readouterr().out
    assert main(["segment", str(file), str(photo), "--everything", "--points-per-side", "2", "--out", str(out)]) == 0
    assert "  0 masks in all" in capsys.readouterr().out
    wrong = ["--points-per-side", "0"]
    assert main(["segment", str(file), str(photo), "--everything", *wrong, "--out", str(out)]) == 1
    captured = capsys.readouterr()
    assert "points_per_side must be positive" in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "a prompt is missing: pass --point x,y or --box left,top,right,bottom, or --everything"),
        (["--point", "97,3"], "points must be in the picture, whose width is 97 and height 150, got x = 97 and y = 3"),
        (["--point", "5"], "point must be x,y in pixels, got '5'"),
        (["--point", "a,b"], "point must be x,y in pixels, got 'a,b'"),
        (["--background", "5,6,7"], "background must be x,y in pixels, got '5,6,7'"),
        (["--box", "10,10,5,20"], "box must be (left, top, right, bottom) with left < right and top < bottom"),
        (["--box", "1,2,3"], "box must be left,top,right,bottom in pixels, got '1,2,3'"),
        (["--everything", "--point", "3,3"], "point has no effect with --everything: leave it out"),
        (["--everything", "--single"], "single has no effect with --everything: leave it out"),
        (["--point", "3,3", "--min-quality", "0.5"], "min-quality has no effect without --everything: leave it out"),
        (["--everything", "--points-per-side", "0"], "points_per_side must be positive, got 0"),
        (["--point", "3,3", "--out", "mask.jpg"], "out must end in .png and be in a folder that exists"),
        (["--point", "3,3", "--out", "{photo}"], "out must not be the image, got {photo}: it would be overwritten"),
        (["--point", "3,3", "--out", "{out}", "--picture", "{out}"], "picture must be another file than out"),
    ],
)
def test_a_command_that_does_not_fit(
    file: Path, photo: Path, options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"photo": photo, "out": tmp_path / "mask.png"}
    given = [option.format(**places) for option in options]
    out = [] if "--out" in given else ["--out", str(tmp_path / "mask.png")]
    assert main(["segment", str(file), str(photo), *given, *out]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"vitrail: error: {message.format(**places)}")
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_files_that_do_not_fit(file: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = {name: tensor for name, tensor in load_file(file).items() if name.startswith("image_encoder.")}
    save_file(encoder, tmp_path / "encoder.safetensors")
    prompt = ["--point", "3,3", "--out", str(tmp_path / "mask.png")]
    for weights, image, message in (
        (
            tmp_path / "encoder.safetensors",
            photo,
            "must have the whole of SAM, with its prompt encoder and its mask decod",
        ),
        (file, file, "must be an image that Pillow can read"),
        (file, tmp_path / "none.png", "No such file or directory"),
        (tmp_path / "none", photo, "none is not a file or a folder: check the path"),
    ):
        assert main(["segment", str(weights), str(image), *prompt]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_a_point_is_checked_before_the_weights_are_read(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["segment", "nowhere.safetensors", str(photo), "--point", "97,3"]) == 1
    assert "points must be in the picture" in capsys.readouterr().err


def test_a_picture_of_masks_shows_them_and_the_prompt() -> None:
    picture = np.full((100, 120, 3), 90, np.uint8)
    masks = np.zeros((2, 100, 120), bool)
    masks[0, 40:60, 50:80], masks[1, 10:90, 20:110] = True, True
    drawn = add_masks(picture, list(masks), points=[(100, 20), (5, 95)], labels=[1, 0], box=(2, 3, 117, 98))
    assert drawn.shape == picture.shape
    assert np.array_equal(picture, np.full((100, 120, 3), 90))
    outside = (slice(91, 93), slice(40, 100))
    assert np.array_equal(drawn[outside], picture[outside])
    small, large = drawn[50, 65], drawn[30, 65]
    assert not np.array_equal(small, large)  # the smaller mask lies on top, in another colour
    assert not np.array_equal(large, picture[0, 0])
    assert not np.array_equal(drawn[40, 65], small)  # an edge is brighter than what it surrounds
    assert drawn[20, 100, 1] > drawn[20, 100, 0]
    assert drawn[95, 5, 0] > drawn[95, 5, 1]
    assert drawn[3, 60].tolist() == drawn[50, 117].tolist() == [255, 255, 255]
