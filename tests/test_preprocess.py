"""How pictures are prepared for weights: every kind of picture, sizes and crops, and what lies beside a checkpoint."""

import dataclasses
import io
import json
import math
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_cases import load_cases, published
from helpers import prefix_of, small_model
from PIL import Image

import vitrail
from vitrail import Preprocess

CASES = load_cases()
PLAIN = Preprocess("squash", "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
STATE = np.random.RandomState(0)
PIXELS = STATE.randint(0, 256, (6, 8, 3), np.uint8)


def eight_bits(image: Any, preprocess: Preprocess = PLAIN, size: tuple[int, int] = (6, 8)) -> np.ndarray:
    """The pixels that a model sees, as they were before normalising."""
    return np.round(np.asarray(preprocess(image, size)) * 255).astype(np.uint8)


def reopened(image: Image.Image, kind: str, **options: Any) -> Image.Image:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Image.open(file)


def test_a_picture_of_the_right_size_is_only_normalised() -> None:
    preprocess = Preprocess("squash", "bicubic", (0.5, 0.25, 0.75), (0.5, 0.2, 0.1))
    expected = (PIXELS / 255 - [0.5, 0.25, 0.75]) / [0.5, 0.2, 0.1]
    for image in (PIXELS, Image.fromarray(PIXELS)):
        found = preprocess(image, (6, 8))
        assert type(found) is np.ndarray
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_grey_is_three_times_the_same() -> None:
    grey = PIXELS[..., 0]
    for image in (grey, grey[..., None], Image.fromarray(grey), Image.fromarray(grey).convert("LA")):
        assert np.array_equal(eight_bits(image), np.repeat(grey[..., None], 3, axis=2))
    bits = Image.fromarray(grey > 100)
    assert np.array_equal(eight_bits(bits), np.repeat((grey > 100)[..., None] * np.uint8(255), 3, axis=2))


def test_colours_become_grey_for_one_channel() -> None:
    """By their luma, whatever kind of picture they are in; pictures without colour stay as they are."""
    grey = dataclasses.replace(PLAIN, mean=(0.0,), std=(1.0,))
    luma = np.round(PIXELS @ [0.299, 0.587, 0.114])
    for image in (PIXELS, Image.fromarray(PIXELS), reopened(Image.fromarray(PIXELS), "PNG")):
        found = eight_bits(image, grey)
        assert found.shape == (6, 8, 1)
        assert np.abs(found[..., 0].astype(float) - luma).max() <= 1
    plain = PIXELS[..., 0]
    deep = plain.astype(np.uint16) * 257
    for image in (plain, plain[..., None], Image.fromarray(plain), deep):
        assert np.array_equal(eight_bits(image, grey)[..., 0], plain)
    normal = dataclasses.replace(PLAIN, mean=(0.25,), std=(0.5,))(plain, (6, 8))
    np.testing.assert_allclose(normal[..., 0], (plain / 255 - 0.25) / 0.5, atol=1e-6)


def test_what_is_transparent_lies_on_white() -> None:
    alpha = np.zeros((6, 8, 1), np.uint8)
    alpha[:3] = 255
    alpha[5] = 51
    layer = np.concatenate([PIXELS, alpha], axis=2)
    expected = np.where(alpha == 255, PIXELS, 255).astype(float)
    expected[5] = 0.2 * PIXELS[5] + 0.8 * 255
    for image in (layer, Image.fromarray(layer), reopened(Image.fromarray(layer), "PNG")):
        assert np.abs(eight_bits(image).astype(float) - expected).max() <= 1


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_colours_multiplied_by_their_transparency_are_the_plain_ones(mode: str) -> None:
    plain = Image.fromarray(PIXELS).convert(mode)
    plain.putalpha(255)
    multiplied = plain.convert({"LA": "La", "RGBA": "RGBa"}[mode])
    assert np.array_equal(eight_bits(multiplied), eight_bits(plain))


def test_grey_of_sixteen_bits_is_white_where_it_is_transparent() -> None:
    deep = np.full((6, 8), 5140, np.uint16)
    deep[0] = 257
    image = reopened(Image.fromarray(deep), "PNG")
    image.info["transparency"] = 5140
    found = eight_bits(image)
    assert np.array_equal(found[1:], np.full((5, 8, 3), 255))
    assert np.array_equal(found[0], np.full((8, 3), 1))


def test_a_palette_gives_its_colours_and_its_transparent_one_white() -> None:
    places = STATE.randint(0, 3, (6, 8)).astype(np.uint8)
    colours = np.array([[255, 0, 0], [0, 128, 0], [0, 0, 64]], np.uint8)
    image = Image.new("P", (8, 6))
    image.putpalette(colours.reshape(-1).tolist())
    image.putdata(places.reshape(-1).tolist())
    assert np.array_equal(eight_bits(reopened(image, "PNG")), colours[places])
    see_through = reopened(image, "PNG", transparency=1)
    expected = np.where((places == 1)[..., None], 255, colours[places])
    assert np.array_equal(eight_bits(see_through), expected)


def test_sixteen_bits_are_scaled_to_eight() -> None:
    deep = STATE.randint(0, 65536, (6, 8)).astype(np.uint16)
    expected = np.repeat(np.round(deep / 257).astype(np.uint8)[..., None], 3, axis=2)
    for image in (deep, Image.fromarray(deep), reopened(Image.fromarray(deep), "PNG")):
        assert np.array_equal(eight_bits(image), expected)
    colour = STATE.randint(0, 65536, (6, 8, 3)).astype(np.uint16)
    assert np.array_equal(eight_bits(colour), np.round(colour / 257).astype(np.uint8))


def test_cmyk_becomes_rgb() -> None:
    inks = np.zeros((6, 8, 4), np.uint8)
    inks[:, :4, 0], inks[:, 4:, 3] = 255, 128  # cyan, and half black
    found = eight_bits(Image.frombytes("CMYK", (8, 6), inks.tobytes()))
    assert np.array_equal(found[0, 0], [0, 255, 255])
    assert np.array_equal(found[0, 7], [127, 127, 127])


def test_a_camera_that_lay_on_its_side_is_turned_upright() -> None:
    image = Image.fromarray(np.rot90(PIXELS).copy())
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    turned = reopened(image, "PNG", exif=exif)
    assert np.array_equal(eight_bits(turned), PIXELS)


def with_exif(exif: bytes) -> Image.Image:
    image = Image.fromarray(PIXELS)
    image.info["exif"] = exif
    return image


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        ("cat.jpg", TypeError, "got str: open a file with PIL.Image.open"),
        (PIXELS / 255, ValueError, "must have dtype uint8 or uint16, got float64"),
        (PIXELS.astype(np.int64), ValueError, "got int64"),
        (PIXELS[None], ValueError, r"got \(1, 6, 8, 3\): move the channels last"),
        (PIXELS[:0], ValueError, r"got \(0, 8, 3\): it has no pixels"),
        (PIXELS[..., :2], ValueError, r"got \(6, 8, 2\)"),
        (PIXELS[:0], ValueError, r"got \(0, 8, 3\)"),
        (Image.new("F", (8, 6)), ValueError, "mode F"),
        (Image.new("RGB", (0, 6)), ValueError, "must have pixels, got 6 x 0"),
        (with_exif(b"garbage"), ValueError, "the EXIF of the image cannot be read"),
        (Image.fromarray(np.full((6, 8), 70000, np.int32)), ValueError, "at most 16 bits a channel"),
    ],
)
def test_what_is_no_picture_is_an_error(image: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        PLAIN(image, (6, 8))


@pytest.mark.parametrize(
    "changes",
    [
        {"crop": 0.0},
        {"crop": 1.5},
        {"std": (0.5, 0.0, 0.5)},
        {"mean": (0.5, math.nan, 0.5)},
        {"mean": (0.5,)},
        {"mean": (), "std": ()},
        {"fit": "pad", "crop": 0.5},
        {"fit": "crop", "crop": 0.5},
        {"fit": "none", "crop": 0.5},
        {"unread": (-1, 0)},
        {"mean": (0.5, 0.5), "std": (0.5, 0.5, 0.5)},
    ],
)
def test_numbers_that_cannot_be_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"crop must be|mean and std must|unread must"):
        dataclasses.replace(PLAIN, **changes)


