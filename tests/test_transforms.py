"""Random changes of pictures on the host, against Pillow and NumPy. tests/oracles compares them with the originals."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import pytest
from helpers import small_model
from PIL import Image, ImageEnhance, ImageOps

import vitrail
from vitrail import images, train

PIXELS = np.random.default_rng(0).integers(20, 240, (30, 41, 3), dtype=np.uint8)
COLOUR = Image.fromarray(PIXELS)
GREY = COLOUR.convert("L")
MEAN, STD = (0.5, 0.25, 0.75), (0.1, 0.05, 0.1)
OF_COLOUR = images.Preprocess("cover", "bicubic", MEAN, STD)
OF_GREY = images.Preprocess("cover", "bicubic", (0.5,), (0.2,))


def make(*choices: Any, preprocess: images.Preprocess = OF_COLOUR) -> tuple[images.AbstractTransform, ...]:
    context = images.TransformContext(image_size=(12, 8), patch_size=(4, 2), preprocess=preprocess)
    return images.make_transforms(choices, context)


def change(image: Image.Image, *choices: Any, seed: int = 0, **context: Any) -> Mapping[str, np.ndarray]:
    return images.augment(image, make(*choices, **context), random=np.random.default_rng(seed))


def configure(name: str, **options: Any) -> Any:
    return images.TRANSFORMS.configure(name, **options)


@pytest.mark.parametrize("name", images.TRANSFORMS)
def test_a_transform_depends_on_the_seed_only_and_keeps_the_picture(name: str):
    for picture, preprocess in ((COLOUR, OF_COLOUR), (GREY, OF_GREY)):
        before = picture.copy()
        made = [change(picture, name, seed=seed, preprocess=preprocess) for seed in (*range(24), *range(24))]
        assert picture == before
        for first, second in zip(made[:24], made[24:], strict=True):
            assert {n: a.tobytes() for n, a in first.items()} == {n: a.tobytes() for n, a in second.items()}
        size = (12, 8) if name in ("random_resized_crop", "multi_crop") else (30, 41)
        channels = len(picture.getbands())
        if name == "multi_crop":
            shapes = {"large": (2, 12, 8, channels), "small": (8, 4, 4, channels)}
        else:
            shapes = {"image": (*size, channels)}
        assert all({n: a.shape for n, a in each.items()} == shapes for each in made)
        first = next(iter(shapes))
        assert len({each[first].tobytes() for each in made}) > 1


def test_several_are_applied_in_order():
    flipped = change(COLOUR, "random_resized_crop", configure("horizontal_flip", probability=1.0), seed=3)["image"]
    crop = make("random_resized_crop")[0]
    assert isinstance(crop, images.RandomResizedCrop)
    top, left, tall, wide = crop.draw_box(30, 41, random=np.random.default_rng(3))
    expected = Image.fromarray(PIXELS[top : top + tall, left : left + wide]).resize((8, 12), Image.Resampling.BICUBIC)
    assert np.array_equal(flipped, np.asarray(expected)[:, ::-1])


def test_a_box_has_the_area_and_the_proportions_asked_for():
    crop = images.RandomResizedCrop(image_size=(4, 4), scale=(0.2, 0.5), ratio=(0.8, 1.6))
    random = np.random.default_rng(0)
    boxes = np.array([crop.draw_box(900, 1200, random=random) for _ in range(400)])
    top, left, tall, wide = boxes.T
    assert ((top >= 0) & (left >= 0) & (top + tall <= 900) & (left + wide <= 1200)).all()
    area, ratio = tall * wide / (900 * 1200), wide / tall
    assert 0.198 < area.min() < 0.21 < 0.49 < area.max() < 0.502
    assert 0.798 < ratio.min() < 0.83 < 1.54 < ratio.max() < 1.604
    assert abs(np.log(ratio).mean() - np.log(0.8 * 1.6) / 2) < 0.03
    narrow = images.RandomResizedCrop(image_size=(4, 4), scale=(1.0, 1.0), ratio=(1.0, 1.0))
    assert narrow.draw_box(10, 31, random=random) == (0, 10, 10, 10)  # none fits: the middle


def expect_strongest(*, increasing: bool) -> list[np.ndarray]:
    """What RandAugment makes of the picture at its largest magnitude: the results of its fifteen changes."""
    dark = ImageEnhance.Color, ImageEnhance.Contrast, ImageEnhance.Brightness, ImageEnhance.Sharpness
    factors = (0.1, 1.9) if increasing else (1.9,)
    fill, bicubic = (128, 64, 191), Image.Resampling.BICUBIC

    def warp(*matrix: float) -> Image.Image:
        return COLOUR.transform(COLOUR.size, Image.Transform.AFFINE, matrix, bicubic, fillcolor=fill)

    made = [ImageOps.autocontrast(COLOUR), ImageOps.equalize(COLOUR), 255 - PIXELS]
    made += [COLOUR.rotate(angle, bicubic, fillcolor=fill) for angle in (30, -30)]
    made += [PIXELS & 0x80, 255 - PIXELS] if increasing else [PIXELS & 0xF0, PIXELS]
    made += [np.where(PIXELS < 128, np.minimum(PIXELS + 110.0, 255), PIXELS).astype(np.uint8)]
    made += [enhancer(COLOUR).enhance(factor) for enhancer in dark for factor in factors]
    for sign in (1, -1):
        made += [warp(1, 0.3 * sign, 0, 0, 1, 0), warp(1, 0, 0, 0.3 * sign, 1, 0)]
        made += [warp(1, 0, 0.45 * sign * 41, 0, 1, 0), warp(1, 0, 0, 0, 1, 0.45 * sign * 30)]
    return [np.asarray(image) for image in made]


@pytest.mark.parametrize("increasing", [True, False])
def test_rand_augment_makes_fifteen_changes_equally_often(increasing: bool):
    expected = {image.tobytes() for image in expect_strongest(increasing=increasing)}
    options: dict[str, Any] = {"magnitude": 10.0, "magnitude_std": 0.0, "increasing": increasing}
    choice = configure("rand_augment", layers=1, probability=1.0, **options)
    made = [change(COLOUR, choice, seed=seed)["image"].tobytes() for seed in range(600)]
    assert set(made) == expected
    assert abs(made.count((255 - PIXELS).tobytes()) / 600 - (2 if increasing else 1) / 15) < 0.04
    rarely = make(configure("rand_augment", layers=1, probability=0.25, **options))
    random = np.random.default_rng(0)
    same = [images.augment(COLOUR, rarely, random=random)["image"].tobytes() == PIXELS.tobytes() for _ in range(400)]
    assert abs(np.mean(same) - (0.75 if increasing else 0.75 + 0.25 / 15)) < 0.06


def test_three_augment_makes_three_changes():
    made = {change(COLOUR, configure("three_augment"), seed=seed)["image"].tobytes() for seed in range(60)}
    solarized = np.where(PIXELS < 128, PIXELS, 255 - PIXELS)
    grey = np.repeat(np.asarray(GREY)[..., None], 3, axis=-1)
    assert {solarized.tobytes(), grey.tobytes()} < made
    assert 10 < len(made) < 40  # the others are blurred, by another radius each


def test_colours_change_by_the_factors_asked_for():
    for option, enhancer in (("brightness", ImageEnhance.Brightness), ("contrast", ImageEnhance.Contrast)):
        choice = configure("color_jitter", **{"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, option: 0.5})
        random = np.random.default_rng(7)
        random.permutation(4)
        factors = [
            random.uniform(0.5, 1.5) if name == option else random.uniform(1, 1) for name in ("brightness", "contrast")
        ]
        factor = factors[("brightness", "contrast").index(option)]
        expected = np.asarray(enhancer(COLOUR).enhance(factor))
        assert np.array_equal(change(COLOUR, choice, seed=7)["image"], expected)
    red = Image.new("RGB", (4, 4), (200, 0, 0))
    turned = [change(red, configure("color_jitter", hue=0.5), seed=seed)["image"][0, 0] for seed in range(40)]
    assert all(colour.max() > colour.min() for colour in turned)
    assert {int(colour.argmax()) for colour in turned} == {0, 1, 2}


def test_erased_boxes_have_the_colours_of_the_data():
    plain = Image.new("RGB", (200, 100), (7, 8, 9))
    shares: list[float] = []
    found: list[np.ndarray] = []
    for seed in range(30):
        pixels = change(plain, configure("random_erasing", probability=1.0), seed=seed)["image"]
        erased = (pixels != (7, 8, 9)).any(-1)
        rows, cols = (np.flatnonzero(erased.any(axis)) for axis in (1, 0))
        box = pixels[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
        shares.append(box[..., 0].size / 20_000)
        found.append(box.reshape(-1, 3))
    assert 0.019 < min(shares) < 0.1 < 0.2 < max(shares) < 0.335
    drawn = np.concatenate(found) / 255
    np.testing.assert_allclose(drawn.mean(0), MEAN, atol=0.005)
    np.testing.assert_allclose(drawn.std(0), STD, rtol=0.05)
    pixels = change(plain, configure("random_erasing", probability=1.0, fill="mean"))["image"]
    assert {tuple(pixel) for pixel in pixels.reshape(-1, 3).tolist()} == {(7, 8, 9), (128, 64, 191)}
    kept = [(change(plain, "random_erasing", seed=seed)["image"] == (7, 8, 9)).all() for seed in range(200)]
    assert abs(np.mean(kept) - 0.75) < 0.1


def test_crops_of_two_sizes_are_wholes_of_patches():
    crops = change(COLOUR, configure("multi_crop", num_small=3, small_size=(5, 6)))
    assert {name: array.shape for name, array in crops.items()} == {"large": (2, 12, 8, 3), "small": (3, 5, 6, 3)}
    assert change(COLOUR, configure("multi_crop", num_small=0))["small"].shape == (0, 4, 4, 3)
    for patch, small in ((16, 96), (14, 98), (32, 96)):
        made = images.MultiCrop(image_size=(224, 224), patch_size=(patch, patch), num_small=1)
        assert made(COLOUR, random=np.random.default_rng(0))["small"].shape == (1, small, small, 3)


def test_what_returns_no_picture_is_named():
    @dataclasses.dataclass(frozen=True)
    class Pixels(images.AbstractTransform):
        def __call__(self, image: Any, *, random: np.random.Generator) -> Any:
            return np.asarray(image)

    with pytest.raises(TypeError, match="Pixels must return a picture of Pillow, or arrays by name, got a NumPy"):
        images.augment(COLOUR, (Pixels(),), random=np.random.default_rng(0))
    with pytest.raises(
        vitrail.OptionError, match=r"horizontal_flip\(.*\) has a wrong option: probability of .* a float"
    ):
        make(configure("horizontal_flip", probability="often"))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: images.RandomResizedCrop(image_size=(0, 3)), "image_size must be positive"),
        (lambda: images.RandomResizedCrop(image_size=(3, 3), scale=(0.5, 1.5)), "scale must be .* at most 1, got"),
        (lambda: images.HorizontalFlip(probability=1.5), r"probability must be in \[0, 1\], got 1.5"),
        (lambda: images.ColorJitter(hue=0.6), "hue must be at most 0.5"),
        (lambda: images.ColorJitter(contrast=-1.0), "contrast must be finite and not negative"),
        (lambda: make(configure("rand_augment", magnitude=11.0)), "magnitude must be at most 10"),
        (lambda: images.ThreeAugment(radius=(2.0, 1.0)), "radius must be a smaller and a larger number, got"),
        (lambda: make(configure("random_erasing", ratio=(0.0, 1.0))), "ratio must be a finite number above zero"),
        (
            lambda: make("multi_crop", "horizontal_flip"),
            "the transform 'multi_crop' must be the last of the transforms",
        ),
    ],
)
def test_what_makes_no_sense_is_an_error(call: Callable[[], object], sentence: str):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_a_recipe_keeps_transforms_and_checks_them_before_it_begins():
    chosen = ("random_resized_crop", configure("rand_augment", layers=3, magnitude=5.0))
    recipe = train.Recipe(epochs=1, transforms=chosen)
    assert train.Recipe.from_json(recipe.to_json()) == recipe
    assert "transforms=('random_resized_crop', rand_augment(layers=3, magnitude=5.0))" in repr(recipe)
    partial = functools.partial(images.HorizontalFlip, probability=1.0)
    equal = [train.Recipe(transforms=(functools.partial(partial),)) for _ in range(2)]
    assert equal[0] == equal[1]
    assert len(set(equal)) == 1
    with pytest.raises(ValueError, match="transforms must be a registered name to be written as JSON"):
        equal[0].to_json()

    examples = images.Examples(np.zeros((8, 8, 8, 1), np.uint8), np.arange(8) % 2)
    data = images.Dataset("black", examples, examples, ("a", "b"), OF_GREY)
    model = small_model(image_size=(8, 8), patch_size=(4, 4), channels=1, num_classes=2)
    small = functools.partial(images.RandomResizedCrop, image_size=(4, 6))
    with pytest.raises(ValueError, match="transforms must give images of 8 x 8, the size of the data set, got 4 x 6"):
        train.fit(model, data, train.Recipe(batch_size=8, transforms=(small,)), key=jax.random.key(0))
    with pytest.raises(vitrail.UnknownPartError, match="there is no transform 'random_crop'"):
        train.fit(model, data, train.Recipe(transforms=("random_crop",)), key=jax.random.key(0))
    with pytest.raises(
        ValueError, match="transforms must give one image for the objective 'classify', got the transform"
    ):
        train.fit(model, data, train.Recipe(transforms=("multi_crop",)), key=jax.random.key(0))
