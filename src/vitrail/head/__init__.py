"""Heads: what the pool gives becomes logits."""

from ._base import AbstractHead as AbstractHead, HeadFactory as HeadFactory
from ._heads import DistilledHead as DistilledHead, LinearHead as LinearHead, MLPHead as MLPHead, NoHead as NoHead
from ._table import HEADS as HEADS