def halves(height: int, width: int) -> np.ndarray:
    """Black on the left, white on the right."""
    return np.repeat((np.arange(width) >= width // 2)[None, :, None] * np.uint8(255), height, axis=0).repeat(3, axis=2)


def test_cover_cuts_squash_squeezes_and_pad_fills_up() -> None:
    wide = halves(8, 32)
    cover, squash, pad = (dataclasses.replace(PLAIN, fit=fit) for fit in ("cover", "squash", "pad"))
    found = eight_bits(wide, cover, (8, 8))
    assert found.shape == (8, 8, 3)
    assert np.array_equal(found, wide[:, 12:20])
    assert eight_bits(wide, squash, (8, 8))[0, :, 0].tolist()[:3] == [0, 0, 0]
    padded = eight_bits(wide, pad, (8, 8))
    assert np.array_equal(padded[2:], np.zeros((6, 8, 3), np.uint8))
    assert padded[0, 7, 0] == 255


def test_a_crop_keeps_the_middle_of_a_larger_picture() -> None:
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 256, axis=0).repeat(3, axis=2)
    cropped = eight_bits(ramp, dataclasses.replace(PLAIN, fit="cover", crop=0.875), (224, 224))
    assert np.array_equal(cropped[0, :, 0], np.arange(16, 240))


@pytest.mark.parametrize(("size", "scaled"), [(224, 400), (224, 256), (384, 439), (16, 49)])
def test_a_crop_costs_no_pixel(size: int, scaled: int) -> None:
    preprocess = dataclasses.replace(PLAIN, fit="cover", crop=size / scaled, half_pixel="down")
    ramp = np.repeat((np.arange(scaled) % 256).astype(np.uint8)[None, :, None], scaled, axis=0).repeat(3, axis=2)
    begin = (scaled - size) // 2
    assert np.array_equal(eight_bits(ramp, preprocess, (size, size)), ramp[begin : begin + size, begin : begin + size])


@pytest.mark.parametrize(("height", "width"), [(1, 20_000), (400_001, 1), (3000, 1), (2, 5001), (3, 40_000)])
@pytest.mark.parametrize("size", [(224, 224), (240, 320)])
def test_a_narrow_picture_is_cut_before_it_is_scaled(height: int, width: int, size: tuple[int, int]) -> None:
    line = (np.arange(max(height, width)) * 37 % 251).astype(np.uint8)
    picture = np.repeat(line[:, None], min(height, width), axis=1)
    picture = picture if height > width else picture.T
    # Of a picture that covers the size, the crop sees this box around the centre. Pillow takes it with fractions.
    scale = max(size[0] / height, size[1] / width)
    high, wide = size[0] / scale, size[1] / scale
    box = (max(width / 2 - wide / 2, 0), max(height / 2 - high / 2, 0), width / 2 + wide / 2, height / 2 + high / 2)
    expected = np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.BICUBIC, box=box))
    seen = eight_bits(picture, dataclasses.replace(PLAIN, fit="cover", interpolation="bicubic"), size)
    assert np.abs(seen[..., 0].astype(int) - expected).max() <= 2


