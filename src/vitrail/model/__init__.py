"""The model: a configuration and the parts that it names, assembled into one forward pass."""

from ._backbone import Backbone as Backbone
from ._build import vit as vit
from ._channels import ChannelRule as ChannelRule, check_channel_rule as check_channel_rule
from ._compile import CompiledViT as CompiledViT, compile as compile
from ._config import NormOrder as NormOrder, ViTConfig as ViTConfig
from ._json import JSONConfig as JSONConfig
from ._lora import (
    attach_adapters as attach_adapters,
    has_adapters as has_adapters,
    lora as lora,
    merge as merge,
    remove_adapters as remove_adapters,
    remove_readouts as remove_readouts,
)
from ._parts import list_plugins as list_plugins
from ._presets import PRESETS as PRESETS
from ._readout import Readout as Readout
from ._reference import vit_forward as vit_forward
from ._replace import replace as replace
from ._vit import ViT as ViT
