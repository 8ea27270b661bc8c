"""Random changes of pictures against those of timm and torchvision, on photographs, given the same random numbers.

Ours draw from a generator that keeps what it returns. Those numbers are then what the others draw, in the same order.
"""

import importlib
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps
from skimage import data
from timm_oracle import timm

from vitrail import images, train

T = importlib.import_module("torchvision.transforms")
auto_augment, erasing, factory, crops = (
    importlib.import_module(f"{timm.__name__}.data.{name}")
    for name in ("auto_augment", "random_erasing", "transforms_factory", "transforms")
)
PHOTOGRAPHS = {
    "chelsea": Image.fromarray(data.chelsea()),
    "grey": Image.fromarray(data.camera()).resize((301, 577)),
    "narrow": Image.fromarray(data.coffee()).resize((500, 61)),
}
PREPROCESS = images.Preprocess("cover", "bicubic", *images.IMAGENET)
GREY = images.Preprocess("cover", "bicubic", (0.45,), (0.225,))
SEEDS = range(60)
each_photograph = pytest.mark.parametrize("photograph", PHOTOGRAPHS)


class Recorder(np.random.Generator):
    """A generator that keeps its numbers, one by one."""

    def __init__(self, seed: int):
        super().__init__(np.random.PCG64(seed))
        self.drawn: list[Any] = []

    def _keep(self, made: Any) -> Any:
        self.drawn.append(made)
        return made

    def random(self, *args: Any, **options: Any) -> Any:
        return self._keep(super().random(*args, **options))

    def uniform(self, *args: Any, **options: Any) -> Any:
        return self._keep(super().uniform(*args, **options))

    def normal(self, *args: Any, **options: Any) -> Any:
        return self._keep(super().normal(*args, **options))

    def integers(self, *args: Any, **options: Any) -> Any:
        return self._keep(super().integers(*args, **options))

    def permutation(self, *args: Any, **options: Any) -> Any:
        return self._keep(super().permutation(*args, **options))


class Replay:
    """The module `random` of Python as timm calls it: what a `Recorder` drew."""

    def __init__(self, drawn: Iterable[Any]):
        self._left = iter(drawn)

    def random(self) -> float:
        return next(self._left)

    def gauss(self, mean: float, std: float) -> float:
        return next(self._left)

    def uniform(self, low: float, high: float) -> float:
        found = next(self._left)
        assert low <= found <= high
        return found

    def randint(self, low: int, high: int) -> int:
        found = int(next(self._left))
        assert low == 0 <= found <= high
        return found

    def is_over(self) -> bool:
        return next(self._left, None) is None


def choose(photograph: str) -> tuple[Image.Image, images.Preprocess]:
    image = PHOTOGRAPHS[photograph]
    return image, PREPROCESS if image.mode == "RGB" else GREY


def replay(monkeypatch: pytest.MonkeyPatch, recorder: Recorder) -> Replay:
    """Lets timm draw what was recorded."""
    found = Replay(recorder.drawn)
    for module in (auto_augment, erasing, crops):
        monkeypatch.setattr(module, "random", found)
    return found