def test_a_size_beyond_all_pictures_is_an_error() -> None:
    with pytest.raises(ValueError, match="size must have at most 100,000,000 pixels, got 20000 x 20000"):
        dataclasses.replace(PLAIN, fit="cover")(np.zeros((9, 9), np.uint8), (20_000, 20_000))


def test_half_a_pixel_goes_to_the_even_one_or_down() -> None:
    ramp = np.repeat(np.arange(11, dtype=np.uint8)[None, :, None], 8, axis=0).repeat(3, axis=2)
    even, down = (dataclasses.replace(PLAIN, fit="cover", half_pixel=rule) for rule in ("even", "down"))
    assert eight_bits(ramp, even, (8, 8))[0, 0, 0] == 2  # 1.5 to 2
    assert eight_bits(ramp, down, (8, 8))[0, 0, 0] == 1


def test_a_border_is_on_all_sides_and_has_the_colour_of_the_mean() -> None:
    border = dataclasses.replace(PLAIN, fit="border", mean=(0.2, 0.4, 0.6))
    found = border.resize(halves(8, 32), (8, 8))
    assert np.array_equal(np.unique(found[[0, 1, 2, 5, 6, 7]].reshape(-1, 3), axis=0), [[51, 102, 153]])
    assert found[3, 0].tolist() == [0, 0, 0]
    assert found[4, 7].tolist() == [255, 255, 255]
    black = dataclasses.replace(border, border="black").resize(halves(8, 32), (8, 8))
    assert not black[[0, 1, 2, 5, 6, 7]].any()
    assert np.array_equal(black[3:5], found[3:5])


