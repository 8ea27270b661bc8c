"""Pictures as vitrail prepares them, against the processors of transformers and the transforms of timm, on photographs.

transformers has each processor twice. The one on Pillow is equalled to the bit. The one on torchvision resamples in
fixed point, which is up to three steps of eight bits away from Pillow in a few of a hundred thousand numbers, so it is
compared with at the 99.9th percentile.
"""

import dataclasses
import importlib
from typing import Any

import numpy as np
import pytest
from checkpoint_oracle import transformers
from PIL import Image
from skimage import data
from timm_oracle import timm

import vitrail
from vitrail import Preprocess
from vitrail.images import HALF
from vitrail.weights import LAYOUTS

PHOTOGRAPHS = {
    "chelsea": Image.fromarray(data.chelsea()),
    "astronaut": Image.fromarray(data.astronaut()),
    "coffee": Image.fromarray(data.coffee()),
    "rocket": Image.fromarray(data.rocket()),
    "camera": Image.fromarray(data.camera()).convert("RGB"),
    "upright": Image.fromarray(data.coffee()).rotate(90, expand=True).resize((301, 577)),
    "small": Image.fromarray(data.chelsea()).resize((131, 97)),
}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
# By the name of the family here: the module and the class there, what the published settings change, and the size.
PROCESSORS: dict[str, tuple[str, str, dict[str, Any], int]] = {
    "vit": ("vit", "ViTImageProcessor", {}, 224),
    "deit": ("deit", "DeiTImageProcessor", IMAGENET, 224),
    "vit_mae": ("vit", "ViTImageProcessor", IMAGENET, 224),
    "dinov2": ("bit", "BitImageProcessor", {"size": {"shortest_edge": 256}, **IMAGENET}, 224),
    "dinov3_vit": ("dinov3_vit", "DINOv3ViTImageProcessor", {}, 224),
    "clip": ("clip", "CLIPImageProcessor", {}, 224),
    "siglip": ("siglip", "SiglipImageProcessor", {}, 224),
    "hf_sam": ("sam", "SamImageProcessor", {}, 1024),
}


# What the layouts of Hugging Face know, by the name of the family.
KNOWN = {
    kind or name: preprocess
    for name, layout in LAYOUTS.items()
    if layout.library.name == "Hugging Face"
    for kind, preprocess in layout.preprocess.items()
}
NATIVE = KNOWN["siglip2"]


def steps(reference: np.ndarray, image: Image.Image, preprocess: Preprocess, size: int) -> np.ndarray:
    """How far apart the two are, in steps of eight bits before normalising."""
    found = np.asarray(preprocess(image, (size, size)))
    assert found.shape == reference.shape
    return np.abs(found - reference) * np.asarray(preprocess.std) * 255


def processor(family: str, ending: str, prefix: str) -> Any:
    module, name, options, _ = PROCESSORS[family]
    found = importlib.import_module(f"{transformers.__name__}.models.{module}.image_processing_{prefix}{module}")
    return getattr(found, name + ending)(**options)


@pytest.mark.parametrize("photograph", PHOTOGRAPHS)
@pytest.mark.parametrize("family", PROCESSORS)
def test_a_picture_is_what_transformers_makes_of_it(family: str, photograph: str) -> None:
    image, preprocess = PHOTOGRAPHS[photograph], dataclasses.replace(KNOWN[family], half_pixel="down")
    size = PROCESSORS[family][3]
    torchvision = processor(family, "", "")(images=image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    found = steps(torchvision, image, preprocess, size)
    assert np.quantile(found, 0.999) <= 1.001
    assert found.max() <= 3.001
    if family != "dinov3_vit":  # which has no processor on Pillow
        pillow = processor(family, "Pil", "pil_")(images=image, return_tensors="np")["pixel_values"][0]
        assert steps(pillow.transpose(1, 2, 0), image, preprocess, size).max() <= 0.001


@pytest.mark.parametrize("photograph", PHOTOGRAPHS)
def test_a_picture_of_native_aspect_is_what_transformers_makes_of_it(photograph: str) -> None:
    image = PHOTOGRAPHS[photograph]
    found = vitrail.pack([NATIVE(image, (0, 0))], 16, 256)
    for ending, prefix, most in (("Pil", "pil_", 0.001), ("", "", 3.001)):
        name = f"{transformers.__name__}.models.siglip2.image_processing_{prefix}siglip2"
        expected = getattr(importlib.import_module(name), f"Siglip2ImageProcessor{ending}")()(
            images=image, return_tensors="np"
        )
        np.testing.assert_array_equal(found.grid, expected["spatial_shapes"])
        assert (np.abs(found.patches - expected["pixel_values"]) * 127.5).max() <= most


@pytest.mark.parametrize("photograph", PHOTOGRAPHS)
@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize(("interpolation", "crop"), [("bicubic", 0.9), ("bilinear", 0.875), ("bicubic", 1.0)])
def test_a_picture_is_what_timm_makes_of_it(photograph: str, crop_mode: str, interpolation: Any, crop: float) -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    transform = timm.data.create_transform(
        (3, 224, 224), interpolation=interpolation, mean=mean, std=std, crop_pct=crop, crop_mode=crop_mode
    )
    reference = transform(PHOTOGRAPHS[photograph]).permute(1, 2, 0).numpy()
    fit = {"center": "cover", "squash": "squash"}[crop_mode]
    preprocess = Preprocess(fit, interpolation, mean, std, crop)  # type: ignore[arg-type]
    assert steps(reference, PHOTOGRAPHS[photograph], preprocess, 224).max() <= 0.001


SHAPES = [(width, height) for width in (1, 7, 100, 333, 1000, 4001) for height in (1, 16, 100, 480, 3000)]


@pytest.mark.parametrize(("patch", "most"), [(16, 256), (14, 100), (16, 1), (32, 1024)])
def test_a_picture_of_native_aspect_gets_the_size_that_the_originals_give_it(patch: int, most: int) -> None:
    ours = Preprocess("native", "bilinear", *HALF, patch_size=(patch, patch), max_patches=most)
    module = importlib.import_module(f"{transformers.__name__}.models.siglip2.image_processing_siglip2")
    naflex = importlib.import_module("timm.data.naflex_transforms")
    for width, height in SHAPES:
        size = ours(Image.new("RGB", (width, height)), (0, 0)).shape[:2]
        assert size == module.get_image_size_for_max_num_patches(height, width, patch, most)
        assert size == tuple(naflex.get_image_size_for_seq((height, width), patch, most)[1])
