"""Exported models: what `vitrail.export` writes, and what `vitrail.load_exported` runs without model code."""

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, random_array, run, small_config, small_model

import vitrail
from vitrail.cli import main
from vitrail.cli._options import LoadOptions
from vitrail.deploy import list_functions
from vitrail.testing import randomise

KEY = jax.random.key(0)
PREPROCESS = vitrail.Preprocess("squash", "bilinear", (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
PICTURE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


@pytest.fixture(scope="module")
def classifier() -> vitrail.ViT:
    return small_model(preprocess=PREPROCESS, classes=tuple("abcde"))


@pytest.fixture(scope="module")
def folder(classifier: vitrail.ViT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "out"
    vitrail.export(classifier, path)
    return path


def copy_folder(folder: Path, to: Path, change: Callable[[bytes], bytes] = lambda data: data) -> Path:
    """A copy of an exported model, whose program is changed."""
    to.mkdir()
    for path in folder.iterdir():
        data = path.read_bytes()
        (to / path.name).write_bytes(change(data) if path.suffix == ".stablehlo" else data)
    return to


def test_an_exported_classifier_equals_the_model_for_any_batch(classifier: vitrail.ViT, folder: Path) -> None:
    exported = vitrail.load_exported(folder)
    image = exported.preprocess(PICTURE)
    np.testing.assert_array_equal(image, PREPROCESS(PICTURE, (8, 12)))
    for number in (1, 3):
        logits = exported(np.stack([image] * number))
        assert isinstance(logits, jax.Array)
        assert_close(logits, np.stack([run(classifier, image)] * number))
    assert exported.classes == tuple("abcde")


def test_an_exported_model_runs_without_model_code(folder: Path, classifier: vitrail.ViT) -> None:
    program = (
        "import sys, numpy as np; from vitrail.exported import load_exported; model = load_exported(sys.argv[1]);"
        "picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8);"
        "print(*map(float, model(model.preprocess(picture)[None])[0]));"
        "print(*sorted({name.split('.')[1] for name in sys.modules if name.startswith('vitrail.')}))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True)
    logits, rooms = done.stdout.splitlines()
    assert_close([float(x) for x in logits.split()], run(classifier, PREPROCESS(PICTURE, (8, 12))))
    assert {room for room in rooms.split() if not room.startswith("_")} == {"images", "exported"}


def test_each_function_of_clip_equals_its_tower(tmp_path: Path) -> None:
    text = vitrail.TextConfig(
        vocabulary=20, context=6, size=small_config().size, embed_dim=12, pooling="largest_id", causal=True
    )
    config = vitrail.ImageTextConfig(image=small_config(pool="cls", num_classes=12), text=text)
    model = randomise(lambda: config.build(key=KEY))
    vitrail.export(model, tmp_path / "out", weights="beside")
    exported = vitrail.load_exported(tmp_path / "out")
    images, tokens = random_array(3, 8, 12, 3), np.asarray([[3, 4, 19, 0, 0, 0], [1, 19, 0, 0, 0, 0]], np.int32)
    assert_close(exported.functions["image"](images), run(jax.vmap(model.embed_image), images))
    assert_close(exported.functions["text"](tokens), run(jax.vmap(model.embed_text), tokens))
    assert exported.card.constants["scale"] == pytest.approx(float(jnp.exp(model.log_scale)))
    assert (tmp_path / "out" / "image.npz").stat().st_size > (tmp_path / "out" / "image.stablehlo").stat().st_size / 4


def test_the_mask_decoder_of_sam_takes_any_number_of_points(tmp_path: Path) -> None:
    image = small_config(image_size=(8, 8), num_classes=None, pool="none", head="none", class_token=False)
    config = vitrail.SegmentAnythingConfig(image=image, depth=1, num_heads=2, mlp_dim=8, quality_dim=8)
    model = randomise(lambda: config.build(key=KEY))
    vitrail.export(model, tmp_path / "out")
    decode = vitrail.load_exported(tmp_path / "out").functions["mask"]
    tokens, single = np.zeros((2, 2, 2, 16), np.float32), np.zeros((1, 3, 2), np.float32)
    with pytest.raises(
        ValueError, match=r"points must have shape \(batch, points, 2\), where batch is 2, got \(1, 3, 2\)$"
    ):
        decode(tokens, single, single, single, single)
    tokens, mask = random_array(2, 2, 2, 16), random_array(2, 8, 8)
    points, labels = random_array(2, 3, 2), np.asarray([[1, 0, -1], [2, 3, -2]], np.int32)
    found: Any = decode(tokens, points, labels, mask, np.asarray([True, False]))
    for row, given in enumerate((mask[0], None)):
        masks, quality = run(model, tokens[row], points[row], jnp.asarray(labels[row]), given)
        assert_close(found[0][row], masks)
        assert_close(found[1][row], quality)


def test_bfloat16_is_exported_as_it_is_computed(tmp_path: Path) -> None:
    model = small_model(execution=vitrail.Execution(compute_dtype="bfloat16"))
    card = vitrail.export(model, tmp_path / "out")
    images = random_array(2, 8, 12, 3)
    assert card.compute_dtype == "bfloat16"
    assert_close(vitrail.load_exported(tmp_path / "out")(images), run(jax.vmap(model), images), tolerance=0.02)


def test_the_names_of_what_a_model_returns() -> None:
    image = np.zeros((8, 12, 3), np.float32)
    dino = vitrail.DINOConfig(image=small_config(pool="cls", num_classes=None, head="none")).build(key=KEY)
    assert list_functions(dino, image)["model"].outputs == ("embedding", "patches")
    assert list_functions(dino.image, image)["model"].outputs == ("features",)
    with pytest.raises(TypeError, match="model must be a ViT or a system"):
        list_functions(dino.head, image)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-100], "must have .* bytes, got .*: copy it again"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "has changed since vitrail.export wrote it"),
    ],
)
def test_a_damaged_program_is_an_error(
    folder: Path, tmp_path: Path, change: Callable[[bytes], bytes], message: str
) -> None:
    with pytest.raises(vitrail.ExportError, match=message):
        vitrail.load_exported(copy_folder(folder, tmp_path / "copy", change))


