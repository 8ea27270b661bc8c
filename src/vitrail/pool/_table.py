"""The pools by name."""

from typing import Final

from .._registry import Registry
from ._abmil import ABMILPool
from ._aim import AIMPool
from ._attention import AttentionPool
from ._base import AbstractPool, PoolContext
from ._cait import ClassAttentionPool
from ._cls import ClassTokenPool
from ._cls_mean import ClassMeanPool
from ._gem import GeMPool
from ._lse import LogSumExpPool
from ._max import MaxPool
from ._mean import MeanPool
from ._mean_max import MeanMaxPool
from ._none import NoPool
from ._simpool import SimPool
from ._sum import SumPool
from ._top_k import TopKPool
from ._weighted import WeightedPool

POOLS: Final[Registry[AbstractPool, PoolContext]] = Registry(
    "pool",
    group="vitrail.pools",
    part=AbstractPool,
    context=PoolContext,
    builtins={
        "mean": MeanPool,
        "cls": ClassTokenPool,
        "max": MaxPool,
        "mean_max": MeanMaxPool,
        "cls_mean": ClassMeanPool,
        "sum": SumPool,
        "lse": LogSumExpPool,
        "gem": GeMPool,
        "attention": AttentionPool,
        "aim": AIMPool,
        "abmil": ABMILPool,
        "simpool": SimPool,
        "cait": ClassAttentionPool,
        "weighted": WeightedPool,
        "top_k": TopKPool,
        "none": NoPool,
    },
    aliases={"gap": "mean", "avg": "mean", "token": "cls", "tok": "cls", "map": "attention", "avgmax": "mean_max"},
)
"""The pools by name. Other packages add to it in the entry-point group `vitrail.pools`."""
