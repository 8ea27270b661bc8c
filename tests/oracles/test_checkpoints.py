"""Checkpoints of the original libraries, loaded by vitrail: the numbers of both, on random and on real images."""

import csv
from collections.abc import Callable
from pathlib import Path

import flax_vit
import numpy as np
import pytest
from checkpoint_cases import TOLERANCE, differences, image_of, published
from checkpoint_oracle import BEIT_CASES, CASES, NATIVE_CASES, RECENT_CASES, ROPE_CASES, SIZES
from skimage import data
from skimage.transform import resize


@pytest.fixture(scope="module", params=["random", "photograph"])
def images(request: pytest.FixtureRequest) -> dict[tuple[int, int], np.ndarray]:
    """Images of each size: noise, and a cat."""
    if request.param == "random":
        return {size: image_of(size) for size in SIZES}
    cat = data.chelsea() / 127.5 - 1
    return {size: resize(cat, size).astype(np.float32) for size in SIZES}


ALL = CASES | NATIVE_CASES | ROPE_CASES | BEIT_CASES | RECENT_CASES | flax_vit.CASES


@pytest.mark.parametrize("name", ALL)
def test_a_checkpoint_gives_the_numbers_of_its_library(
    name: str,
    images: dict[tuple[int, int], np.ndarray],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    case = ALL[name](images)
    found = differences(case, published(case, tmp_path), images)
    assert len(found) >= len(case.outputs)
    record_property("compared", {"checkpoint": name, "layout": case.layout, "differences": found})
    assert max(found.values()) <= TOLERANCE, found


def test_the_table_of_the_docs_has_every_checkpoint() -> None:
    path = Path(__file__).parent.parent.parent / "docs" / "assets" / "checkpoints.csv"
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert {row["checkpoint"] for row in rows} >= ALL.keys(), "write it anew: pytest tests/oracles --table PATH"
    assert all(float(row["difference"]) <= TOLERANCE for row in rows)
