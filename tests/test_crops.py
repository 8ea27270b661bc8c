"""Random crops: what is inside them, by Pillow, and where they are; and patches hidden in blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, random_array
from PIL import Image

from vitrail import images, systems


@pytest.mark.parametrize("size", [(7, 5), (16, 24)])
@pytest.mark.parametrize("box", [(0, 0, 30, 20), (3, 2, 11, 17), (25, 15, 5, 5), (4, 9, 1, 3)])
def test_a_box_is_cut_out_and_resized_as_pillow_does(size: tuple[int, int], box: tuple[int, int, int, int]) -> None:
    image = random_array(30, 20, 2)
    top, left, height, width = box
    found = images.Crops(number=1, size=size).cut(image, jnp.asarray(box, jnp.float32))
    for channel in range(2):
        inside = np.asarray(image)[top : top + height, left : left + width, channel]
        expected = Image.fromarray(inside).resize((size[1], size[0]), Image.Resampling.BICUBIC)
        assert_close(found[..., channel], np.asarray(expected), tolerance=1e-4)


def boxes_of(crops: images.Crops, height: int, width: int, count: int) -> np.ndarray:
    """Top, left, height and width of crops, by crops of an image whose pixels say where they are: bicubic
    interpolation that enlarges gives a ramp back exactly, so that the middle pixels tell the place and the step."""
    rows, cols = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    image = jnp.asarray(np.stack([rows, cols], axis=-1), jnp.float32)
    made = np.asarray(crops(jnp.broadcast_to(image, (count, *image.shape)), key=jax.random.key(0)))
    made = made.reshape(-1, *made.shape[2:])
    places: list[np.ndarray] = []
    for axis, length in ((0, crops.size[0]), (1, crops.size[1])):
        line = made[:, :, length // 2, 0] if axis == 0 else made[:, length // 2, :, 1]
        step = line[:, length // 2] - line[:, length // 2 - 1]
        middle = (line[:, length // 2] + line[:, length // 2 - 1]) / 2
        places.append(np.stack([middle + 0.5 - step * length / 2, step * length], axis=-1))
    return np.stack([places[0][:, 0], places[1][:, 0], places[0][:, 1], places[1][:, 1]], axis=-1)


def test_crops_have_the_share_and_the_ratio_that_they_are_told() -> None:
    crops = images.Crops(number=3, size=(128, 128), scale=(0.2, 0.6), ratio=(0.5, 2.0), flip=False)
    top, left, height, width = boxes_of(crops, 64, 96, 100).T
    assert np.abs(np.stack([top, left, height, width]) % 1 - 0.5).min() > 0.45  # whole pixels
    share, ratio = height * width / (64 * 96), width / height
    assert 0.18 < share.min() < 0.23
    assert 0.56 < share.max() < 0.62
    assert 0.47 < ratio.min() < 0.6
    assert 1.7 < ratio.max() < 2.1
    assert top.min() > -0.01
    assert left.min() > -0.01
    assert (top + height).max() < 64.01
    assert (left + width).max() < 96.01
    assert np.std(left) > 10
    assert len(np.unique(np.round(left))) > 30


def test_a_crop_that_fits_nowhere_is_the_middle() -> None:
    crops = images.Crops(number=1, size=(100, 100), scale=(1.0, 1.0), flip=False)
    (box,) = boxes_of(crops, 20, 80, 1)
    assert_close(box, [0, (80 - 27) // 2, 20, 27], tolerance=0.02)


def test_half_of_the_crops_are_mirrored() -> None:
    ramp = jnp.broadcast_to(jnp.arange(12.0)[None, :, None], (50, 12, 12, 1))
    made = images.Crops(number=2, size=(6, 6))(ramp, key=jax.random.key(1))
    assert made.shape == (2, 50, 6, 6, 1)
    mirrored = np.asarray(made[..., 0, 0, 0] > made[..., 0, -1, 0])
    assert 30 < mirrored.sum() < 70
    same = images.Crops(number=2, size=(6, 6))(ramp, key=jax.random.key(1))
    assert np.array_equal(made, same)


def test_crops_that_cannot_be_are_an_error() -> None:
    for wrong, message in (
        ({"number": 0}, "number must be positive"),
        ({"size": (0, 8)}, "size must be positive"),
        ({"scale": (0.5, 1.5)}, "scale must be a smaller and a larger number, at most 1, got"),
        ({"scale": (0.0, 1.0)}, "scale must be a finite number above zero"),
        ({"ratio": (2.0, 1.0)}, "ratio must be a smaller and a larger number, got"),
    ):
        with pytest.raises(ValueError, match=message):
            images.Crops(**({"number": 2, "size": (8, 8)} | wrong))


# Hidden patches --------------------------------------------------------------------------------------------------


def test_patches_are_hidden_in_a_share_of_the_crops_and_in_blocks() -> None:
    hidden = systems.draw_hidden(40, (14, 14), seed=0)
    assert hidden.shape == (40, 196)
    counts = hidden.sum(axis=1)
    assert (counts == 0).sum() == 20
    ratios = np.sort(counts[counts > 0]) / 196
    edges = np.linspace(0.1, 0.5, 21)
    assert np.all(ratios <= edges[1:] + 1e-9)
    assert ratios.max() > 0.4
    grids = hidden.reshape(40, 14, 14)
    together = (grids[:, 1:] & grids[:, :-1]).sum() / grids.sum()
    assert together > 0.6  # of single patches 0.3
    assert np.array_equal(hidden, systems.draw_hidden(40, (14, 14), seed=0))
    assert not np.array_equal(hidden, systems.draw_hidden(40, (14, 14), seed=1))


def test_small_grids_and_shares_of_zero_and_one() -> None:
    assert not systems.draw_hidden(4, (3, 3), seed=0, share=0.0).any()
    assert systems.draw_hidden(4, (7, 9), seed=0, share=1.0, ratios=(0.5, 0.5)).any(axis=1).all()
    assert systems.draw_hidden(4, (1, 1), seed=0, share=1.0).shape == (4, 1)


@pytest.mark.parametrize(
    "wrong", [{"share": 1.5}, {"ratios": (0.5, 0.1)}, {"ratios": (-0.1, 0.5)}, {"ratios": (0.1, 1.5)}]
)
def test_shares_outside_of_zero_and_one_are_an_error(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"share and ratios must be in \[0, 1\]"):
        systems.draw_hidden(4, (3, 3), seed=0, **wrong)  # type: ignore[arg-type]
