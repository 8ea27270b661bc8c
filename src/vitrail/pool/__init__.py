"""Pools: the tokens of an image become what the head reads."""

from ._abmil import ABMILPool as ABMILPool
from ._attention import AttentionPool as AttentionPool
from ._base import (
    AbstractGridPool as AbstractGridPool,
    AbstractPool as AbstractPool,
    AbstractWeighingPool as AbstractWeighingPool,
    PoolFactory as PoolFactory,
)
from ._class_attention import ClassAttentionPool as ClassAttentionPool
from ._plain import (
    ClassMeanPool as ClassMeanPool,
    ClassTokenPool as ClassTokenPool,
    MaxPool as MaxPool,
    MeanMaxPool as MeanMaxPool,
    MeanPool as MeanPool,
    NoPool as NoPool,
    SumPool as SumPool,
)
from ._select import TopKPool as TopKPool, WeightedPool as WeightedPool
from ._simpool import SimPool as SimPool
from ._smooth import GeMPool as GeMPool, LogSumExpPool as LogSumExpPool
from ._table import POOLS as POOLS
