"""Models exported as ONNX and run by onnxruntime: the numbers of the libraries that published the weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import onnx
import pytest
from checkpoint_cases import TOLERANCE, image_of, load_cases, published
from helpers import assert_close, random_array, small_model
from sam_cases import list_prompts, thin
from system_cases import load_system_cases

import vitrail
from vitrail.cli import main
from vitrail.deploy import Function
from vitrail.deploy._onnx import write_onnx

SIZE = (16, 16)
POOLED = {
    "timm vit_tiny_patch16_224": "logits",  # a class token
    "timm vit_base_patch16_reg4_gap_256": "logits",  # registers and a mean pool
    "timm vit_small_patch16_dinov3": "logits",  # rotations
    "transformers ViTMAEModel": "tokens",
}
"""Image models, and which of the original's outputs the exported one has; of tokens, the class token."""
SYSTEMS = ("transformers CLIPModel", "transformers SiglipModel")


def export(model: Any, folder: Path, **options: Any) -> vitrail.Exported:
    """The model out of ONNX files, which are valid and without operations of a domain of their own."""
    card = vitrail.export(model, folder, format="onnx", **options)
    for function in card.functions.values():
        onnx.checker.check_model(str(folder / function.file), full_check=True)
        program = onnx.load(folder / function.file)
        assert {one.domain for one in program.opset_import} == {""}
        assert not program.functions
    return vitrail.load_exported(folder)


def assert_equal(found: Any, expected: np.ndarray) -> None:
    """Equal to the tolerance of all comparisons, relative to the largest number."""
    assert found.shape == expected.shape
    assert np.abs(np.asarray(found) - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize("name", POOLED)
def test_an_image_model_gives_the_numbers_of_its_library(name: str, tmp_path: Path) -> None:
    case, output = load_cases()[name], POOLED[name]
    exported = export(vitrail.load(published(case, tmp_path / "in"), **case.options), tmp_path / "out")
    images = np.stack([random_array(*SIZE, 3), image_of(SIZE)])
    expected = case.outputs[SIZE][output]
    assert_equal(exported(images)[1], expected[0] if output == "tokens" else expected)


@pytest.mark.parametrize("name", SYSTEMS)
def test_both_towers_give_the_numbers_of_their_library(name: str, tmp_path: Path) -> None:
    case = load_system_cases()[name]
    exported = export(vitrail.load(case.publish(tmp_path / "in")), tmp_path / "out", weights="beside")
    found = exported.functions["image"](np.asarray(case.inputs["image"], np.float32)[None])
    assert_equal(found[0], case.outputs["image"])
    assert_equal(exported.functions["text"](case.inputs["texts"].astype(np.int32)), case.outputs["texts"])


def test_a_dense_model_gives_the_map_of_its_library(tmp_path: Path) -> None:
    case = load_system_cases()["transformers DPTForDepthEstimation"]
    exported = export(vitrail.load(case.publish(tmp_path / "in")), tmp_path / "out")
    assert_equal(exported(case.inputs["16x16"][None])[0, ::3, ::3], case.outputs["16x16"])


def test_sam_gives_the_masks_of_its_library_for_any_number_of_points(tmp_path: Path) -> None:
    case = load_system_cases()["Meta Sam"]
    model = vitrail.load(case.publish(tmp_path / "in"))
    exported = export(model, tmp_path / "out")
    photo = case.inputs["photo"]
    embedding = exported(exported.preprocess(photo)[None])
    assert_equal(thin({"tokens": embedding[0]})["tokens"], case.outputs["tokens"])
    for names in (("a point", "points", "a box"), ("a mask",), ("points and a box", "a point, a box and a mask")):
        _check_masks(exported, embedding, case.outputs, photo.shape[:2], names)


def _list_points(prompt: Any, scale: tuple[float, ...]) -> tuple[list[Any], list[int]]:
    """The points of a prompt in pixels of the larger image, and their labels, as Meta's package has them."""
    points = [] if prompt.points is None else list(prompt.points)
    labels = [] if prompt.points is None else prompt.codes
    if prompt.box is not None:
        points, labels = [*points, prompt.box[:2], prompt.box[2:]], [*labels, 2, 3]
    elif points:
        points, labels = [*points, (0, 0)], [*labels, -1]
    return [(x * scale[0], y * scale[1]) for x, y in points], labels


def _check_masks(
    exported: vitrail.Exported,
    embedding: Any,
    expected: dict[str, np.ndarray],
    size: tuple[int, int],
    names: Sequence[str],
) -> None:
    """Several prompts in one batch, filled up to the longest."""
    prompts = [list_prompts(size)[name] for name in names]
    scale = tuple(round(128 * side / max(size)) / side for side in (size[1], size[0]))
    lists = [_list_points(prompt, scale) for prompt in prompts]
    longest = max(1, *(len(labels) for _, labels in lists))
    points = np.zeros((len(names), longest, 2), np.float32)
    kinds = np.full((len(names), longest), -2, np.int32)
    for row, (places, labels) in enumerate(lists):
        points[row, : len(labels)], kinds[row, : len(labels)] = np.reshape(places, (-1, 2)), labels
    masks = np.stack([np.zeros((32, 32), np.float32) if one.mask is None else one.mask for one in prompts])
    given = np.asarray([one.mask is not None for one in prompts])
    repeated = np.repeat(np.asarray(embedding), len(names), axis=0)
    logits, quality = exported.functions["mask"](repeated, points, kinds, masks, given)
    for row, name in enumerate(names):
        assert_equal(np.asarray(logits[row])[:, ::9, ::9], expected[f"{name}/logits"])
        assert_equal(quality[row], expected[f"{name}/quality"])


def test_weights_lie_beside_the_program_or_within_it(tmp_path: Path) -> None:
    model = small_model()
    images = random_array(3, 8, 12, 3)
    inside, beside = export(model, tmp_path / "a"), export(model, tmp_path / "b", weights="beside")
    assert_close(inside(images), beside(images))
    assert {path.name for path in (tmp_path / "b").iterdir()} == {"card.json", "model.onnx", "model.onnx.data"}
    assert inside.card.functions["model"].weights is None
    (tmp_path / "b" / "model.onnx.data").unlink()
    with pytest.raises(vitrail.ExportError, match=r"model\.onnx\.data is not there"):
        vitrail.load_exported(tmp_path / "b")
    vitrail.export(model, tmp_path / "a")  # another format in its place
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"card.json", "model.stablehlo"}