def test_a_picture_that_is_not_scaled_is_cut_or_must_have_the_size() -> None:
    crop, none = (dataclasses.replace(PLAIN, fit=fit) for fit in ("crop", "none"))
    wide = halves(8, 32)
    assert np.array_equal(crop.resize(wide, (4, 6)), wide[2:6, 13:19])
    padded = crop.resize(wide, (12, 6))
    assert np.array_equal(padded[2:10], wide[:, 13:19])
    assert not padded[[0, 1, 10, 11]].any()
    assert np.array_equal(none.resize(wide, (8, 32)), wide)
    with pytest.raises(ValueError, match="image must have the size 8 x 8 with fit='none', got 8 x 32"):
        none(wide, (8, 8))


@pytest.mark.parametrize("fit", ["cover", "squash", "border", "pad"])
def test_pixels_that_are_not_read_are_cut_off_at_the_bottom_and_the_right(fit: Any) -> None:
    whole = dataclasses.replace(PLAIN, fit=fit)
    part = dataclasses.replace(whole, unread=(3, 2))
    assert np.array_equal(part(PIXELS, (9, 6)), whole(PIXELS, (12, 8))[:9, :6])
    assert part.compute_full_size((9, 6)) == (12, 8)


# Beside a checkpoint ----------------------------------------------------------------------------------------------


def card_with(folder: Path, settings: dict[str, Any] | None) -> vitrail.ModelCard:
    path = published(CASES["transformers ViTForImageClassification"], folder)
    if settings is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return vitrail.model_card(path)


STATED = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "resample": 3}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (None, ("squash", "bilinear", 1.0)),
        ({"size": {"height": 16, "width": 16}}, ("squash", "bicubic", 1.0)),
        ({"size": 16}, ("squash", "bicubic", 1.0)),
        ({"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": 224}, ("cover", "bicubic", 0.875)),
        (
            {"size": 256, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}},
            ("squash", "bicubic", 0.875),
        ),
        (
            {"size": 256, "crop_size": 224, "feature_extractor_type": "DeiTFeatureExtractor"},
            ("squash", "bicubic", 0.875),
        ),
        (
            {"size": 256, "crop_size": 224, "feature_extractor_type": "CLIPFeatureExtractor"},
            ("cover", "bicubic", 0.875),
        ),
        ({"size": 224, "image_processor_type": "BitImageProcessorFast"}, ("cover", "bicubic", 1.0)),
        ({"size": {"height": 16, "width": 16}, "resample": 0}, ("squash", "nearest", 1.0)),
        ({"size": {"height": 16, "width": 16}, "resample": 4}, ("squash", "box", 1.0)),
        ({"size": {"height": 16, "width": 16}, "resample": 5}, ("squash", "hamming", 1.0)),
        ({"do_resize": False, "size": 16}, ("none", "bicubic", 1.0)),
        ({"do_resize": False, "do_center_crop": True, "crop_size": 16}, ("crop", "bicubic", 1.0)),
        ({"size": {"longest_edge": 1024}, "resample": 2}, ("pad", "bilinear", 1.0)),
    ],
)
def test_hugging_faces_processor_is_read(settings: Any, expected: tuple[Any, ...], tmp_path: Path) -> None:
    preprocess = card_with(tmp_path, None if settings is None else STATED | settings).config.preprocess
    assert preprocess is not None
    assert (preprocess.fit, preprocess.interpolation, preprocess.crop) == expected
    assert preprocess.half_pixel == "down"
    if settings is not None:
        assert (preprocess.mean, preprocess.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


@pytest.mark.parametrize(
    "settings",
    [
        {"resample": [3]},
        {"image_mean": None},
        {},
        {"image_processor_type": "ConvNextImageProcessor"},  # which does things of its own
        {"size": 224, "image_processor_type": "SiglipImageProcessor"},  # a picture of another size each time
        {"size": {"shortest_edge": 224, "longest_edge": 1333}},
        {"size": {"shortest_edge": 224}, "do_center_crop": False},
        {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 112}},
        {"size": {"longest_edge": 1024}, "do_pad": False},
    ],
)
def test_a_processor_that_does_not_say_it_leaves_it_open(settings: dict[str, Any], tmp_path: Path) -> None:
    whole = STATED | {"size": 16} if settings else {}
    card = card_with(tmp_path, whole | settings)
    assert card.config.preprocess is None
    with pytest.raises(ValueError, match="preprocess is not known for these weights"):
        card.preprocess(PIXELS)


