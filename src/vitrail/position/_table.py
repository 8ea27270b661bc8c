"""The position embeddings by name."""

from typing import Final

from .._registry import Registry
from ._base import AbstractPosition, PositionContext
from ._factorized import FactorizedPosition
from ._learned import LearnedPosition
from ._learned_rope import LearnedRotaryPosition
from ._none import NoPosition
from ._relative_bias import RelativeBiasPosition
from ._rope import RotaryPosition
from ._rope_mixed import MixedRotaryPosition
from ._sincos2d import SinCos2DPosition

POSITIONS: Final[Registry[AbstractPosition, PositionContext]] = Registry(
    "position embedding",
    group="vitrail.positions",
    part=AbstractPosition,
    context=PositionContext,
    builtins={
        "learned": LearnedPosition,
        "sincos2d": SinCos2DPosition,
        "factorized": FactorizedPosition,
        "rope": RotaryPosition,
        "rope_mixed": MixedRotaryPosition,
        "learned_rope": LearnedRotaryPosition,
        "relative_bias": RelativeBiasPosition,
        "none": NoPosition,
    },
)
"""The position embeddings by name. Other packages add to it in the entry-point group `vitrail.positions`."""
