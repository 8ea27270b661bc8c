"""Checkpoints of the original libraries, loaded by vitrail: the numbers of both, on random and on real images."""

from pathlib import Path

import numpy as np
import pytest
from checkpoint_cases import TOLERANCE, differences, image_of, published
from checkpoint_oracle import CASES, SIZES
from skimage import data
from skimage.transform import resize


@pytest.fixture(scope="module", params=["random", "photograph"])
def images(request: pytest.FixtureRequest) -> dict[tuple[int, int], np.ndarray]:
    """Images of each size: noise, and a cat."""
    if request.param == "random":
        return {size: image_of(size) for size in SIZES}
    cat = data.chelsea() / 127.5 - 1
    return {size: resize(cat, size).astype(np.float32) for size in SIZES}


@pytest.mark.parametrize("name", CASES)
def test_a_checkpoint_gives_the_numbers_of_its_library(
    name: str, images: dict[tuple[int, int], np.ndarray], tmp_path: Path
) -> None:
    case = CASES[name](images)
    found = differences(case, published(case, tmp_path), images)
    assert len(found) >= len(case.outputs)
    assert max(found.values()) <= TOLERANCE, found
