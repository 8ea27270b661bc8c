"""The pools by name."""

from typing import Final

from .._registry import Registry
from ._base import AbstractPool, PoolFactory
from ._plain import ClassTokenPool, MaxPool, MeanPool, NoPool

POOLS: Final[Registry[PoolFactory]] = Registry(
    "pool",
    group="vitrail.pools",
    part=AbstractPool,
    supplied=("dim", "key"),
    builtins={
        "mean": MeanPool,
        "cls": ClassTokenPool,
        "max": MaxPool,
        "none": NoPool,
    },
)
"""The pools by name; other packages add to it in the entry-point group `vitrail.pools`."""
