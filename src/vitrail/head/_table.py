"""The heads by name."""

from typing import Final

from .._registry import Registry
from ._base import AbstractHead, HeadContext
from ._cosine import CosineHead
from ._distilled import DistilledHead
from ._linear import LinearHead
from ._mlp import MLPHead
from ._none import NoHead
from ._projection import ProjectionHead

HEADS: Final[Registry[AbstractHead, HeadContext]] = Registry(
    "head",
    group="vitrail.heads",
    part=AbstractHead,
    context=HeadContext,
    builtins={
        "linear": LinearHead,
        "mlp": MLPHead,
        "projection": ProjectionHead,
        "distilled": DistilledHead,
        "cosine": CosineHead,
        "none": NoHead,
    },
)
"""The heads by name. Other packages add to it in the entry-point group `vitrail.heads`."""
