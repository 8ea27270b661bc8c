"""Pictures as vitrail prepares them, against the processors of transformers and the transforms of timm, on photographs.

transformers has each processor twice. The one on Pillow is equalled to the bit. The one on torchvision resamples in
fixed point, which is up to three steps of eight bits away from Pillow in a few of a hundred thousand numbers, so it is
compared with at the 99.9th percentile.
"""

import dataclasses
import importlib
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_oracle import open_clip, randomise, transformers
from PIL import Image
from skimage import data
from timm_oracle import timm

import vitrail
from vitrail import Preprocess
from vitrail.images import HALF
from vitrail.weights import LAYOUTS
from vitrail.weights.formats import ArraySource
from vitrail.weights.layouts import AnyLayout, Checkpoint, FilesBeside

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
    "aimv2": ("clip", "CLIPImageProcessor", {}, 224),
    "tipsv2": ("tipsv2", "Tipsv2ImageProcessor", {}, 448),
    "hf_sam": ("sam", "SamImageProcessor", {}, 1024),
}


# What the layouts of Hugging Face know, by the name of the family.
KNOWN = {
    kind or name: preprocess
    for name, layout in ((name, known.image or known) for name, known in LAYOUTS.items())
    if layout.library.name == "Hugging Face"
    for kind, preprocess in layout.preprocess.items()
}
NATIVE = KNOWN["siglip2"]


def steps(reference: np.ndarray, image: Image.Image, preprocess: Preprocess, size: int | tuple[int, int]) -> np.ndarray:
    """How far apart the two are, in steps of eight bits before normalising."""
    found = np.asarray(preprocess(image, (size, size) if isinstance(size, int) else size))
    assert found.shape == reference.shape
    return np.abs(found - reference) * np.asarray(preprocess.std) * 255


def image_layout(name: str) -> AnyLayout:
    """The layout of the image model alone."""
    return LAYOUTS[name].image or LAYOUTS[name]


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
    if family not in ("dinov3_vit", "tipsv2"):  # which have no processor on Pillow
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


@pytest.mark.parametrize("photograph", PHOTOGRAPHS)
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize(
    ("interpolation", "crop", "size"),
    [
        ("bicubic", 0.9, (224, 224)),
        ("bilinear", None, (224, 224)),
        ("bicubic", 1.0, (224, 224)),
        ("lanczos", 0.95, (256, 192)),
        ("hamming", 1.0, (112, 240)),
        ("nearest", 0.9, (224, 224)),
        ("box", 1.0, (224, 224)),
    ],
)
def test_a_picture_is_what_timm_makes_of_it(
    photograph: str, crop_mode: str, interpolation: str, crop: float | None, size: tuple[int, int], tmp_path: Path
) -> None:
    """The preprocessing is read from the settings that timm resolves."""
    pretrained = {"input_size": [3, *size], "interpolation": interpolation, "crop_mode": crop_mode}
    pretrained |= {} if crop is None else {"crop_pct": crop}
    resolved = timm.data.resolve_data_config(pretrained_cfg=pretrained)
    reference = timm.data.create_transform(**resolved)(PHOTOGRAPHS[photograph]).permute(1, 2, 0).numpy()
    checkpoint = Checkpoint(ArraySource(tmp_path, {}), image_layout("timm"), {"pretrained_cfg": pretrained})
    preprocess = checkpoint.find_preprocess(3)
    assert preprocess is not None
    assert steps(reference, PHOTOGRAPHS[photograph], preprocess, size).max() <= 0.001


@pytest.mark.parametrize("photograph", PHOTOGRAPHS)
@pytest.mark.parametrize("size", [(224, 224), (112, 240)])
@pytest.mark.parametrize(
    "changes",
    [{"resize_mode": "longest"}, {"interpolation": "random"}, {"resize_mode": "squash", "interpolation": "bilinear"}],
)
def test_a_picture_is_what_open_clip_makes_of_it(
    photograph: str, size: tuple[int, int], changes: dict[str, str], tmp_path: Path
) -> None:
    reference = open_clip.image_transform(size, is_train=False, **changes)(PHOTOGRAPHS[photograph])
    settings = {"preprocess_cfg": {"size": list(size), **changes}}
    preprocess = Checkpoint(ArraySource(tmp_path, {}), image_layout("openai_clip"), settings).find_preprocess(3)
    assert preprocess is not None
    assert steps(reference.permute(1, 2, 0).numpy(), PHOTOGRAPHS[photograph], preprocess, size).max() <= 0.001


