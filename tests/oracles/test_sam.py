"""The whole of SAM against Meta's package and transformers: masks and scores of prompts, the search of all masks."""

import importlib
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_cases import TOLERANCE
from PIL import Image
from safetensors.numpy import load_file
from sam_cases import PHOTO_SIZES, SEARCH, Arrays, list_prompts, photo_of, segment
from sam_oracle import (
    IMAGE,
    find_masks,
    make_hugging_face,
    make_meta,
    segment_with_hugging_face,
    segment_with_meta,
    write_hugging_face,
    write_meta,
)
from skimage import data, measure

import vitrail

PHOTOS: dict[str, np.ndarray] = {
    **{f"{height} x {width}": photo_of((height, width)) for height, width in PHOTO_SIZES},
    "chelsea": data.chelsea(),
    "upright": np.asarray(Image.fromarray(data.coffee()).rotate(90, expand=True).resize((301, 577))),
}


@pytest.fixture(scope="module", params=["sam", "hf_sam"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    """A layout and the model of its file."""
    folder = tmp_path_factory.mktemp(request.param)
    write = {"sam": write_meta, "hf_sam": write_hugging_face}[request.param]
    return request.param, vitrail.load(write(folder / "whole"))


@pytest.fixture(scope="module")
def meta(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Meta's model here."""
    return vitrail.load(write_meta(tmp_path_factory.mktemp("meta") / "whole"))


def run_original(layout: str, model: Any, photo: np.ndarray) -> Arrays:
    """What the original finds."""
    size = photo.shape[0], photo.shape[1]
    if layout == "sam":
        return segment_with_meta(make_meta(), photo, list_prompts(size))
    pixels = model.config.image.preprocess(photo, (IMAGE, IMAGE))
    return segment_with_hugging_face(make_hugging_face(), pixels, size, list_prompts(size))


@pytest.mark.parametrize("photo", PHOTOS)
def test_prompts_give_the_masks_of_the_original(model: tuple[str, Any], photo: str) -> None:
    layout, ours = model
    expected, found = run_original(layout, ours, PHOTOS[photo]), segment(ours, PHOTOS[photo])
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        unsure = TOLERANCE * np.abs(array).max()
        assert np.abs(found[key] - array).max() <= unsure, key
        if key.endswith("large"):  # where a logit is not zero within the tolerance the mask is the same
            clear = np.abs(array) > unsure
            assert np.array_equal((found[key] > 0)[clear], (array > 0)[clear])


SEARCHES: dict[str, dict[str, Any]] = {
    "quality and stability": SEARCH,
    "all": {"points_per_side": 5, "min_quality": 0, "min_stability": 0, "max_overlap": 0.95},
    "crops": {**SEARCH, "crop_layers": 1, "crop_max_overlap": 0.5},
    "fewer points in more crops": {
        **SEARCH, "crop_layers": 2, "crop_points_divisor": 2, "crop_overlap": 0.2, "max_overlap": 0.9,
    },
    "small regions": {**SEARCH, "min_area": 60},
}  # fmt: skip


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("size", [(150, 97), (160, 210)])
def test_the_search_finds_the_masks_of_the_original(
    meta: Any, size: tuple[int, int], search: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # OpenCV is not installed: its regions are those of scikit-image.
    monkeypatch.setitem(sys.modules, "cv2", types.SimpleNamespace(connectedComponentsWithStats=_label))  # type: ignore[arg-type]
    photo = photo_of(size)
    expected = find_masks(make_meta(), photo, SEARCHES[search])
    found = vitrail.find_masks(meta, photo, search=vitrail.MaskSearch(**SEARCHES[search]))
    assert len(found) == len(expected) > 3
    for ours, theirs in zip(found, expected, strict=True):
        assert np.array_equal(ours.mask, theirs["segmentation"])
        assert ours.area == theirs["area"]
        left, top, right, bottom = ours.box
        assert [left, top, right - left, bottom - top] == theirs["bbox"]
        left, top, right, bottom = ours.crop
        assert [left, top, right - left, bottom - top] == theirs["crop_box"]
        np.testing.assert_allclose(ours.point, theirs["point_coords"][0], rtol=1e-12)
        np.testing.assert_allclose(
            [ours.quality, ours.stability], [theirs["predicted_iou"], theirs["stability_score"]], rtol=1e-5
        )


def _label(mask: np.ndarray, connectivity: int) -> tuple[int, np.ndarray, np.ndarray, None]:
    assert connectivity == 8
    regions = measure.label(mask, connectivity=2)
    sizes = np.bincount(regions.reshape(-1))
    return len(sizes), regions, sizes[:, None], None


def test_each_original_reads_what_is_written(model: tuple[str, Any], tmp_path: Path) -> None:
    layout, ours = model
    vitrail.save(ours, tmp_path / "written", layout=layout)  # type: ignore[arg-type]
    if layout == "sam":
        original: Any = importlib.import_module("copy").deepcopy(make_meta())
        with torch.no_grad():
            for parameter in original.parameters():
                parameter.zero_()
        tensors = load_file(tmp_path / "written" / "model.safetensors")
        original.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in tensors.items()})
        expected = make_meta()
    else:
        transformers = importlib.import_module("transformers")
        original, info = transformers.SamModel.from_pretrained(tmp_path / "written", output_loading_info=True)
        assert not any(info.values())
        expected = make_hugging_face()
        configured = original.config.to_dict()
        for part in ("vision_config", "prompt_encoder_config", "mask_decoder_config"):
            wanted = expected.config.to_dict()[part]
            assert {name: configured[part].get(name) for name in wanted} | {"dtype": None} == wanted | {"dtype": None}
    state = original.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.state_dict().items())