def test_a_program_that_this_jax_cannot_read_names_the_jax_that_wrote_it(folder: Path, tmp_path: Path) -> None:
    copy = copy_folder(folder, tmp_path / "copy", lambda data: b"\0" * 64)
    card = json.loads((copy / "card.json").read_text())
    (one,) = card["functions"].values()
    one["sizes"], one["digests"] = {one["file"]: 64}, {one["file"]: vitrail.exported.digest_file(copy / one["file"])}
    card["versions"]["jax"] = "99.0"
    (copy / "card.json").write_text(json.dumps(card))
    with pytest.raises(vitrail.ExportError, match=r"was written with JAX 99\.0 and JAX .* cannot run it"):
        vitrail.load_exported(copy)


def test_what_is_no_exported_model_is_an_error(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(vitrail.ExportError, match=r"has no card\.json"):
        vitrail.load_exported(tmp_path)
    copy = copy_folder(folder, tmp_path / "copy")
    (copy / "model.stablehlo").unlink()
    with pytest.raises(vitrail.ExportError, match=r"is not there, but card\.json names it"):
        vitrail.load_exported(copy)
    (copy / "card.json").write_text('{"format": "stablehlo"}')
    with pytest.raises(vitrail.ExportError, match=r"card\.json must be the card .*, got a file without 'preprocess'\."):
        vitrail.load_exported(copy)


@pytest.mark.parametrize("field", ["file", "weights", "digests"])
def test_a_card_names_no_file_of_another_folder(
    field: str, folder: Path, classifier: vitrail.ViT, tmp_path: Path
) -> None:
    precious, copy = tmp_path / "precious.txt", copy_folder(folder, tmp_path / "copy")
    precious.write_text("mine")
    card = json.loads((copy / "card.json").read_text())
    (one,) = card["functions"].values()
    one[field] = {**one["digests"], "../precious.txt": "0"} if field == "digests" else "../precious.txt"
    (copy / "card.json").write_text(json.dumps(card))
    with pytest.raises(vitrail.ExportError, match=r"must have its files in the folder of the card, got '\.\./precious"):
        vitrail.load_exported(copy)
    with pytest.raises(ValueError, match=r"folder must have no card\.json of something else"):
        vitrail.export(classifier, copy)
    assert precious.read_text() == "mine"


def test_inputs_that_do_not_fit_are_errors(folder: Path) -> None:
    exported = vitrail.load_exported(folder)
    images = np.zeros((2, 8, 12, 3), np.float32)
    with pytest.raises(TypeError, match="images must have dtype float32, got float64"):
        exported(images.astype(np.float64))
    with pytest.raises(ValueError, match=r"images must have shape \(batch, 8, 12, 3\), got \(8, 12, 3\): pass a"):
        exported(images[0])
    for wrong, message in (
        (images[:0], "images must have at least one example in its batch, got shape (0, 8, 12, 3)"),
        (images[:, :4], "images must have shape (batch, 8, 12, 3), got (2, 4, 12, 3)"),
        (
            np.moveaxis(images, 3, 1),
            "images must have shape (batch, 8, 12, 3), got (2, 3, 8, 12): move the channels last",
        ),
        (
            np.moveaxis(images[0], 2, 0),
            "images must have shape (batch, 8, 12, 3), got (3, 8, 12): move the channels last, and pass a single one "
            "as array[None]",
        ),
        (images[0, 0], "images must have shape (batch, 8, 12, 3), got (12, 3)"),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            exported(wrong)
    with pytest.raises(ValueError, match="takes 1 arrays"):
        exported(images, images)


def test_what_cannot_be_exported_is_an_error(classifier: vitrail.ViT, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"merge\(model\)"):
        vitrail.export(vitrail.lora(classifier, key=KEY), tmp_path / "out")
    cudnn = vitrail.Execution(attention="cudnn", compute_dtype="bfloat16")
    with pytest.raises(ValueError, match="runs everywhere, got 'cudnn'"):
        vitrail.export(classifier.with_execution(cudnn), tmp_path / "out")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="folder must be a folder, got the file"):
        vitrail.export(classifier, tmp_path / "file")
    with pytest.raises(FileNotFoundError, match=r"new/a is not a folder: make it before writing .*new/a/b$"):
        vitrail.export(classifier, tmp_path / "new" / "a" / "b")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_model_without_finite_outputs_is_not_exported(classifier: vitrail.ViT, tmp_path: Path) -> None:
    for number, what in ((np.nan, "NaN"), (np.inf, "infinity")):
        bias = jnp.full(5, number)
        broken = eqx.tree_at(lambda model: model.readout.head.linear.bias, classifier, bias)
        with pytest.raises(ValueError, match=rf"^model must give finite outputs, got {what} for drawn images: check"):
            vitrail.export(broken, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def mix_images(outputs: list[Any]) -> list[Any]:
    """As a program that takes the mean over the batch."""
    return [np.broadcast_to(np.mean(array, 0), np.shape(array)) for array in outputs]


@pytest.mark.parametrize(
    "change",
    [
        mix_images,
        lambda outputs: [outputs[0], np.nan * outputs[1]],
        lambda outputs: [outputs[0], np.float32(1.001) * outputs[1]],
    ],
    ids=["mixed images", "NaN in the second output", "a small output that differs"],
)
def test_a_program_that_differs_from_the_model_is_not_written(
    change: Any, classifier: vitrail.ViT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = vitrail.deploy._export

    def list_both(model: Any, image: Any) -> Any:
        (one,) = list_functions(model, image).values()
        both = dataclasses.replace(one, call=lambda image: (model(image), 1e-3 * model(image)), outputs=("a", "b"))
        return {"model": both}

    monkeypatch.setattr(module, "list_functions", list_both)
    run_program = module.run_stablehlo
    monkeypatch.setattr(module, "run_stablehlo", lambda *args: change(list(run_program(*args))))
    with pytest.raises(ValueError, match="the exported function 'model' must equal the model to 1e-05 of its largest"):
        vitrail.export(classifier, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_onnx_names_its_extra_and_computes_in_float32(classifier: vitrail.ViT, tmp_path: Path) -> None:
    if find_spec("jax2onnx") is None:
        with pytest.raises(vitrail.MissingExtraError, match=r"jax2onnx .* the extra 'onnx'"):
            vitrail.export(classifier, tmp_path / "out", format="onnx")
    half = classifier.with_execution(vitrail.Execution(compute_dtype="bfloat16"))
    with pytest.raises(ValueError, match="compute_dtype must be 'float32' for format 'onnx', got 'bfloat16'"):
        vitrail.export(half, tmp_path / "out", format="onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("args", "extra"), [(["out"], "export"), (["out", "--format", "onnx"], "onnx"), (["onnx", "--format=onnx"], "onnx")]
)
def test_the_command_without_its_parser_names_the_extra(
    args: list[str], extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("vitrail._extras.find_spec", lambda name: None)
    assert main(["export", "model.safetensors", *args]) == 1
    assert f"the extra '{extra}'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["file"], "folder must be a folder, got the file file: name another one"),
        (["nowhere/out"], "nowhere is not a folder: make it before writing nowhere/out"),
        (["other"], "card.json"),
        (["out", "--format", "onnx", "--dtype", "bfloat16"], "compute_dtype must be 'float32' for format 'onnx'"),
    ],
)
def test_what_is_wrong_is_found_before_export_reads_weights(
    args: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("other").mkdir()
    Path("other/card.json").write_text("{}")
    monkeypatch.setattr(LoadOptions, "load_model", lambda *_, **__: pytest.fail("weights were read"))
    assert main(["export", "model.safetensors", *args]) == 1
    assert sentence in capsys.readouterr().err


def test_the_command_exports_a_file(
    classifier: vitrail.ViT, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vitrail.save(classifier, tmp_path / "model.safetensors")
    assert main(["export", str(tmp_path / "model.safetensors"), str(tmp_path / "out"), "--weights", "beside"]) == 0
    assert "model: (images: float32 (batch, 8, 12, 3)) -> (logits: float32 (batch, 5))" in capsys.readouterr().out
    images = random_array(2, 8, 12, 3)
    assert_close(vitrail.load_exported(tmp_path / "out")(images), run(jax.vmap(classifier), images))