CENTRE = {"size": {"shortest_edge": "256"}, "do_center_crop": True, "crop_size": 224}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_mean": [0.5, math.nan, 0.5]}, "mean and std must be finite"),
        ({"image_mean": [0.5, "a", 0.5]}, "must have numbers, got 'a'$"),
        ({"rescale_factor": "1/255"}, "must have numbers, got '1/255'$"),
        (CENTRE, "must have numbers, got '256'$"),
        ({**CENTRE, "size": 100}, "crop must be in"),
    ],
)
def test_a_processor_of_other_than_numbers_is_named(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(vitrail.CheckpointError, match=message):
        card_with(tmp_path, STATED | {"size": 16} | settings)


@pytest.mark.parametrize("given", [5, ["a"]])
def test_timms_numbers_that_are_none_are_named(given: object, tmp_path: Path) -> None:
    path = published(CASES["timm vit_tiny_patch16_224"], tmp_path)
    settings = (CASES["timm vit_tiny_patch16_224"].settings or {}) | {"pretrained_cfg": given}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(vitrail.CheckpointError, match="describes a model that cannot be built"):
        vitrail.load(path)


def test_the_processor_of_version_5_comes_first(tmp_path: Path) -> None:
    """transformers reads the file of version 5 where its image processor is inside, and else the older one."""
    old, new = ({"size": 16, "image_mean": [mean] * 3, "image_std": [0.5] * 3} for mean in (0.1, 0.2))
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": "CLIPProcessor"}))
    assert card_with(tmp_path, old).config.preprocess.mean == (0.1, 0.1, 0.1)  # type: ignore[union-attr]
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": new}))
    assert card_with(tmp_path, old).config.preprocess.mean == (0.2, 0.2, 0.2)  # type: ignore[union-attr]
    model = vitrail.load(tmp_path, part="image")
    changed = vitrail.replace(model, preprocess=dataclasses.replace(PLAIN, mean=(0.3,) * 3, half_pixel="down"))
    vitrail.save(changed, tmp_path, layout="hf_vit")
    assert vitrail.model_card(tmp_path).config.preprocess == changed.config.preprocess


def test_pixels_that_are_not_rescaled_have_a_mean_for_their_own_scale(tmp_path: Path) -> None:
    preprocess = card_with(tmp_path, STATED | {"size": 16, "do_rescale": False}).config.preprocess
    assert preprocess is not None
    pixels = np.full((16, 16, 3), 200, np.uint8)
    expected = (200 - np.array(STATED["image_mean"])) / STATED["image_std"]
    np.testing.assert_allclose(preprocess(pixels, (16, 16))[0, 0], expected, rtol=1e-6)


def test_what_is_known_of_a_family_is_said_to_be_assumed(tmp_path: Path) -> None:
    assert card_with(tmp_path, None).assumed["preprocess"] == "that of the family"
    assert "preprocess" not in card_with(tmp_path, STATED | {"size": 16}).assumed


V1, LINEAR = "ViT_B_16_Weights.IMAGENET1K_V1", "ViT_B_16_Weights.IMAGENET1K_SWAG_LINEAR_V1"


@pytest.mark.parametrize(
    ("weights", "size", "expected"),
    [
        (None, 224, None),  # two are published, and the tensors do not tell them
        (V1, 224, ("bilinear", 0.875)),
        (LINEAR, 224, ("bicubic", 1.0)),
        (None, 384, ("bicubic", 1.0)),
        (None, 240, None),
    ],
)
def test_torchvisions_weights_are_asked_for_where_the_tensors_do_not_tell_them(
    weights: str | None, size: int, expected: Any, tmp_path: Path
) -> None:
    case = CASES["torchvision VisionTransformer"]
    wider = {16: 768, 48: 2304}
    shapes = {name: tuple(wider.get(n, n) for n in shape) for name, shape in case.shapes.items()}
    shapes |= {"conv_proj.weight": (768, 3, 16, 16), "encoder.pos_embedding": (1, (size // 16) ** 2 + 1, 768)}
    config = {"num_heads": 12, **({} if weights is None else {"weights": weights})}
    path = published(dataclasses.replace(case, shapes=shapes), tmp_path)
    found = vitrail.model_card(path, config=config).config.preprocess
    assert (None if found is None else (found.interpolation, found.crop)) == expected
    with pytest.raises(vitrail.CheckpointError, match=r"the setting 'weights' must be one of .*, got 'IMAGENET'"):
        vitrail.model_card(path, config={**config, "weights": "IMAGENET"})


def test_timms_own_numbers_are_read(tmp_path: Path) -> None:
    card = vitrail.model_card(published(CASES["timm vit_base_patch16_clip_224"], tmp_path))
    preprocess = card.config.preprocess
    assert preprocess is not None
    given = (CASES["timm vit_base_patch16_clip_224"].settings or {})["pretrained_cfg"]
    assert (list(preprocess.mean), list(preprocess.std)) == (given["mean"], given["std"])
    assert (preprocess.interpolation, preprocess.crop) == (given["interpolation"], given["crop_pct"])
    assert card.preprocess(PIXELS).shape == (16, 16, 3)
    assert card.licence == given["license"]


def test_preprocessing_stays_with_the_weights(tmp_path: Path) -> None:
    model = vitrail.load(published(CASES["transformers CLIPVisionModel"], tmp_path))
    assert model.config.preprocess == Preprocess("cover", "bicubic", *vitrail.images.CLIP, half_pixel="down")
    vitrail.save(model.resized(32), tmp_path / "m.safetensors")
    card = vitrail.model_card(tmp_path / "m.safetensors")
    assert card.config.preprocess == model.config.preprocess
    assert card.preprocess(PIXELS).shape == (32, 32, 3)
    assert vitrail.model_card(small_model()).config.preprocess is None


# Processes --------------------------------------------------------------------------------------------------------

FORKED = """
    import multiprocessing, warnings
    import jax, jax.numpy as jnp, numpy as np
    import vitrail

    model = vitrail.ViTConfig(
        image_size=(32, 32),
        patch_size=(16, 16),
        size=vitrail.PRESETS["Ti"],
        num_classes=3,
        preprocess=vitrail.Preprocess("pad", "bicubic", *vitrail.images.HALF),
    ).build(key=jax.random.key(0))
    card = vitrail.model_card(model)
    pictures = list(np.random.default_rng(0).integers(0, 256, (4, 40, 50, 3)).astype(np.uint8))
    here = [card.preprocess(picture) for picture in pictures]
    jax.block_until_ready(jax.jit(lambda x: x @ x)(jnp.ones((500, 500))))  # the threads of JAX run
    warnings.simplefilter("ignore")  # JAX and Python warn of forks
    with multiprocessing.get_context("fork").Pool(2) as pool:
        there = pool.map(card.preprocess, pictures)
        normal = pool.map(card.config.preprocess.normalise, pictures)
    assert all(type(array) is np.ndarray and array.dtype == np.float32 for array in there + normal)
    assert all(np.array_equal(a, b) for a, b in zip(here, there))
    print("done")
"""


def test_a_forked_process_prepares_pictures_after_jax_was_used() -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FORKED)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "done\n", done.stderr


def test_numpy_stays_numpy_and_jax_stays_jax() -> None:
    preprocess = Preprocess("squash", "bilinear", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 3)).astype(np.uint8)
    expected = (pixels / 255 - np.array(preprocess.mean)) / np.array(preprocess.std)
    for given in (pixels, pixels.astype(np.float32), pixels[0], np.asfortranarray(pixels)):
        found = preprocess.normalise(given)
        assert type(found) is np.ndarray
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected if given.ndim == 4 else expected[0], rtol=0, atol=1e-6)
    for normalise in (preprocess.normalise, jax.jit(preprocess.normalise)):
        traced = normalise(jnp.asarray(pixels))
        assert isinstance(traced, jax.Array)
        assert traced.dtype == jnp.float32
        np.testing.assert_allclose(traced, expected, rtol=0, atol=1e-6)


# Cards ------------------------------------------------------------------------------------------------------------


def test_a_card_counts_what_xla_counts() -> None:
    changes: list[dict[str, Any]] = [
        {"pool": "cls", "num_registers": 2},
        {"encoder": vitrail.EncoderOptions(activation="swiglu")},
    ]
    for change in changes:
        config = small_model(**change).config
        size = vitrail.EncoderSize(dim=768, depth=1, num_heads=12, mlp_dim=3072)
        config = dataclasses.replace(config, size=size, image_size=(64, 96), patch_size=(8, 8))
        model = config.build(execution=vitrail.Execution(scan=False), key=jax.random.key(0))
        card = vitrail.model_card(model)
        compiled = jax.jit(lambda image, model=model: model(image)).lower(np.zeros((64, 96, 3), np.float32)).compile()
        counted: Any = compiled.cost_analysis()
        assert card.flops == pytest.approx(counted["flops"], rel=0.02)
        assert card.tokens == 8 * 12 + prefix_of(model.backbone).shape[0]
        leaves = [leaf for leaf in jax.tree.leaves(model) if isinstance(leaf, jax.Array)]
        assert card.parameters == sum(leaf.size for leaf in leaves)


def test_a_card_names_what_is_ignored_missing_and_unknown(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    path = published(CASES["transformers ViTMAEForPreTraining"], tmp_path)
    tensors = load_file(path)
    tensors.pop("vit.layernorm.bias")
    save_file(tensors | {"more": np.zeros(2, np.float32)}, path)
    card = vitrail.model_card(path, part="image")
    assert card.layout == "hf_vit"
    assert card.missing == ("'layernorm.bias' for 'backbone.norm.bias'",)
    assert card.unknown == ("more",)
    assert set(card.ignored.values()) == {"MAE's decoder, which only pre-training needs"}
    assert card.config.classes is None
    assert card.dtypes == {"float32": len(tensors) - len(card.ignored)}
    settings = CASES["transformers ViTMAEForPreTraining"].settings or {}
    assert vitrail.model_card(path, config={**settings, "license": "mit"}).licence == "mit"


# Native aspect ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "patch", "most", "expected"),
    [
        ((300, 451), 16, 256, (208, 304)),
        ((512, 512), 16, 256, (256, 256)),
        ((1, 1), 16, 256, (112, 112)),
        ((30, 4000), 16, 256, (16, 2144)),
        ((4000, 30), 16, 256, (2144, 16)),
        ((333, 1000), 14, 100, (84, 224)),
        ((640, 480), 16, 1, (16, 16)),
        ((427, 640), 16, 1024, (416, 624)),
    ],
)
def test_a_picture_of_native_aspect_gets_the_size_that_transformers_gives_it(
    size: tuple[int, int], patch: int, most: int, expected: tuple[int, int]
) -> None:
    """The numbers of `get_image_size_for_max_num_patches`; `tests/oracles` has more, and the pixels."""
    preprocess = Preprocess("native", "bilinear", *vitrail.images.HALF, patch_size=(patch, patch), max_patches=most)
    found = preprocess(np.zeros((*size, 3), np.uint8), (224, 224))
    assert found.shape[:2] == expected
    assert np.all(found == -1)


def test_native_aspect_needs_its_numbers_and_one_array_holds_no_such_images(tmp_path: Path) -> None:
    native = Preprocess("native", "bilinear", (0.5,), (0.5,), patch_size=(4, 4), max_patches=6)
    for changes, message in (
        ({"max_patches": None}, "patch_size and max_patches must be given with fit='native' and with no other"),
        ({"fit": "squash"}, "patch_size and max_patches must be given with fit='native' and with no other"),
        ({"max_patches": 0}, "max_patches must be positive"),
        ({"crop": 0.5}, "crop must be 1 with fit='native'"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(native, **changes)
    with pytest.raises(ValueError, match="preprocess must not have fit='native', which gives each image its own size"):
        vitrail.images.load_images(tmp_path, preprocess=native)
    with pytest.raises(ValueError, match=r"preprocess must have the patch_size of the model, \(2, 4\), got \(4, 4\)"):
        small_model(channels=1, patch_size=(2, 4), preprocess=native)
    model = small_model(channels=1, preprocess=native)
    config = model.resized((16, 24), patch_size=8).config
    assert config.preprocess == dataclasses.replace(native, patch_size=(8, 8))
    assert vitrail.ViTConfig.from_json(config.to_json()) == config
    (height, width), part = model.config.image_size, dataclasses.replace(PLAIN, unread=(3, 2))
    for size, patch, unread in (((height, width), 4, (3, 2)), ((2 * height, 2 * width), 8, (0, 0))):  # of one grid
        resized = small_model(preprocess=part).resized(size, patch_size=patch).config
        assert resized.preprocess == dataclasses.replace(part, unread=unread)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (None, ((4, 4), 256, "bilinear")),
        ({"max_num_patches": 1024, "resample": 3, "patch_size": 16}, ((4, 4), 1024, "bicubic")),
    ],
)
def test_siglip_2_keeps_the_aspect_of_pictures(settings: Any, expected: Any, tmp_path: Path) -> None:
    path = published(CASES["transformers Siglip2VisionModel, packed"], tmp_path)
    if settings is not None:
        pixels = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings | pixels))
    preprocess = vitrail.model_card(path).config.preprocess
    assert preprocess is not None
    assert (preprocess.patch_size, preprocess.max_patches, preprocess.interpolation) == expected
    (tmp_path / "preprocessor_config.json").write_text('{"max_num_patches": 1.5, "image_mean": 0.5, "image_std": 0.5}')
    with pytest.raises(vitrail.CheckpointError, match=r"must have a whole number of patches, got 1\.5"):
        vitrail.model_card(path)


