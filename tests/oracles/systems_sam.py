"""SAM as a system: the files of Meta's package and of transformers, and what both find in a photo."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from checkpoint_cases import drawn
from safetensors.numpy import load_file
from sam_cases import SEARCH, Arrays, list_prompts, thin
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
from system_cases import SystemCase

from vitrail import Preprocess
from vitrail.images import IMAGENET

SIZE = (150, 97)


def meta_case(image: np.ndarray) -> SystemCase:
    """Meta's `Sam`, its `SamPredictor` and its `SamAutomaticMaskGenerator`."""
    photo = to_photo(image)
    outputs = thin(segment_with_meta(make_meta(), photo, list_prompts(SIZE)))
    masks = find_masks(make_meta(), photo, SEARCH)
    outputs["search/masks"] = np.packbits([mask["segmentation"] for mask in masks])
    for ours, theirs in (("quality", "predicted_iou"), ("stability", "stability_score"), ("area", "area")):
        outputs[f"search/{ours}"] = np.asarray([mask[theirs] for mask in masks])
    with tempfile.TemporaryDirectory() as folder:
        return make_case("sam", write_meta(Path(folder, "sam")), {"photo": photo, "search": np.ones(1)}, outputs)


def hugging_face_case(image: np.ndarray) -> SystemCase:
    """transformers' `SamModel` and its processor."""
    photo = to_photo(image)
    pixels = Preprocess("pad", "bilinear", *IMAGENET)(photo, (IMAGE, IMAGE))
    outputs = thin(segment_with_hugging_face(make_hugging_face(), pixels, SIZE, list_prompts(SIZE)))
    with tempfile.TemporaryDirectory() as name:
        folder = write_hugging_face(Path(name))
        case = make_case("hf_sam", folder / "model.safetensors", {"photo": photo}, outputs)
        case.settings = {"config.json": json.loads((folder / "config.json").read_text())}
    return case


def make_case(layout: str, file: Path, inputs: Arrays, outputs: Arrays) -> SystemCase:
    """The case of a file. Tensors that are not drawn by their names alone are kept."""
    tensors = load_file(file)
    fixed = {name: tensor for name, tensor in tensors.items() if not np.array_equal(tensor, drawn(name, tensor.shape))}
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    return SystemCase(layout, shapes, inputs=inputs, outputs=outputs, fixed=fixed)


def to_photo(image: np.ndarray) -> np.ndarray:
    """An image of numbers around zero as a photo, coarse enough that masks are more than single pixels."""
    coarse = np.clip(image[::8, ::8] * 60 + 127.5, 0, 255).astype(np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)[: SIZE[0], : SIZE[1]]


CASES: dict[str, Callable[[np.ndarray], SystemCase]] = {
    "Meta Sam": meta_case,
    "transformers SamModel": hugging_face_case,
}
