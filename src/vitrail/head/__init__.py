"""Heads: what the pool returns becomes logits."""

from ._base import AbstractHead as AbstractHead, HeadContext as HeadContext, HeadFactory as HeadFactory
from ._cosine import CosineHead as CosineHead
from ._distilled import DistilledHead as DistilledHead
from ._linear import LinearHead as LinearHead
from ._mlp import MLPHead as MLPHead
from ._none import NoHead as NoHead
from ._projection import ProjectionHead as ProjectionHead
from ._table import HEADS as HEADS
