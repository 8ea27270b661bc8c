"""Systems of the original libraries, loaded by vitrail: the numbers of both, on random and on real images."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_cases import TOLERANCE, image_of
from skimage import data
from skimage.transform import resize
from system_cases import compare

FAMILIES = sorted(path.stem for path in Path(__file__).parent.glob("systems_*.py"))
ALL = [(family, name) for family in FAMILIES for name in importlib.import_module(family).CASES]


@pytest.mark.parametrize("picture", ["random", "photograph"])
@pytest.mark.parametrize(("family", "name"), ALL, ids=[name for _, name in ALL])
def test_a_system_gives_the_numbers_of_its_library(
    family: str, name: str, picture: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    module: Any = importlib.import_module(family)
    image = image_of(module.SIZE)
    if picture == "photograph":
        image = resize(data.chelsea() / 127.5 - 1, module.SIZE).astype(np.float32)
    case = module.CASES[name](image)
    found = compare(case, case.publish(tmp_path))
    assert found
    record_property("compared_system", {"family": family, "case": name, "layout": case.layout, "differences": found})
    assert max(found.values()) <= TOLERANCE, found
