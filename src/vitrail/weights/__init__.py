"""Weights on disk: vitrail's own files, and checkpoints as others publish them."""

from ._card import ModelCard as ModelCard, model_card as model_card
from ._errors import CheckpointError as CheckpointError
from ._hub import from_hub as from_hub
from ._layouts import WritableLayout as WritableLayout
from ._load import Config as Config, load as load
from ._save import save as save
from ._torch import convert_torch as convert_torch
