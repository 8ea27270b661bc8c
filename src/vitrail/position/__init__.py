"""Position embeddings: the tokens learn where they lie."""

from ._base import AbstractPosition as AbstractPosition, PositionFactory as PositionFactory
from ._fixed import NoPosition as NoPosition, SinCos2DPosition as SinCos2DPosition
from ._learned import FactorizedPosition as FactorizedPosition, LearnedPosition as LearnedPosition
from ._rotary import RotaryPosition as RotaryPosition
from ._table import POSITIONS as POSITIONS
