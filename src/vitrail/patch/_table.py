"""The patch embeddings by name."""

from typing import Final

from .._registry import Registry
from ._base import AbstractPatchEmbed, PatchContext
from ._conv import ConvPatchEmbed
from ._conv_stem import ConvStemPatchEmbed

PATCHES: Final[Registry[AbstractPatchEmbed, PatchContext]] = Registry(
    "patch embedding",
    group="vitrail.patches",
    part=AbstractPatchEmbed,
    context=PatchContext,
    builtins={"conv": ConvPatchEmbed, "conv_stem": ConvStemPatchEmbed},
)
"""The patch embeddings by name. Other packages add to it in the entry-point group `vitrail.patches`."""
