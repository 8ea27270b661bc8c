"""The objectives by name."""

from typing import Final

from ..._registry import Registry
from ._base import AbstractObjective, ObjectiveContext
from ._classify import ClassifyObjective
from ._clip import CLIPObjective
from ._dino import DINOObjective
from ._mae import MAEObjective
from ._probe import ProbeObjective

OBJECTIVES: Final[Registry[AbstractObjective, ObjectiveContext]] = Registry(
    "objective",
    group="vitrail.objectives",
    part=AbstractObjective,
    context=ObjectiveContext,
    builtins={
        "classify": ClassifyObjective,
        "probe": ProbeObjective,
        "mae": MAEObjective,
        "dino": DINOObjective,
        "clip": CLIPObjective,
    },
)
"""The objectives by name. Other packages add to it in the entry-point group `vitrail.objectives`."""
