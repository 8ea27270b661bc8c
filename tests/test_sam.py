"""Segment Anything: against what the originals found, as files of each kind, and with prompts that do not fit."""

import dataclasses
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, run
from PIL import Image
from safetensors.numpy import load_file, save_file
from sam_cases import MASK_SIZE, PHOTO_SIZES, SEARCH, draw_tensor, photo_of
from system_cases import load_system_cases

import vitrail
from vitrail import CheckpointError, MaskSearch, SegmentAnything

KEY = jax.random.key(0)
PHOTO = PHOTO_SIZES[1]
HEIGHT, WIDTH = PHOTO
CASES = {case.layout: case for case in load_system_cases().values() if "sam" in case.layout}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each layout."""
    return {name: case.publish(tmp_path_factory.mktemp("published") / name).parent for name, case in CASES.items()}


@pytest.fixture(scope="module")
def sam(folders: dict[str, Path]) -> SegmentAnything:
    """The model of Meta's file."""
    return vitrail.load(folders["sam"])


@pytest.fixture(scope="module")
def image(sam: SegmentAnything) -> vitrail.EmbeddedImage:
    """A photo as it sees it."""
    return sam.embed(photo_of(PHOTO))


def test_a_found_mask_says_where_it_is(sam: SegmentAnything) -> None:
    for one in vitrail.find_masks(sam, photo_of(PHOTO), search=MaskSearch(**SEARCH)):
        rows, cols = np.nonzero(one.mask)
        assert one.box == (cols.min(), rows.min(), cols.max(), rows.max())
        assert one.crop == (0, 0, WIDTH, HEIGHT)
        assert one.area == len(rows)
        assert one.point[0] < WIDTH
        assert one.point[1] < HEIGHT
        assert one.quality > SEARCH["min_quality"]
        assert one.stability >= SEARCH["min_stability"]


