"""Weights on disk: vitrail's own files, and checkpoints as others publish them."""

from ._errors import CheckpointError as CheckpointError
from ._load import load as load
from ._save import WritableLayout as WritableLayout, save as save
