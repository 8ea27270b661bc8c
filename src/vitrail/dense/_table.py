"""The dense readouts by name."""

from typing import Final

from .._registry import Registry
from ._base import AbstractDenseReadout, DenseContext
from ._dpt import DPTReadout
from ._linear import LinearReadout

READOUTS: Final[Registry[AbstractDenseReadout, DenseContext]] = Registry(
    "dense readout",
    group="vitrail.readouts",
    part=AbstractDenseReadout,
    context=DenseContext,
    builtins={"linear": LinearReadout, "dpt": DPTReadout},
)
"""The dense readouts by name. Other packages add to it in the entry-point group `vitrail.readouts`."""
