"""Patch embeddings: an image becomes a grid of patch tokens."""

from ._base import (
    AbstractPatchEmbed as AbstractPatchEmbed,
    PatchContext as PatchContext,
    PatchFactory as PatchFactory,
)
from ._conv import ConvPatchEmbed as ConvPatchEmbed
from ._conv_stem import ConvStemPatchEmbed as ConvStemPatchEmbed
from ._table import PATCHES as PATCHES
