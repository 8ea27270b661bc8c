"""What Hugging Face's layouts share."""

import copy
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from .._registry import PartSpec
from ..model import ViTConfig
from ._checkpoint import Checkpoint, Settings
from ._errors import CheckpointError

ACTIVATIONS: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "gelu": "gelu",
        "gelu_new": "gelu_tanh",
        "gelu_pytorch_tanh": "gelu_tanh",
        "quick_gelu": "quick_gelu",
        "relu": "relu",
        "silu": "silu",
    }
)
"""The activations by the names of its settings."""
_NAMES: Final[Mapping[str, str]] = {"swiglu": "silu", **{ours: theirs for theirs, ours in ACTIVATIONS.items()}}
MASK_TOKEN: Final = ((r"embeddings\.mask_token", "only masked images need it"),)
TEXT_TOWER: Final = (
    (r"text_model\..*", "the text tower"),
    (r"text_projection\.weight", "of the text tower"),
    (r"logit_(scale|bias)", "of the contrastive loss"),
    (r"(vision_model\.)?embeddings\.position_ids", "the numbers from zero on"),
)


def check_type(checkpoint: Checkpoint, *known: str) -> None:
    """A `CheckpointError` where the settings are those of another model."""
    given = checkpoint.settings.get("model_type") or known[0]
    if given not in known:
        raise CheckpointError(
            f"{checkpoint.path} has the names of {known[0]!r}, but the config.json beside it says {given!r}: put the "
            "right one there, or pass config="
        )


def vision_tower(checkpoint: Checkpoint, *known: str) -> Checkpoint:
    """The checkpoint with the settings of its vision tower, where these lie within those of the whole model."""
    check_type(checkpoint, *known)
    if "vision_config" not in checkpoint.settings:
        return checkpoint
    inner = copy.copy(checkpoint)
    inner.settings = dict(checkpoint.settings["vision_config"])
    check_type(inner, *known)
    return inner


def written_settings(config: ViTConfig) -> Settings:
    """What `config.json` would say of a model, as far as it is read here."""
    head, position = (dict(p.options) if isinstance(p, PartSpec) else {} for p in (config.head, config.position))
    return {
        "num_attention_heads": config.size.num_heads,
        "hidden_act": _NAMES.get(config.encoder.activation, config.encoder.activation),
        "layer_norm_eps": config.encoder.norm_eps,
        "image_size": list(config.image_size),
        "patch_size": config.patch_size[0],
        "pooler_act": head.get("activation"),
        "rope_theta": position.get("base"),
    }
