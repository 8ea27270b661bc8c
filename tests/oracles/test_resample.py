"""The rules of resampling against their sources as they are installed."""

import jax.numpy as jnp
import pytest
from helpers import assert_close
from resample_oracle import TABLE, resampled

from vitrail.nn import ResizeRule, resample

ORIGINALS = resampled()


@pytest.mark.parametrize("name", [name for name in ORIGINALS if name != "table"])
def test_a_rule_gives_the_numbers_of_its_source(name: str) -> None:
    rule: ResizeRule
    rule, size = name.split(" ", 1)  # type: ignore[assignment]
    assert_close(resample(jnp.asarray(TABLE), eval(size), rule), ORIGINALS[name])
