"""Models for dense prediction, loaded by vitrail: the maps of the originals, on random and on real images."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from checkpoint_cases import TOLERANCE, image_of, published
from checkpoint_oracle import SIZES
from dense_cases import map_differences
from dense_oracle import DENSE
from skimage import data
from skimage.transform import resize

CAT = data.chelsea() / 127.5 - 1


@pytest.mark.parametrize("picture", ["random", "photograph"])
@pytest.mark.parametrize("name", DENSE)
def test_a_checkpoint_gives_the_map_of_its_library(
    name: str, picture: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    sizes = (*SIZES, (20, 20))
    images = {s: image_of(s) if picture == "random" else resize(CAT, s).astype(np.float32) for s in sizes}
    case = DENSE[name](images)
    found = map_differences(case, published(case, tmp_path), images)
    assert len(found) >= 3
    record_property("compared", {"checkpoint": name, "layout": case.layout, "differences": found})
    assert max(found.values()) <= TOLERANCE, found
