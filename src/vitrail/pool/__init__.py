"""Pools: the tokens of an image become what the head reads."""

from ._base import AbstractPool as AbstractPool, PoolFactory as PoolFactory
from ._plain import (
    ClassTokenPool as ClassTokenPool,
    MaxPool as MaxPool,
    MeanPool as MeanPool,
    NoPool as NoPool,
)
from ._table import POOLS as POOLS
