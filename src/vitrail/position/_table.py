"""The position embeddings by name."""

from typing import Final

from .._registry import Registry
from ._base import AbstractPosition, PositionFactory
from ._fixed import NoPosition, SinCos2DPosition
from ._learned import FactorizedPosition, LearnedPosition
from ._rotary import RotaryPosition

POSITIONS: Final[Registry[PositionFactory]] = Registry(
    "position embedding",
    group="vitrail.positions",
    part=AbstractPosition,
    supplied=("dim", "grid", "class_token", "num_registers", "head_dim", "init", "key"),
    builtins={
        "learned": LearnedPosition,
        "sincos2d": SinCos2DPosition,
        "factorized": FactorizedPosition,
        "rope": RotaryPosition,
        "none": NoPosition,
    },
)
"""The position embeddings by name; other packages add to it in the entry-point group `vitrail.positions`."""
