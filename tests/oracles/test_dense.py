"""Dense prediction from a picture to a picture: preparing, the map at the picture's size, and files that go back."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import systems_dense
import torch
from checkpoint_cases import TOLERANCE, image_of
from checkpoint_oracle import batch, transformers
from PIL import Image
from safetensors.torch import save_file
from skimage import data
from system_cases import compare

import vitrail
from vitrail.show import choose_classes, resize_depth

PROCESSOR: dict[str, Any] = {
    "image_processor_type": "DPTImageProcessor",
    "keep_aspect_ratio": True,
    "ensure_multiple_of": 14,
    "size": {"height": 56, "width": 56},
    "resample": 3,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
SIZES = [(300, 451), (451, 300), (40, 61), (56, 56), (57, 200), (20, 21), (30, 1000)]


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_pictures_are_prepared_as_its_processor_does(size: tuple[int, int], keep: bool) -> None:
    picture = Image.fromarray(data.chelsea()).resize(size[::-1])
    processor = transformers.DPTImageProcessorPil(**{**PROCESSOR, "keep_aspect_ratio": keep})
    theirs = processor(picture, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    mean, std = (tuple(PROCESSOR[f"image_{name}"]) for name in ("mean", "std"))
    preprocess = vitrail.Preprocess("keep" if keep else "squash", "bicubic", mean, std, multiple=14 if keep else 1)
    ours = preprocess(picture, (56, 56))
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("size", [(300, 451), (7, 5), (30, 64)])
def test_a_map_is_brought_to_the_size_of_a_picture_as_its_processor_does(size: tuple[int, int]) -> None:
    processor = transformers.DPTImageProcessorPil(**PROCESSOR)
    scores = image_of((30, 64), channels=5)
    depth = transformers.modeling_outputs.DepthEstimatorOutput(predicted_depth=batch(scores)[:, 0])
    theirs = processor.post_process_depth_estimation(depth, [size])[0]["predicted_depth"]
    assert np.abs(resize_depth(scores[..., :1], size) - theirs.numpy()).max() <= TOLERANCE * np.abs(scores).max()
    logits = transformers.modeling_outputs.SemanticSegmenterOutput(logits=batch(scores))
    segments = processor.post_process_semantic_segmentation(logits, [size])[0].numpy()
    assert np.mean(choose_classes(scores, size) == segments) > 0.9999  # a tie of two classes is anyone's


def test_a_projection_before_the_depth_gives_the_numbers_of_its_library(tmp_path: Path) -> None:
    case = systems_dense.hugging_face_case(systems_dense.LARGE, image_of(systems_dense.SIZE))
    found = compare(case, case.publish(tmp_path))
    assert max(found.values()) <= TOLERANCE, found


@pytest.mark.parametrize("name", [name for name in systems_dense.CASES if name.startswith("transformers")])
def test_transformers_reads_what_is_written_and_misses_nothing(name: str, tmp_path: Path) -> None:
    image = image_of(systems_dense.SIZE)
    case = systems_dense.CASES[name](image)
    model: vitrail.Dense = vitrail.load(case.publish(tmp_path / "given"))
    vitrail.save(model, tmp_path / "again", layout=case.layout)  # type: ignore[arg-type]
    kind = json.loads((tmp_path / "again" / "config.json").read_text())["architectures"][0]
    theirs, report = getattr(transformers, kind).from_pretrained(tmp_path / "again", output_loading_info=True)
    missing = {key for key in report["missing_keys"] if not key.endswith("mask_token")}
    assert not missing
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    with torch.no_grad():
        found = theirs.eval()(batch(image))
    result = found.logits[0].permute(1, 2, 0) if "Segmentation" in kind else found.predicted_depth[0, ..., None]
    expected = case.outputs["16x16"]
    assert np.abs(result.numpy()[::3, ::3] - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_the_command_draws_what_transformers_predicts(tmp_path: Path) -> None:
    """A photograph through the processor, the model and back, in numbers."""
    name = "transformers DepthAnythingForDepthEstimation"
    case = systems_dense.CASES[name](image_of(systems_dense.SIZE))
    path = case.publish(tmp_path)
    processor = {**PROCESSOR, "ensure_multiple_of": 4, "size": {"height": 16, "width": 16}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    tensors = {key: torch.from_numpy(array) for key, array in case.tensors().items()}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    picture = Image.fromarray(data.chelsea())
    theirs = transformers.DepthAnythingForDepthEstimation.from_pretrained(tmp_path).eval()
    prepared = transformers.DPTImageProcessorPil(**processor)
    with torch.no_grad():
        found = theirs(**prepared(picture, return_tensors="pt"))
    size = picture.height, picture.width
    expected = prepared.post_process_depth_estimation(found, [size])[0]["predicted_depth"].numpy()
    model: vitrail.Dense = vitrail.load(path)
    assert model.config.image.preprocess is not None
    pixels = model.config.image.preprocess(picture, model.config.image.image_size)
    ours = resize_depth(model.resized(pixels.shape[:2])(pixels), size)
    assert np.abs(ours - expected).max() <= TOLERANCE * np.abs(expected).max()