def test_a_program_that_is_not_equal_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model()
    monkeypatch.setattr(vitrail.deploy._export, "ROUNDING", 1e-12)
    with pytest.raises(ValueError, match="must equal the model to 1e-12"):
        vitrail.export(model, tmp_path / "out", format="onnx")
    assert not list(tmp_path.iterdir())


def test_what_jax2onnx_does_not_know_is_one_sentence(tmp_path: Path) -> None:
    spec = vitrail.exported.ArraySpec("images", (4,), "float32")
    shape = jax.ShapeDtypeStruct((4,), np.float32)

    def call(x: Any) -> Any:
        return jax.pure_callback(np.sin, shape, x, vmap_method="broadcast_all")

    function = Function(call, (spec,), ("y",), (np.zeros(4, np.float32),))
    with pytest.raises(
        ValueError, match=r"^the function 'model' cannot be exported as ONNX, jax2onnx .* says: .*pure_callback"
    ):
        write_onnx(function, tmp_path / "model.onnx", None)
    assert not list(tmp_path.iterdir())


def test_bfloat16_is_not_for_onnx(tmp_path: Path) -> None:
    model = small_model(execution=vitrail.Execution(compute_dtype="bfloat16"))
    with pytest.raises(ValueError, match="compute_dtype must be 'float32' for format 'onnx', got 'bfloat16'"):
        vitrail.export(model, tmp_path / "out", format="onnx")


def test_the_command_exports_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vitrail.save(small_model(), tmp_path / "model.safetensors")
    assert main(["export", str(tmp_path / "model.safetensors"), str(tmp_path / "out"), "--format", "onnx"]) == 0
    assert "model: (images: float32 (batch, 8, 12, 3)) -> (logits: float32 (batch, 5))" in capsys.readouterr().out
