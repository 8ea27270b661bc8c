"""Patch embeddings: an image becomes a grid of patch tokens."""

from ._base import AbstractPatchEmbed as AbstractPatchEmbed, PatchFactory as PatchFactory
from ._conv import ConvPatchEmbed as ConvPatchEmbed
from ._linear import LinearPatchEmbed as LinearPatchEmbed
from ._stem import ConvStemPatchEmbed as ConvStemPatchEmbed
from ._table import PATCHES as PATCHES
