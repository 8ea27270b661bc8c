"""The pools by name."""

from typing import Final

from .._registry import Registry
from ._abmil import ABMILPool
from ._attention import AttentionPool
from ._base import AbstractPool, PoolFactory
from ._class_attention import ClassAttentionPool
from ._plain import ClassMeanPool, ClassTokenPool, MaxPool, MeanMaxPool, MeanPool, NoPool, SumPool
from ._select import TopKPool, WeightedPool
from ._simpool import SimPool
from ._smooth import GeMPool, LogSumExpPool

POOLS: Final[Registry[PoolFactory]] = Registry(
    "pool",
    group="vitrail.pools",
    part=AbstractPool,
    supplied=("dim", "key"),
    offered=("grid", "init"),
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
        "abmil": ABMILPool,
        "simpool": SimPool,
        "cait": ClassAttentionPool,
        "weighted": WeightedPool,
        "top_k": TopKPool,
        "none": NoPool,
    },
    aliases={"gap": "mean", "avg": "mean", "token": "cls", "tok": "cls", "map": "attention", "avgmax": "mean_max"},
)
"""The pools by name; other packages add to it in the entry-point group `vitrail.pools`."""
