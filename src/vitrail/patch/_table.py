"""The patch embeddings by name."""

from typing import Final

from .._registry import Registry
from ._base import AbstractPatchEmbed, PatchFactory
from ._conv import ConvPatchEmbed
from ._linear import LinearPatchEmbed
from ._stem import ConvStemPatchEmbed

PATCHES: Final[Registry[PatchFactory]] = Registry(
    "patch embedding",
    group="vitrail.patches",
    part=AbstractPatchEmbed,
    supplied=("dim", "patch_size", "channels", "init", "key"),
    builtins={
        "conv": ConvPatchEmbed,
        "linear": LinearPatchEmbed,
        "conv_stem": ConvStemPatchEmbed,
    },
)
"""The patch embeddings by name; other packages add to it in the entry-point group `vitrail.patches`."""
