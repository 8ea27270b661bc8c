"""Dense readouts: the tokens of some blocks become a map over the image."""

from ._base import (
    AbstractDenseReadout as AbstractDenseReadout,
    DenseContext as DenseContext,
    DenseReadoutFactory as DenseReadoutFactory,
)
from ._dpt import DPTReadout as DPTReadout
from ._endings import DepthEnding as DepthEnding, SegmentationEnding as SegmentationEnding
from ._linear import LinearReadout as LinearReadout
from ._table import READOUTS as READOUTS
