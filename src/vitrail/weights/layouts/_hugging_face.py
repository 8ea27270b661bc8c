"""What the layouts of Hugging Face share: the settings of its `config.json`."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal

from ..._check import join_names
from ...model import ViTConfig
from ...nn import ActivationName
from .._errors import CheckpointError
from ._checkpoint import Checkpoint
from ._layout import Settings
from ._preprocess import find_full_size
from ._vit import write_sides

_ACTIVATIONS: Final[Mapping[str, ActivationName]] = MappingProxyType(
    {
        "gelu": "gelu",
        "gelu_new": "gelu_tanh",
        "gelu_pytorch_tanh": "gelu_tanh",
        "quick_gelu": "quick_gelu",
        "relu": "relu",
        "silu": "silu",
    }
)
"""Our names of the activations by Hugging Face's."""
_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {"swiglu": "silu", **{ours: theirs for theirs, ours in _ACTIVATIONS.items()}}
)
_VERSION: Final = "5.23.0"
"""The version of transformers whose `config.json` is written."""
MASK_TOKEN: Final = ((r"embeddings\.mask_token", "only masked images need it"),)
TEXT_TOWER: Final = (
    (r"text_model\..*", "the text tower"),
    (r"text_projection\.weight", "part of the text tower"),
    (r"logit_(scale|bias)", "part of the contrastive loss"),
    (r"(vision_model\.)?embeddings\.position_ids", "counts from zero"),
)


def check_model_type(checkpoint: Checkpoint) -> None:
    """Raises a `CheckpointError` if the settings are those of another model."""
    fitting = checkpoint.layout.model_types
    given = checkpoint.settings.get("model_type") or fitting[0]
    if given not in fitting:
        raise CheckpointError(
            f"{checkpoint.path} has the tensors of {fitting[0]!r}, but the config.json beside it says {given!r}: put "
            "the right one there, or pass config="
        )


def select_vision_tower(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with the settings of its vision tower, if they are inside those of the whole model."""
    check_model_type(checkpoint)
    if "vision_config" not in checkpoint.settings:
        return checkpoint
    whole = {"model_type": checkpoint.settings.get("model_type")}
    inner = checkpoint.view(settings=whole | dict(checkpoint.settings["vision_config"]))
    check_model_type(inner)
    return inner


def read_activation(checkpoint: Checkpoint, usual: Literal["gelu", "silu"] | None = None) -> ActivationName:
    """The activation of the setting `hidden_act`."""
    given = checkpoint.get_setting("hidden_act", str, usual)
    if given not in _ACTIVATIONS:
        raise CheckpointError(
            f"the setting 'hidden_act' beside {checkpoint.path} must be one of {join_names(_ACTIVATIONS)}, got "
            f"{given!r}"
        )
    return _ACTIVATIONS[given]


def write_config(config: ViTConfig, model_type: str, architecture: str, **others: object) -> Settings:
    """Makes the `config.json` of a vision model, from the settings that the families share and `others`."""
    encoder, size = config.encoder, config.size
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "transformers_version": _VERSION,
        "dtype": "float32",
        "hidden_size": size.dim,
        "num_hidden_layers": size.depth,
        "num_attention_heads": size.num_heads,
        "intermediate_size": size.mlp_dim,
        "hidden_act": _NAMES.get(encoder.activation, encoder.activation),
        "layer_norm_eps": encoder.norm_eps,
        "image_size": write_sides(find_full_size(config)),
        "patch_size": write_sides(config.patch_size),
        "num_channels": config.channels,
        **others,
    }


def write_labels(config: ViTConfig) -> Settings:
    """The names of the classes as settings; those that Hugging Face makes up if they are not known."""
    names = config.classes or [f"LABEL_{number}" for number in range(config.num_classes or 0)]
    return {
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
    }