def test_no_mask_is_good_enough(sam: SegmentAnything) -> None:
    search = MaskSearch(**{**SEARCH, "min_quality": 9.0, "crop_layers": 1, "min_area": 5})
    assert vitrail.find_masks(sam, photo_of(PHOTO), search=search) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"points_per_side": 0}, "points_per_side must be positive, got 0"),
        ({"min_quality": -0.1}, "min_quality must be finite and not negative"),
        ({"crop_overlap": 1.0}, r"crop_overlap must be in \[0, 1\), got 1.0"),
        ({"points_per_side": 3, "crop_layers": 2, "crop_points_divisor": 2}, "the last layer would have no points"),
    ],
)
def test_a_search_that_is_none(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskSearch(**changes)


def test_crops_have_pixels(sam: SegmentAnything) -> None:
    with pytest.raises(ValueError, match="crop_layers must leave pixels in each crop, got 3 for a picture of 9 x 5"):
        vitrail.find_masks(sam, photo_of((9, 5)), search=MaskSearch(crop_layers=3))


def test_a_picture_that_another_model_embedded(sam: SegmentAnything, image: vitrail.EmbeddedImage) -> None:
    larger = sam.resized(2 * sam.config.image.image_size[0])
    assert jax.tree.structure(larger) == jax.tree.structure(eqx.filter_eval_shape(larger.config.build, key=KEY))
    with pytest.raises(ValueError, match=r"image must be embedded by this model, which reads .* use the embed of"):
        larger.segment(image, points=[(5, 7)])
    with pytest.raises(ValueError, match=r"tokens must have shape \(.*embed the image with the same model"):
        sam.segment(dataclasses.replace(image, tokens=image.tokens[..., :-1]), points=[(5, 7)])


def test_how_a_prompt_is_filled_up_does_not_matter(sam: SegmentAnything, image: vitrail.EmbeddedImage) -> None:
    points = np.asarray([(5.0, 7.0), (60.0, 90.0), (33.0, 12.0)])
    found = sam.segment(image, points=points, labels=[1, 0, 1])
    scale = np.asarray(image.scaled_size[::-1]) / np.asarray(image.size[::-1])
    places = jnp.asarray(np.concatenate([points * scale, np.zeros((1, 2))]), jnp.float32)
    logits, quality = run(sam, image.tokens, places, jnp.asarray([1, 0, 1, -1]))
    assert_close(found.logits, logits[1:])
    assert_close(found.quality, quality[1:])
    filled = jnp.concatenate([places, jnp.full((2, 2), 50.0)]), jnp.asarray([1, 0, 1, -1, -2, -2])
    batch = run(jax.vmap(sam, in_axes=(None, 0, 0)), image.tokens, filled[0][None], filled[1][None])
    assert_close(batch[0][0], logits)
    assert found.best == int(np.argmax(quality[1:]))


def test_a_picture_turned_by_exif_is_the_turned_picture(sam: SegmentAnything, image: vitrail.EmbeddedImage) -> None:
    turned = Image.fromarray(photo_of(PHOTO)).transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[0x0112] = 6  # is to be turned by 270 degrees
    again = sam.embed(turned)
    assert again.size == PHOTO
    assert_close(again.tokens, image.tokens)


def test_half_precision_gives_nearly_the_same(sam: SegmentAnything, image: vitrail.EmbeddedImage) -> None:
    half = sam.with_execution(vitrail.Execution(compute_dtype="bfloat16")).with_dropout(vitrail.Dropout(rate=0.1))
    embedded = half.embed(photo_of(PHOTO))
    assert np.any(np.asarray(half.embed(photo_of(PHOTO), key=KEY).tokens != embedded.tokens))
    found = half.segment(embedded, points=[(5, 7)])
    expected = sam.segment(image, points=[(5, 7)])
    assert found.logits.dtype == found.quality.dtype == jnp.float32
    assert np.mean(np.asarray(found.masks) == np.asarray(expected.masks)) > 0.9


# --- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", CASES)
def test_a_card_says_that_it_is_a_system(folders: dict[str, Path], layout: str) -> None:
    card = vitrail.model_card(folders[layout])
    assert (card.kind, card.layout, card.missing, card.unknown) == ("segment_anything", layout, (), ())


def test_hugging_faces_older_files_name_the_frequencies_twice(folders: dict[str, Path], tmp_path: Path) -> None:
    expected = vitrail.load(folders["hf_sam"])
    tensors = load_file(folders["hf_sam"] / "model.safetensors")
    shared, other = (
        "shared_image_embedding.positional_embedding",
        "prompt_encoder.shared_embedding.positional_embedding",
    )
    for number, names in enumerate(((shared, other), (other,))):
        kept = {name: tensor for name, tensor in tensors.items() if name != shared}
        folder = tmp_path / str(number)
        folder.mkdir()
        save_file(kept | dict.fromkeys(names, tensors[shared]), folder / "model.safetensors")
        (folder / "config.json").write_bytes((folders["hf_sam"] / "config.json").read_bytes())
        assert eqx.tree_equal(vitrail.load(folder), expected)


def test_what_settings_do_not_say_is_assumed(folders: dict[str, Path], tmp_path: Path) -> None:
    save_file(load_file(folders["hf_sam"] / "model.safetensors"), tmp_path / "alone.safetensors")
    card = vitrail.model_card(tmp_path / "alone.safetensors")
    assert card.assumed["num_attention_heads"] == 8
    config = vitrail.load(tmp_path / "alone.safetensors").config
    assert (config.activation, config.norm_eps, config.mask_activation) == ("relu", 1e-6, "gelu")
    assert vitrail.load(folders["sam"]).config.norm_eps == 1e-5


def test_the_mask_decoder_of_sam_hq_is_another(folders: dict[str, Path], tmp_path: Path) -> None:
    tensors = load_file(folders["sam"] / "model.safetensors")
    save_file(tensors | {"mask_decoder.hf_token.weight": np.ones((1, 32), np.float32)}, tmp_path / "hq.safetensors")
    assert isinstance(vitrail.load(tmp_path / "hq.safetensors"), vitrail.ViT)


def test_a_file_with_half_a_decoder(folders: dict[str, Path], tmp_path: Path) -> None:
    tensors = load_file(folders["sam"] / "model.safetensors")
    lost = "mask_decoder.transformer.layers.1.norm4.weight"
    save_file({name: tensor for name, tensor in tensors.items() if name != lost}, tmp_path / "half.safetensors")
    with pytest.raises(CheckpointError, match=rf"half\.safetensors, of the layout 'sam', lacks '{lost}'"):
        vitrail.load(tmp_path / "half.safetensors")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 3}, "must be divisible by num_heads"),
        ({"narrowing": 64}, "narrowing must divide the token_dim of image into heads"),
        ({"narrowing": 8}, "narrowing must divide the token_dim of image into heads"),
        ({"mask_channels": 6}, "a multiple of 8 and mask_channels of 4"),
        ({"depth": 0}, "depth must be positive, got 0"),
        ({"norm_eps": 0.0}, "norm_eps must be a finite number above zero"),
    ],
)
def test_a_configuration_that_is_none(sam: SegmentAnything, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(sam.config, **changes)


def test_an_image_model_with_a_class_token_is_refused(sam: SegmentAnything) -> None:
    with pytest.raises(ValueError, match="image must have patch tokens alone"):
        dataclasses.replace(sam.config, image=dataclasses.replace(sam.config.image, class_token=True))


# --- prompts that do not fit ----------------------------------------------------------------------------------------

INSIDE = r"must be in the picture, whose width is 97 and height 150, got"


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({}, r"^a prompt must have points, a box or a mask, got none: pass points=\[\(x, y\)\]$"),
        ({"labels": [1]}, r"^labels must come with points, got labels alone"),
        (
            {"points": [(97, 5)]},
            rf"^points {INSIDE} x = 97 and y = 5: x counts pixels from the left and y from the top",
        ),
        ({"points": [(3, 4), (5, -1)]}, rf"^points {INSIDE} x = 5 and y = -1"),
        ({"points": [(float("nan"), 4)]}, r"^points must be finite"),
        (
            {"points": np.asarray((3, 4))},
            r"^points must have shape \(points, 2\).*got \(2,\): pass a single point as \[\(x, y\)\]$",
        ),
        ({"points": np.zeros((0, 2))}, r"^points must have shape \(points, 2\)"),
        ({"points": [(1, 2), (3,)]}, r"^points must be numbers"),
        ({"points": [(3, 4)], "labels": [2]}, r"^labels must have a 1 .* for each of the 1 points, got \[2\.0\]$"),
        ({"points": [(3, 4)], "labels": [1, 1]}, r"^labels must have a 1"),
        (
            {"box": (10, 10, 5, 20)},
            r"^box must be \(left, top, right, bottom\) with left < right .*got \(10\.0, 10\.0, 5",
        ),
        ({"box": (10, 10, 10, 20)}, r"^box must be"),
        ({"box": (10, 10, 98, 20)}, rf"^box {INSIDE} \(10\.0, 10\.0, 98\.0, 20\.0\): cut it to the picture$"),
        (
            {"box": np.asarray([(10, 10, 20, 20)])},
            r"^box must be \(left, top, right, bottom\), got shape \(1, 4\): pass one box",
        ),
        ({"mask": np.zeros(PHOTO, np.float32)}, r"^mask must be the logits.* shape \(32, 32\), got .*\(150, 97\)"),
        ({"mask": np.zeros(MASK_SIZE, bool)}, r"^mask must be the logits of one mask, floating point .*got bool"),
    ],
)
def test_a_prompt_that_does_not_fit(
    sam: SegmentAnything, image: vitrail.EmbeddedImage, prompt: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        sam.segment(image, **prompt)


def test_an_edge_of_the_picture_is_in_it(sam: SegmentAnything, image: vitrail.EmbeddedImage) -> None:
    found = sam.segment(
        image, points=[(WIDTH - 1, HEIGHT - 1)], box=(0, 0, WIDTH, HEIGHT), mask=draw_tensor("m", MASK_SIZE)
    )
    assert np.isfinite(found.logits).all()


@pytest.mark.parametrize("preprocess", [None, vitrail.Preprocess("squash", "bilinear", (0.5,) * 3, (0.5,) * 3)])
def test_how_pictures_are_prepared_must_be_known(sam: SegmentAnything, preprocess: vitrail.Preprocess | None) -> None:
    config = dataclasses.replace(sam.config, image=dataclasses.replace(sam.config.image, preprocess=preprocess))
    other = dataclasses.replace(sam, config=config)
    with pytest.raises(ValueError, match=r"^config\.image\.preprocess must scale the longer side and pad"):
        other.embed(photo_of(PHOTO))


def test_a_picture_that_is_none(sam: SegmentAnything) -> None:
    with pytest.raises(ValueError, match="image must have dtype uint8 or uint16, got float32"):
        sam.embed(np.zeros((4, 4, 3), np.float32))
