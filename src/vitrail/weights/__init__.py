"""Weights in files: vitrail's own, and checkpoints as libraries publish them."""

from ._adapters import load_adapters as load_adapters, save_adapters as save_adapters
from ._card import ModelCard as ModelCard, model_card as model_card
from ._catalogue import PublishedModel as PublishedModel, Task as Task, list_models as list_models
from ._configuration import Configuration as Configuration, Configured as Configured
from ._convert import Conversion as Conversion, convert as convert
from ._errors import CheckpointError as CheckpointError
from ._hub import from_hub as from_hub
from ._load import load as load
from ._names import is_model_name as is_model_name, suggest_names as suggest_names
from ._probe import ROUNDING as ROUNDING, compare_outputs as compare_outputs, draw_picture as draw_picture
from ._push import push_to_hub as push_to_hub
from ._read import Config as Config, read_model as read_model
from ._save import save as save
from ._verify import Check as Check, Verification as Verification, verify as verify
from .formats import convert_torch as convert_torch
from .layouts import (
    LAYOUTS as LAYOUTS,
    Layout as Layout,
    WritableLayout as WritableLayout,
)
