"""Our pools against timm's, with timm's weights copied over."""

import pytest
from timm_oracle import cases
from timm_pools import assert_equals_timm


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", cases(0))
def test_pools_equal_timms(name: str, seed: int) -> None:
    assert_equals_timm(name, cases(seed)[name])
