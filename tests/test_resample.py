"""Resampling by the rules of the published code: against what PyTorch gave when the fixture was made, and SciPy now."""

import typing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from helpers import assert_close, random_array

import vitrail
from vitrail.nn import ResizeRule, make_interpolation, resample, resize_kernel

KEY = jax.random.key(0)
with np.load(Path(__file__).parent / "fixtures" / "resampled.npz") as _file:
    ORIGINALS = {
        (rule, eval(size)): _file[name] for name in _file if name != "table" for rule, size in [name.split(" ", 1)]
    }
    TABLE = _file["table"]
RULES = typing.get_args(ResizeRule)


@pytest.mark.parametrize(("rule", "size"), ORIGINALS)
def test_a_rule_gives_the_numbers_of_its_source(rule: ResizeRule, size: tuple[int, int]) -> None:
    """The table is square, as published ones are."""
    position = vitrail.LearnedPosition(TABLE.shape[2], grid=(6, 6), resize=rule, key=KEY)
    object.__setattr__(position, "patches", jnp.asarray(TABLE))
    resized = position.resized(size)
    assert_close(resized.patches, ORIGINALS[rule, size])
    assert (resized.resize, resized.patches.shape[:2]) == (rule, size)


def test_every_rule_has_four_target_grids_of_which_one_is_no_square() -> None:
    for rule in RULES:
        sizes = [size for of, size in ORIGINALS if of == rule]
        assert len(sizes) >= 4
        assert any(rows != cols for rows, cols in sizes)


@pytest.mark.parametrize("size", [(9, 9), (4, 4), (3, 8), (13, 5), (1, 6)])
def test_bilinear_corners_is_scipys_zoom(size: tuple[int, int]) -> None:
    zoom = [new / old for new, old in zip(size, TABLE.shape[:2], strict=True)]
    expected = scipy.ndimage.zoom(TABLE, (*zoom, 1), order=1)
    assert_close(resample(jnp.asarray(TABLE), size, "bilinear_corners"), expected)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("old", "new"), [(6, 9), (6, 4), (7, 1), (1, 5), (37, 16)])
def test_a_constant_stays_what_it_is(rule: ResizeRule, old: int, new: int) -> None:
    assert_close(make_interpolation(old, new, rule).sum(axis=1), np.ones(new))


def test_the_rules_differ() -> None:
    found = [resample(jnp.asarray(TABLE), (4, 9), rule) for rule in RULES]
    assert all(not np.allclose(a, b, atol=1e-3) for i, a in enumerate(found) for b in found[:i])


# Patch kernels ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("implementation", ["conv", "matmul"])
@pytest.mark.parametrize("patch_size", [(8, 8), (6, 12), (4, 7)])
def test_larger_patches_of_an_enlarged_image_give_the_same_tokens(
    implementation: Any, patch_size: tuple[int, int]
) -> None:
    """FlexiViT's defining property, for an image that a bilinear interpolation has enlarged patch by patch."""
    patch = vitrail.ConvPatchEmbed(16, patch_size=(4, 4), channels=3, implementation=implementation, key=KEY)
    pixels = random_array(4, 4, 3)
    rows, cols = (make_interpolation(4, new, "bilinear").astype(np.float32) for new in patch_size)
    enlarged = jnp.einsum("yh,xw,hwc->yxc", rows, cols, pixels, precision="highest")
    assert_close(patch.resized(patch_size)(enlarged), patch(pixels), tolerance=2e-5)


def test_a_smaller_kernel_is_the_one_of_least_squares() -> None:
    """Its normal equations, in float64: no other kernel gives tokens nearer to those of the large patch."""
    kernel = random_array(5, 3, 6, 6)
    small = np.asarray(resize_kernel(kernel, (4, 3)), np.float64)
    rows, cols = make_interpolation(6, 4, "bilinear"), make_interpolation(6, 3, "bilinear")
    # A patch of 6 x 6 is shrunk to (rows p cols^T); its token is to be that of p itself.
    given = np.einsum("dcyx,yh,xw->dchw", small, rows, cols) - np.asarray(kernel, np.float64)
    gradient = np.einsum("dchw,yh,xw->dcyx", given, rows, cols)
    assert np.abs(gradient).max() < 1e-5


def test_a_model_takes_patches_of_another_size() -> None:
    model = vitrail.vit("Ti/16", image_size=32, num_classes=3, key=KEY)
    finer = model.resized(32, patch_size=8)
    assert (finer.config.patch_size, finer.config.grid) == ((8, 8), (4, 4))
    arrays = zip(*(jax.tree.leaves(m.backbone.encoder) for m in (finer, model)), strict=True)
    assert all(new is old for new, old in arrays)
    with pytest.raises(ValueError, match="patch"):
        vitrail.vit("Ti/16", image_size=32, patch="conv_stem", num_classes=3, key=KEY).resized(32, patch_size=8)