@pytest.mark.parametrize("fit", ["cover", "squash", "pad", "border", "crop"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_channels_that_are_no_colours_are_each_resized_alone(fit: Any, dtype: str) -> None:
    mean, std = (0.1, 0.4, 0.2, 0.3, 0.6), (0.5, 0.4, 0.3, 0.2, 0.1)
    bands = np.random.RandomState(0).randint(0, 2 ** (8 * np.dtype(dtype).itemsize), (40, 33, 5)).astype(dtype)
    prepared = vitrail.Preprocess(fit, "bicubic", mean, std)(bands, (24, 16))
    assert prepared.shape == (24, 16, 5)
    for number in range(5):
        alone = vitrail.Preprocess(fit, "bicubic", mean[number : number + 1], std[number : number + 1])
        assert np.array_equal(prepared[..., number : number + 1], alone(bands[..., number], (24, 16)))


def test_pictures_are_refused_where_channels_are_no_colours() -> None:
    four = vitrail.Preprocess("squash", "bicubic", (0.5,) * 4, (0.5,) * 4)
    with pytest.raises(TypeError, match=r"NumPy array of shape \(height, width, 4\).*got Image: pass np.asarray"):
        four(Image.new("RGBA", (8, 8)), (4, 4))
    with pytest.raises(ValueError, match=r"shape \(height, width, 4\), got \(8, 8, 3\)"):
        four(np.zeros((8, 8, 3), np.uint8), (4, 4))
    with pytest.raises(ValueError, match="dtype uint8 or uint16, got float32"):
        four(np.zeros((8, 8, 4), np.float32), (4, 4))
