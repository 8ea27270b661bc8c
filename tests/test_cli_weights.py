"""`vitrail inspect`, `predict` and `convert`: what they print of files, and how they fail."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_cases import load_cases, published, tensors_of
from helpers import small_config
from PIL import Image
from safetensors.numpy import load_file, save_file
from system_cases import load_system_cases

import vitrail
from vitrail.cli import main
from vitrail.images import CLIP, HALF, IMAGENET

CASES = load_cases()
MAE = CASES["transformers ViTMAEForPreTraining"]
HF = CASES["transformers ViTForImageClassification"]


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a command that must fail."""
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("vitrail: error: ")
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("predict vit photo.png --classes cat,dog --templates nope", "templates must be one of"),
        ("predict vit photo.png --classes cat,dog", "both towers of CLIP or SigLIP to read texts, got an image model"),
        ("predict sam photo.png --classes cat,dog --attention a.png", "an encoder with windows cannot show"),
        ("look vit photo.png --image-size 17", "image_size must be multiples of patch_size"),
        ("look bare photo.png", "preprocess is not known for bare"),
        ("knn vit --temperature 0", "temperature must be"),
        ("knn vit --batch-size 0", "batch_size must be positive"),
        ("knn vit --data nowhere", "nowhere must be a folder"),
        ("knn vit --image-size 17", "image_size must be multiples of patch_size"),
        ("reconstruct vit photo.png", "vit must have MAE with its decoder to reconstruct images, got an image model"),
        ("reconstruct mae photo.png --ratio 1.5", "ratio must hide at least one"),
        ("segment vit photo.png --point 3,4", "vit must have the whole of SAM"),
        ("search vit . cat", "vit must have both towers of CLIP or SigLIP"),
        ("train --model vit --data nowhere --recipe probe", "nowhere must be a folder"),
        ("train --model vit --data . --recipe probe --image-size 0", "image_size must be positive"),
        ("train --model vit --data . --recipe probe --lora 0", "lora must be positive"),
        ("convert vit out --layout hf_dinvo2", "got 'hf_dinvo2' (did you mean"),
    ],
)
def test_a_mistake_is_found_before_the_weights_are_read(
    arguments: str,
    message: str,
    models: Path,
    photograph: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def read(*args: Any, **options: Any) -> None:
        raise AssertionError("the weights were read")

    for name in ("cli._options", "weights._convert", "cli._evaluate"):
        monkeypatch.setattr(f"vitrail.{name}.load", read)
    monkeypatch.chdir(photograph.parent)
    for name in ("vit", "bare", "mae", "sam"):
        Path(name).symlink_to(models / name)
    assert message in error_of(arguments.split(), capsys)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small models by short names; one does not know how images are prepared."""
    folder = tmp_path_factory.mktemp("models")
    systems = load_system_cases()
    published(HF, folder / "vit")
    systems["transformers ViTMAEForPreTraining"].publish(folder / "mae")
    systems["transformers SamModel"].publish(folder / "sam")
    (folder / "bare").mkdir()
    vitrail.save(small_config().build(key=jax.random.key(0)), folder / "bare" / "model.safetensors")
    return folder


# inspect ---------------------------------------------------------------------------------------------------------


def test_inspect_shows_what_a_file_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(published(HF, tmp_path))]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["layout"].startswith("hf_vit (")
    assert lines["model"] == "width 16, depth 2, 2 heads, MLP 24"
    assert lines["images"] == "16 x 16 pixels, 3 channels, patches of 4 x 4"
    assert lines["tokens"] == "17: 1 before 4 x 4 patches"
    assert lines["classes"] == "5"
    assert lines["dtypes"] == f"float32 ({len(HF.shapes)})"
    assert lines["parameters"] == f"{sum(int(np.prod(shape)) for shape in HF.shapes.values()):,}"
    assert "squash" in lines["preprocess"]
    assert (lines["ignored"], lines["missing"], lines["unknown"]) == ("nothing", "nothing", "nothing")


def test_inspect_shows_what_would_be_ignored_and_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = "vit.encoder.layer.1.output.dense.bias"
    assert lost in MAE.shapes
    shapes = {name: shape for name, shape in MAE.shapes.items() if name != lost} | {"vit.surprise": (3,)}
    path = published(dataclasses.replace(MAE, shapes=shapes), tmp_path)
    assert main(["inspect", str(path)]) == 0
    whole = capsys.readouterr().out
    assert "\nsystem      mae, whose image model is\n" in whole
    assert "ignored     nothing" in whole
    assert main(["inspect", str(path), "--part", "image"]) == 0
    printed = capsys.readouterr().out
    decoder = [name for name in MAE.shapes if name.startswith("decoder")]
    assert f"{len(decoder):>4,}  " in printed
    assert decoder[0] in printed
    assert "encoder.layer.1.output.dense.bias" in printed.partition("missing")[2].partition("unknown")[0]
    assert "surprise" in printed.partition("unknown")[2]


def test_inspect_takes_settings_and_a_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = published(dataclasses.replace(HF, settings=None), tmp_path)
    settings = json.dumps(HF.settings)
    assert main(["inspect", str(path), "--layout", "hf_vit", "--config", settings]) == 0
    assert "classes     5" in capsys.readouterr().out
    assert "config must be a JSON object" in error_of(["inspect", str(path), "--config", "{"], capsys)
    assert "layout must be one of" in error_of(["inspect", str(path), "--layout", "keras"], capsys)


def test_inspect_of_what_is_no_file_of_weights(
    photograph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "photo.png" in error_of(["inspect", str(photograph)], capsys)
    assert "nowhere" in error_of(["inspect", str(tmp_path / "nowhere")], capsys)


# predict ---------------------------------------------------------------------------------------------------------


def classifier(folder: Path, num_classes: int = 5, **changes: Any) -> Path:
    """A classifier that knows how its pictures are to be prepared."""
    preprocess = vitrail.Preprocess("cover", "bicubic", *IMAGENET, crop=0.875)
    config = small_config(num_classes=num_classes, preprocess=preprocess, **changes)
    vitrail.save(config.build(key=jax.random.key(0)), folder / "model.safetensors")
    return folder / "model.safetensors"


def expected_shares(path: Path, photograph: Path) -> np.ndarray:
    """The softmax in float64 of what the model gives."""
    model = vitrail.load(path)
    with Image.open(photograph) as picture:
        pixels = vitrail.model_card(model).preprocess(picture)
    logits = np.asarray(eqx.filter_jit(model)(pixels), np.float64)
    return np.exp(logits) / np.exp(logits).sum()


def test_predict_with_weights_that_are_not_finite_is_an_error(
    photograph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = classifier(tmp_path)
    model = vitrail.load(path)
    vitrail.save(eqx.tree_at(lambda m: m.backbone.norm.bias, model, jnp.full(16, jnp.nan)), path)
    error = error_of(["predict", str(path), str(photograph)], capsys)
    assert f"the logits for {photograph} must be finite, got NaN or infinity: look for NaN in the weights" in error


def test_predict_names_the_classes_of_imagenet(
    photograph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = classifier(tmp_path, 1000)
    bias = jnp.zeros(1000).at[jnp.asarray([207, 281, 1])].set(jnp.asarray([9.0, 8.0, 7.0]))
    model = vitrail.load(path)
    linear = model.readout.head.linear  # type: ignore[attr-defined]
    sure = eqx.tree_at(lambda layer: (layer.weight, layer.bias), linear, (jnp.zeros((1000, 16)), bias))
    vitrail.save(eqx.tree_at(lambda m: m.readout.head.linear, model, sure), path)
    assert main(["predict", str(path), str(photograph), "--top", "3"]) == 0
    total = math.exp(9) + math.exp(8) + math.exp(7) + 997
    names = ["golden retriever", "tabby cat", "goldfish"]  # the ILSVRC's numbers 207, 281 and 1
    places = ["207", "281", "  1"]
    lines = [f"  {math.exp(9 - i) / total:6.1%}  class {places[i]}  {name}" for i, name in enumerate(names)]
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == str(photograph)
    assert [line.lower() for line in rest] == lines


def test_predict_takes_the_names_beside_the_file_and_draws_where_it_looked(
    photograph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["tench", "goldfish", "white shark", "tiger shark", "hammerhead"]
    settings = {**(HF.settings or {}), "id2label": {str(i): name for i, name in enumerate(names)}}
    path = published(dataclasses.replace(HF, settings=settings), tmp_path)
    shares, out = expected_shares(path, photograph), tmp_path / "where.png"
    arguments = ["predict", str(path), str(photograph), str(photograph), "--top", "9", "--attention", str(out)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    ordered = [f"{shares[place]:6.1%}  class {place}  {names[place]}" for place in np.argsort(-shares)]
    assert printed.count("\n".join(f"  {line}" for line in ordered)) == 2
    with Image.open(out) as drawn:
        pixels = np.asarray(drawn)
    assert pixels.shape == (2 * 16, 2 * 16, 3)  # two images, each beside where the model looked
    with Image.open(photograph) as picture:
        given = np.asarray(picture.resize((16, 16), Image.Resampling.BILINEAR))
    assert np.abs(pixels[:16, :16].astype(int) - given).max() <= 1
    assert not np.array_equal(pixels[:16, 16:], pixels[:16, :16])


def test_predict_takes_pictures_of_any_shape_where_the_file_keeps_their_aspect(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = published(CASES["transformers Siglip2ForImageClassification, packed"], tmp_path)
    settings = {"image_processor_type": "Siglip2ImageProcessor", "patch_size": 4, "max_num_patches": 30}
    pixels = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings | pixels))
    state, pictures = np.random.default_rng(0), []
    for name, shape in {"wide": (9, 70), "tall": (50, 11), "square": (33, 33)}.items():
        pictures.append(tmp_path / f"{name}.png")
        Image.fromarray(state.integers(0, 256, (*shape, 3)).astype(np.uint8)).save(pictures[-1])
    out = tmp_path / "where.png"
    assert main(["predict", str(path), *map(str, pictures), "--attention", str(out)]) == 0
    printed = capsys.readouterr().out.splitlines()
    model = vitrail.load(path, part="image")
    heights, widths = [], []
    for number, file in enumerate(pictures):
        with Image.open(file) as picture:
            image = vitrail.model_card(model).preprocess(picture)
        heights.append(image.shape[0])
        widths.append(image.shape[1])
        assert 20 < image.shape[0] * image.shape[1] // 16 <= 30
        # Alone, and resized to its size: neither packed nor padded.
        shares = jax.nn.softmax(eqx.filter_jit(model.resized(image.shape[:2]))(image))
        assert printed[6 * number] == str(file)
        best = int(jnp.argmax(shares))
        assert printed[6 * number + 1].split() == [f"{shares[best]:.1%}", "class", str(best)]
    with Image.open(out) as drawn:
        assert drawn.size == (2 * max(widths), sum(heights))
    assert main(["inspect", str(path)]) == 0
    assert "native, bilinear, at most 30 patches" in capsys.readouterr().out


def test_predict_lists_all_files_that_it_cannot_read(
    photograph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, whole = classifier(tmp_path), photograph.read_bytes()
    cut = [tmp_path / name for name in ("cut1.png", "cut2.png")]
    for other in cut:
        other.write_bytes(whole[: len(whole) // 2])
    assert main(["predict", str(path), str(cut[0]), str(photograph), str(cut[1])]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == str(photograph)  # the others are predicted
    first, *lines = err.splitlines()
    assert first == "vitrail: error: 2 files or folders cannot be used:"
    assert [line.split()[0] for line in lines] == [str(other) for other in cut]
    (tmp_path / "none.png").write_bytes(b"")
    assert main(["predict", str(path), str(photograph), str(tmp_path / "none.png"), str(tmp_path / "no.png")]) == 1
    out, err = capsys.readouterr()
    assert out == ""  # a file that is no image is told before anything is computed
    assert str(tmp_path / "none.png") in err
    assert "no.png: No such file or directory" in err


def test_predict_without_names_numbers_the_classes(
    photograph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(classifier(tmp_path)), str(photograph)]) == 0
    assert {line.split(maxsplit=1)[1] for line in capsys.readouterr().out.splitlines()[1:]} == {
        f"class {place}" for place in range(5)
    }


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["model.safetensors", "text.png"], "text.png"),
        (["model.safetensors", "nowhere.png"], "nowhere.png"),
        (["model.safetensors", "photo.png", "--top", "0"], "top must be positive"),
        (["model.safetensors", "photo.png", "--attention", "out.txt"], "attention must end in"),
        (["model.safetensors", "photo.png", "--attention", "nowhere/out.png"], "be in a folder that exists"),
        (["model.safetensors", "photo.png", "--attention", "./photo.png"], "attention must not be one of the images"),
        (["model.safetensors", "photo.png", "cut.png"], "cut.png must be an image that Pillow can read"),
        (["nowhere.safetensors", "photo.png"], "error: nowhere.safetensors is not a file or a folder: check the path"),
    ],
)
def test_what_cannot_be_predicted_is_one_line(
    arguments: list[str],
    sentence: str,
    photograph: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    classifier(tmp_path)
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes(photograph.read_bytes()[:500])
    assert sentence in error_of(["predict", *arguments], capsys)


def test_a_model_without_a_classifier_or_preprocessing_does_not_predict(
    photograph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = tmp_path / "bare.safetensors"
    vitrail.save(small_config(head="none", num_classes=None).build(key=jax.random.key(0)), bare)
    assert "must have a classifier" in error_of(["predict", str(bare), str(photograph)], capsys)
    unknown = tmp_path / "unknown.safetensors"
    vitrail.save(small_config().build(key=jax.random.key(0)), unknown)
    said = error_of(["predict", str(unknown), str(photograph)], capsys)
    assert "neither from the file nor from the settings beside it" in said
    assert "pass --preprocess with one of 'imagenet', 'half', 'clip'" in said


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("imagenet", vitrail.Preprocess("cover", "bicubic", *IMAGENET, crop=0.875)),
        ("half", vitrail.Preprocess("squash", "bicubic", *HALF)),
        ("clip", vitrail.Preprocess("cover", "bicubic", *CLIP)),
    ],
)
def test_preprocessing_can_be_given(
    name: str,
    expected: vitrail.Preprocess,
    photograph: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "m.safetensors"
    vitrail.save(small_config(preprocess=expected).build(key=jax.random.key(0)), path)
    shares = expected_shares(path, photograph)
    vitrail.save(small_config().build(key=jax.random.key(0)), path)
    assert main(["predict", str(path), str(photograph), "--preprocess", name, "--top", "1"]) == 0
    assert f"  {shares.max():6.1%}  class {shares.argmax()}\n" in capsys.readouterr().out


def test_a_grey_model_predicts(photograph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "grey.safetensors", tmp_path / "out.png"
    half = vitrail.Preprocess("squash", "bicubic", (0.5,), (0.5,))
    vitrail.save(small_config(channels=1, preprocess=half).build(key=jax.random.key(0)), path)
    shares = expected_shares(path, photograph)
    vitrail.save(small_config(channels=1).build(key=jax.random.key(0)), path)
    arguments = ["predict", str(path), str(photograph), "--top", "1", "--attention", str(out), "--preprocess"]
    assert main([*arguments, "half"]) == 0
    assert f"  {shares.max():6.1%}  class {shares.argmax()}\n" in capsys.readouterr().out
    with Image.open(out) as drawn:
        assert np.asarray(drawn).shape == (8, 24, 3)
    assert "preprocess must be 'half' for images with 1 channels, got 'imagenet'" in error_of(
        [*arguments, "imagenet"], capsys
    )


def test_nothing_is_said_before_all_is_known_to_fit(
    photograph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    windows = vitrail.WindowOptions(size=2, global_blocks=(1,), relative_grid=(4, 4))
    path = classifier(tmp_path, windows=windows, image_size=(16, 16))
    for arguments in (["nowhere.png"], ["--attention", str(tmp_path / "out.png")]):
        assert main(["predict", str(path), str(photograph), *arguments]) == 1
        printed = capsys.readouterr()
        assert printed.out == ""
        assert "nowhere.png" in printed.err or "windows" in printed.err


def test_a_classifier_without_a_bias_predicts(
    photograph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = classifier(tmp_path, head=vitrail.HEADS.configure("linear", bias=False))
    assert main(["predict", str(path), str(photograph)]) == 0
    assert "class 4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("transformers CLIPVisionModelWithProjection", "linear(bias=False)"),
        ("transformers ViTModel", "linear(activation='tanh')"),
    ],
)
def test_an_embedding_is_no_prediction(
    name: str, head: str, photograph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = error_of(["predict", str(published(CASES[name], tmp_path)), str(photograph)], capsys)
    assert f"got the head {head}, which returns features" in said


def test_half_precision_is_said_and_converted(
    photograph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = published(HF, tmp_path)
    save_file({name: array.astype(np.float16) for name, array in tensors_of(HF).items()}, path)
    assert main(["inspect", str(path)]) == 0
    assert f"dtypes      float16 ({len(HF.shapes)}): use convert to make them float32" in capsys.readouterr().out
    assert "pass convert=True, or --convert, to make it float32" in error_of(
        ["predict", str(path), str(photograph)], capsys
    )
    assert main(["predict", str(path), str(photograph), "--convert"]) == 0
    assert "%" in capsys.readouterr().out


def test_a_picture_of_too_many_pixels_is_one_line(
    photograph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # a picture of 20,000 x 20,000 takes a while to make
    said = error_of(["predict", str(classifier(tmp_path)), str(photograph)], capsys)
    assert "photo.png must be an image that Pillow can read, got an error: Image size (600 pixels)" in said


def test_inspect_shows_what_is_assumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = vitrail.EncoderSize(dim=192, depth=12, num_heads=3, mlp_dim=768)
    sides: Any = {"image_size": (16, 16), "patch_size": (16, 16)}
    model = small_config(size=size, pool="cls", **sides).build(key=jax.random.key(0))
    vitrail.save(model, tmp_path / "timm", layout="timm")
    path = tmp_path / "timm.safetensors"  # as a file of the library is downloaded without its settings
    save_file(load_file(tmp_path / "timm" / "model.safetensors"), path)
    assert main(["inspect", str(path)]) == 0
    assumed = "architecture a plain ViT's, num_heads 3, global_pool token"
    assert f"\nassumed     {assumed}: no settings say it\n" in capsys.readouterr().out
    assert main(["inspect", str(published(HF, tmp_path / "said"))]) == 0
    assert "assumed     preprocess that of the family: no settings say it" in capsys.readouterr().out


def test_help_writes_none_as_it_is_typed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "`none` for no limit" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["train", "--data", "missing", "--out", "run", "--clip-norm", "None"])
    assert main(["train", "--data", "missing", "--out", "run", "--clip-norm", "none"]) == 1
    assert "missing must be a folder" in capsys.readouterr().err


def test_help_calls_things_by_their_names(capsys: pytest.CaptureFixture[str]) -> None:
    for command, usage in (("predict", "FILE IMAGE [MORE-IMAGES"), ("convert", "FILE OUT"), ("inspect", "FILE")):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        printed = capsys.readouterr().out
        assert usage in " ".join(printed.split())
        assert "None}" not in printed
        assert "--no-" not in printed


@pytest.mark.parametrize(
    ("command", "extra"),
    [("inspect", "weights"), ("predict", "weights"), ("convert", "weights"), ("demo", "demo"), ("list", "weights")],
)
def test_what_is_not_installed_is_named_by_its_extra(
    command: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("vitrail._extras.find_spec", lambda name: None)
    assert f"[{extra}]'" in error_of([command], capsys)


def test_a_folder_of_pytorchs_is_told_how_to_convert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK")
    said = error_of(["inspect", str(tmp_path)], capsys)
    assert f"vitrail convert --from-torch {tmp_path}/pytorch_model.bin {tmp_path}/pytorch_model.safetensors" in said


def test_a_missing_file_is_said_before_pytorch_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "nofile.pth"
    said = error_of(["convert", "--from-torch", str(missing), str(tmp_path / "m.safetensors")], capsys)
    assert said == f"vitrail: error: {missing} is not a file or a folder: check the path\n"


def test_convert_wants_to_be_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.pt").write_bytes(b"PK\x03\x04")
    said = error_of(["convert", str(tmp_path / "m.pt"), str(tmp_path / "m.safetensors")], capsys)
    assert "a pickle of PyTorch, " in said
    assert "vitrail convert --from-torch" in said
    said = error_of(["convert", "--from-torch", str(tmp_path / "m.pt"), str(tmp_path / "m.png")], capsys)
    assert "out must end in .safetensors" in said