# By the class of the processor: what a file says, and the size that comes out.
FILES: list[tuple[str, dict[str, Any], int]] = [
    ("DeiTImageProcessor", {"size": 256, "crop_size": 224}, 224),  # the file of 2021
    ("ViTImageProcessor", {"size": 256, "do_center_crop": True, "crop_size": 224}, 224),
    ("ViTImageProcessor", {"size": 224}, 224),
    ("CLIPImageProcessor", {"size": 256, "crop_size": 224}, 224),
    ("BitImageProcessor", {"size": 256, "crop_size": 224}, 224),
    ("BeitImageProcessor", {"size": 224}, 224),
    ("FlavaImageProcessor", {"size": 256, "crop_size": 224}, 224),
    ("ChineseCLIPImageProcessor", {"size": 224, "crop_size": 224}, 224),
    ("ViTImageProcessor", {"size": 224, "resample": 0}, 224),
    ("ViTImageProcessor", {"size": 224, "resample": 4}, 224),
    ("ViTImageProcessor", {"size": 224, "resample": 5}, 224),
    ("ViTImageProcessor", {"size": 224, "do_rescale": False}, 224),
    ("ViTImageProcessor", {"size": 224, "rescale_factor": 1 / 127.5}, 224),
    ("ViTImageProcessor", {"size": 224, "do_normalize": False}, 224),
    ("CLIPImageProcessor", {"do_resize": False, "crop_size": 224}, 224),
    ("CLIPImageProcessor", {"do_resize": False, "crop_size": 90}, 90),
]


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("photograph", ["upright", "small"])
@pytest.mark.parametrize(("name", "said", "size"), FILES)
def test_a_file_beside_the_weights_is_read_as_transformers_reads_it(
    name: str, said: dict[str, Any], size: int, photograph: str, version: int, tmp_path: Path
) -> None:
    """What the file leaves out is the class's own. Version 5 writes it inside `processor_config.json`."""
    old = name.replace("ImageProcessor", "FeatureExtractor")
    if version == 4:
        files = {"preprocessor_config.json": {"feature_extractor_type": old, **said}}
    else:
        files = {"processor_config.json": {"image_processor": {"image_processor_type": name, **said}}}
    for file, content in files.items():
        (tmp_path / file).write_text(json.dumps(content))
    # Where nothing is resampled, the one on torchvision is exact, and pads as the default of transformers does.
    ending = "" if said.get("do_resize") is False else "Pil"
    read = getattr(transformers, name + ending).from_pretrained(tmp_path)
    reference = np.asarray(read(images=PHOTOGRAPHS[photograph], return_tensors="np")["pixel_values"][0])
    source = ArraySource(tmp_path / "model.safetensors", {})
    with ExitStack() as opened:
        checkpoint = Checkpoint(source, image_layout("hf_dinov2"), {}, FilesBeside(source, opened))
        preprocess = checkpoint.find_preprocess(3)
    assert preprocess is not None
    assert steps(reference.transpose(1, 2, 0), PHOTOGRAPHS[photograph], preprocess, size).max() <= 0.001


def test_pixels_that_no_patch_reads_are_left_out_as_a_convolution_does(tmp_path: Path) -> None:
    """SigLIP So400m/14 at 384: 27 patches of 14 read 378 of the 384 pixels."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    model = randomise(
        transformers.SiglipVisionModel(transformers.SiglipVisionConfig(image_size=34, patch_size=14, **sizes))
    )
    model.save_pretrained(tmp_path)
    processor = transformers.SiglipImageProcessorPil(size={"height": 34, "width": 34})
    processor.save_pretrained(tmp_path)
    picture = PHOTOGRAPHS["chelsea"]
    pixels = processor(images=picture, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        reference = model(pixels).pooler_output[0].numpy()
    card, ours = vitrail.model_card(tmp_path), vitrail.load(tmp_path, part="image")
    assert (card.config.image_size, card.config.preprocess.unread) == ((28, 28), (6, 6))  # type: ignore[union-attr]
    found = np.asarray(ours(card.preprocess(picture)))
    assert np.abs(found - reference).max() <= 1e-5 * np.abs(reference).max()
    vitrail.save(ours, tmp_path / "written", layout="hf_siglip")
    assert json.loads((tmp_path / "written" / "config.json").read_text())["image_size"] == 34
    with torch.no_grad():
        again = transformers.SiglipVisionModel.from_pretrained(tmp_path / "written")(pixels).pooler_output[0].numpy()
    assert np.abs(again - reference).max() <= 1e-5 * np.abs(reference).max()
    assert vitrail.model_card(tmp_path / "written").config == card.config
    assert ours.resized(56).config.preprocess.unread == (0, 0)  # type: ignore[union-attr]
