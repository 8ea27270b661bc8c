"""Pools: the tokens of an image become what the head reads."""

from ._abmil import ABMILPool as ABMILPool
from ._aim import AIMPool as AIMPool
from ._attention import AttentionPool as AttentionPool
from ._base import (
    AbstractGridPool as AbstractGridPool,
    AbstractPool as AbstractPool,
    AbstractWeighingPool as AbstractWeighingPool,
    PoolContext as PoolContext,
    PoolFactory as PoolFactory,
)
from ._cait import ClassAttentionPool as ClassAttentionPool
from ._cls import ClassTokenPool as ClassTokenPool
from ._cls_mean import ClassMeanPool as ClassMeanPool
from ._gem import GeMPool as GeMPool
from ._lse import LogSumExpPool as LogSumExpPool
from ._max import MaxPool as MaxPool
from ._mean import MeanPool as MeanPool
from ._mean_max import MeanMaxPool as MeanMaxPool
from ._none import NoPool as NoPool
from ._read import read_patches as read_patches
from ._simpool import SimPool as SimPool
from ._sum import SumPool as SumPool
from ._table import POOLS as POOLS
from ._top_k import TopKPool as TopKPool
from ._weighted import WeightedPool as WeightedPool
