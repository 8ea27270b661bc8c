"""The heads by name."""

from typing import Final

from .._registry import Registry
from ._base import AbstractHead, HeadFactory
from ._heads import DistilledHead, LinearHead, MLPHead, NoHead

HEADS: Final[Registry[HeadFactory]] = Registry(
    "head",
    group="vitrail.heads",
    part=AbstractHead,
    supplied=("dim", "num_classes", "init", "key"),
    offered=("token_dim",),
    builtins={
        "linear": LinearHead,
        "mlp": MLPHead,
        "distilled": DistilledHead,
        "none": NoHead,
    },
)
"""The heads by name; other packages add to it in the entry-point group `vitrail.heads`."""
