"""Position embeddings: the tokens learn where they stand in the image."""

from ._base import (
    AbstractPosition as AbstractPosition,
    PositionContext as PositionContext,
    PositionFactory as PositionFactory,
)
from ._factorized import FactorizedPosition as FactorizedPosition
from ._learned import LearnedPosition as LearnedPosition
from ._learned_rope import LearnedRotaryPosition as LearnedRotaryPosition
from ._none import NoPosition as NoPosition
from ._relative_bias import RelativeBiasPosition as RelativeBiasPosition
from ._rope import RotaryPosition as RotaryPosition
from ._rope_mixed import MixedRotaryPosition as MixedRotaryPosition
from ._sincos2d import SinCos2DPosition as SinCos2DPosition
from ._table import POSITIONS as POSITIONS
