"""The layouts in which libraries publish checkpoints, one family a file."""

from .._rules import Rule as Rule, map_block as map_block, map_names as map_names, prefix_rules as prefix_rules
from ._checkpoint import Checkpoint as Checkpoint
from ._layout import (
    AnyLayout as AnyLayout,
    Export as Export,
    Layout as Layout,
    Library as Library,
    Settings as Settings,
)
from ._preprocess import match_channels as match_channels
from ._processor import PROCESSOR as PROCESSOR, PROCESSORS as PROCESSORS
from ._settings import (
    CONFIG as CONFIG,
    OPEN_CLIP_CONFIG as OPEN_CLIP_CONFIG,
    FilesBeside as FilesBeside,
    GivenSettings as GivenSettings,
    WrittenBeside as WrittenBeside,
    find_settings as find_settings,
    read_settings_file as read_settings_file,
)
from ._table import LAYOUTS as LAYOUTS, Part as Part, WritableLayout as WritableLayout, recognise as recognise
from ._vit import has_pooler as has_pooler