@each_photograph
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_random_resized_crop(photograph: str, interpolation: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    image, _ = choose(photograph)
    ours = images.RandomResizedCrop(image_size=(96, 128), scale=(0.2, 1.0), interpolation=interpolation)
    theirs = crops.RandomResizedCropAndInterpolation((96, 128), scale=(0.2, 1.0), interpolation=interpolation)
    mode = T.InterpolationMode(interpolation)
    for seed in SEEDS:
        recorder = Recorder(seed)
        made = ours(image, random=recorder)
        found = replay(monkeypatch, recorder)
        assert made == theirs(image)
        assert found.is_over()
        top, left, tall, wide = ours.draw_box(image.height, image.width, random=np.random.default_rng(seed))
        assert made == T.functional.resized_crop(image, top, left, tall, wide, [96, 128], mode)


def draw_as_torchvision(recorder: Recorder, hue: bool) -> Any:
    order, *factors, turn = recorder.drawn
    return torch.tensor(order), *factors, turn if hue else None


@each_photograph
@pytest.mark.parametrize("hue", [0.0, 0.2])
def test_color_jitter(photograph: str, hue: float, monkeypatch: pytest.MonkeyPatch) -> None:
    image, _ = choose(photograph)
    ours = images.ColorJitter(brightness=0.4, contrast=0.3, saturation=0.8, hue=hue)
    theirs = T.ColorJitter(0.4, 0.3, 0.8, hue)
    for seed in SEEDS:
        recorder = Recorder(seed)
        made = ours(image, random=recorder)
        drawn = draw_as_torchvision(recorder, hue > 0)
        monkeypatch.setattr(T.ColorJitter, "get_params", staticmethod(lambda *_, drawn=drawn: drawn))
        ranges = theirs.brightness, theirs.contrast, theirs.saturation, theirs.hue or (0, 0)
        for (low, high), factor in zip(ranges, drawn[1:], strict=True):
            assert low <= (factor or 0) <= high
        assert made == theirs(image)


def posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """timm's, which keeps one bit where it would keep none: Pillow refuses that."""
    return ImageOps.posterize(image, max(1, bits))


@each_photograph
@pytest.mark.parametrize(
    ("configuration", "options"),
    [
        ("rand-m9-mstd0.5-inc1", {}),
        ("rand-m9-mstd0.5-inc1-n3-p1.0", {"layers": 3, "probability": 1.0}),
        ("rand-m10-n2-p1.0", {"magnitude": 10.0, "magnitude_std": 0.0, "probability": 1.0, "increasing": False}),
        (
            "rand-m5-n4-p0.7",
            {"magnitude": 5.0, "magnitude_std": 0.0, "probability": 0.7, "increasing": False, "layers": 4},
        ),
        ("rand-m10-n4-p1.0-inc1", {"magnitude": 10.0, "magnitude_std": 0.0, "probability": 1.0, "layers": 4}),
    ],
)
def test_rand_augment(
    photograph: str, configuration: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    image, preprocess = choose(photograph)
    image = image.resize((120, 90))
    ours = images.RandAugment(preprocess=preprocess, **options)
    fill = tuple(round(255 * mean) for mean in preprocess.mean)
    for name in ("PosterizeIncreasing", "Posterize"):
        monkeypatch.setitem(auto_augment.NAME_TO_OP, name, posterize)
    given = {"img_mean": fill if len(fill) == 3 else fill[0], "interpolation": Image.Resampling.BICUBIC}
    theirs = auto_augment.rand_augment_transform(configuration, given)
    for seed in SEEDS:
        recorder = Recorder(seed)
        made = ours(image, random=recorder)
        chosen = [theirs.ops[number] for number in recorder.drawn.pop(0)]
        found = replay(monkeypatch, recorder)
        monkeypatch.setattr(auto_augment.np.random, "choice", lambda *_, chosen=chosen, **__: chosen)
        assert made == theirs(image)
        assert found.is_over()
    assert len(theirs.ops) == 15


@each_photograph
def test_three_augment(photograph: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image, _ = choose(photograph)
    theirs = auto_augment.auto_augment_transform("3a")
    for seed in SEEDS:
        recorder = Recorder(seed)
        made = images.ThreeAugment()(image, random=recorder)
        (operation,) = theirs.policy[int(recorder.drawn.pop(0))]
        found = replay(monkeypatch, recorder)
        assert made == operation(image)
        assert found.is_over()


@each_photograph
@pytest.mark.parametrize(("fill", "mode"), [("noise", "pixel"), ("mean", "const")])
def test_random_erasing(photograph: str, fill: Any, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To half a level, as far as timm's colours lie between black and white."""
    image, preprocess = choose(photograph)
    ours = images.RandomErasing(preprocess=preprocess, probability=0.7, fill=fill)
    theirs = erasing.RandomErasing(0.7, mode=mode, device="cpu")
    erased = 0
    for seed in SEEDS:
        recorder = Recorder(seed)
        made = preprocess.normalise(images.augment(image, (ours,), random=recorder)["image"])
        if isinstance(recorder.drawn[-1], np.ndarray):
            noise = torch.tensor(recorder.drawn.pop().transpose(2, 0, 1), dtype=torch.float32)
            monkeypatch.setattr(erasing, "_get_pixels", lambda *_, noise=noise, **__: noise)
        found = replay(monkeypatch, recorder)
        pixels = np.asarray(image)
        before = preprocess.normalise(pixels[..., None] if pixels.ndim == 2 else pixels)
        expected = theirs(torch.tensor(before.transpose(2, 0, 1).copy())).numpy().transpose(1, 2, 0)
        assert found.is_over()
        black, white = (preprocess.normalise(np.full_like(before, level)) for level in (0, 255))
        apart = np.abs(made - np.clip(expected, black, white)) * np.asarray(preprocess.std) * 255
        assert apart.max() <= 0.501
        erased += int((made != before).any())
    assert 30 < erased < 52


@pytest.mark.parametrize("photograph", ["chelsea", "narrow"])
def test_multi_crop(photograph: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The transforms of DINO's `DataAugmentationDINO` by torchvision's functions, in its order."""
    image, _ = choose(photograph)
    ours = images.MultiCrop(image_size=(64, 64), patch_size=(16, 16), num_small=3)
    jitter = T.ColorJitter(0.4, 0.4, 0.2, 0.1)

    def make(drawn: Iterator[Any], size: int, scale: tuple[float, float], blur: float, solarize: float) -> Image.Image:
        monkeypatch.setattr(crops, "random", Replay(drawn))
        box = crops.RandomResizedCropAndInterpolation.get_params(image, scale, (3 / 4, 4 / 3))
        made = T.functional.resized_crop(image, *box, [size, size], T.InterpolationMode.BICUBIC)
        if next(drawn) < 0.5:
            made = T.functional.hflip(made)
        if next(drawn) < 0.8:
            found = torch.tensor(next(drawn)), *itertools.islice(drawn, 4)
            monkeypatch.setattr(T.ColorJitter, "get_params", staticmethod(lambda *_: found))
            made = jitter(made)
        if next(drawn) < 0.2:
            made = T.functional.to_grayscale(made, 3)
        if next(drawn) < blur:
            made = made.filter(ImageFilter.GaussianBlur(radius=next(drawn)))
        return ImageOps.solarize(made) if next(drawn) < solarize else made

    for seed in SEEDS:
        recorder = Recorder(seed)
        made = ours(image, random=recorder)
        drawn = iter(recorder.drawn)
        large = [make(drawn, 64, (0.4, 1.0), *rates) for rates in ((1.0, 0.0), (0.1, 0.2))]
        small = [make(drawn, 32, (0.05, 0.4), 0.5, 0.0) for _ in range(3)]
        assert next(drawn, None) is None
        assert np.array_equal(made["large"], np.stack([np.asarray(crop) for crop in large]))
        assert np.array_equal(made["small"], np.stack([np.asarray(crop) for crop in small]))


def test_the_chain_of_finetune_is_that_of_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """`create_transform` with the settings of MAE's fine-tuning, before normalising."""
    image, _ = choose("chelsea")
    context = images.TransformContext(image_size=(224, 224), patch_size=(16, 16), preprocess=PREPROCESS)
    ours = images.make_transforms(train.RECIPES["finetune"].transforms[:3], context)
    monkeypatch.setitem(auto_augment.NAME_TO_OP, "PosterizeIncreasing", posterize)
    theirs = factory.create_transform(
        224,
        is_training=True,
        color_jitter=None,
        auto_augment="rand-m9-mstd0.5-inc1",
        interpolation="bicubic",
        normalize=False,
    )
    *_, policy, _ = theirs.transforms
    for seed in SEEDS:
        recorder = Recorder(seed)
        made = images.augment(image, ours, random=recorder)["image"]
        place = next(i for i, each in enumerate(recorder.drawn) if isinstance(each, np.ndarray))
        chosen = [policy.ops[number] for number in recorder.drawn.pop(place)]
        flip = recorder.drawn.pop(place - 1)
        replay(monkeypatch, recorder)
        monkeypatch.setattr(auto_augment.np.random, "choice", lambda *_, chosen=chosen, **__: chosen)
        monkeypatch.setattr(torch, "rand", lambda *_, flip=flip: torch.tensor([flip], dtype=torch.float64))
        assert np.array_equal(made, theirs(image).numpy().transpose(1, 2, 0))
