"""What the layouts of Hugging Face share: the settings of its `config.json`."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Literal, cast

from ..._check import join_names
from ...encoder import EncoderOptions, EncoderSize
from ...model import ViTConfig
from ...nn import ActivationName
from ...systems import DenseConfig
from .._errors import CheckpointError
from .._rules import Rule, map_block
from ._checkpoint import Checkpoint
from ._layout import Settings
from ._preprocess import find_full_size
from ._vit import write_sides

_ACTIVATIONS: Final[Mapping[str, ActivationName]] = MappingProxyType(
    {
        "gelu_python": "gelu",
        "gelu": "gelu",
        "gelu_new": "gelu_tanh",
        "gelu_fast": "gelu_tanh",
        "gelu_accurate": "gelu_tanh",
        "gelu_python_tanh": "gelu_tanh",
        "gelu_pytorch_tanh": "gelu_tanh",
        "quick_gelu": "quick_gelu",
        "relu": "relu",
        "swish": "silu",
        "silu": "silu",
        "tanh": "tanh",
    }
)
"""Our names of the activations by Hugging Face's; of several for one of ours, the last is written."""
_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {"swiglu": "silu", **{ours: theirs for theirs, ours in _ACTIVATIONS.items()}}
)
_VERSION: Final = "5.23.0"
"""The version of transformers whose `config.json` is written."""
_INSIDE: Final = ("vision_config", "encoder", "backbone_config", "image_config", "vision_tower_config")
"""Where the settings of an image model stand in those of a larger one."""
MASK_TOKEN: Final = ((r"embeddings\.mask_token", "only masked images need it"),)
TEXT_TOWER: Final = (
    (r"text_model\..*", "the text tower"),
    (r"text_projection\.weight", "part of the text tower"),
    (r"logit_(scale|bias)", "part of the contrastive loss"),
    (r"(vision_model\.)?embeddings\.position_ids", "counts from zero"),
)
POSITION_IDS: Final = ((r"(text|vision)_model\.embeddings\.position_ids", "counts from zero"),)


def check_model_type(checkpoint: Checkpoint) -> None:
    """Raises a `CheckpointError` if the settings are those of another model."""
    fitting = checkpoint.layout.model_types
    given = checkpoint.settings.get("model_type") or fitting[0]
    if given not in fitting:
        raise CheckpointError(
            f"{checkpoint.path} has the tensors of {fitting[0]!r}, but the config.json beside it says {given!r}, which "
            "vitrail does not know: if that computes what the other does, pass config={'model_type': "
            f"{fitting[0]!r}, ...}} or a ViTConfig"
        )


def select_settings(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with the settings of its model where they are inside those of a larger one."""
    whole, fitting = checkpoint.settings, checkpoint.layout.model_types
    if whole.get("model_type") not in (None, *fitting):
        for name in _INSIDE:
            inner: object = whole.get(name)
            if isinstance(inner, Mapping) and cast("Mapping[str, Any]", inner).get("model_type") in fitting:
                return checkpoint.view(settings=cast("Mapping[str, Any]", inner))
    check_model_type(checkpoint)
    return checkpoint


def select_vision_tower(checkpoint: Checkpoint, usual: Settings = MappingProxyType({})) -> Checkpoint:
    """The checkpoint with the settings of its vision tower, if they are inside those of the whole model.

    Files of CLIP of 2022 have them twice. As in transformers, those of `vision_config_dict`, and those of `usual` that
    it does not have, replace those of `vision_config`. Other families have no `usual`, and no second settings.
    """
    inner = _select_tower(select_settings(checkpoint), "vision_config", usual)
    check_model_type(inner)
    return inner


def select_text_tower(checkpoint: Checkpoint, usual: Settings = MappingProxyType({})) -> Checkpoint:
    """The same for its text tower: `text_config` and `text_config_dict`."""
    check_model_type(checkpoint)
    return _select_tower(checkpoint, "text_config", usual)


def _select_tower(checkpoint: Checkpoint, name: str, usual: Settings) -> Checkpoint:
    inside, again = _read_object(checkpoint, name), _read_object(checkpoint, f"{name}_dict") if usual else None
    if inside is None and again is None:
        return checkpoint
    replaced = {} if again is None else {**usual, **again}
    return checkpoint.view(settings={"model_type": checkpoint.settings.get("model_type"), **(inside or {}), **replaced})


def _read_object(checkpoint: Checkpoint, name: str) -> Settings | None:
    """A setting that is an object; `None` if there is none."""
    given = checkpoint.settings.get(name)
    if given is not None and not isinstance(given, Mapping):
        raise CheckpointError(f"the setting {name!r} beside {checkpoint.path} must be an object, got {given!r}")
    return cast("Settings | None", given)


def read_activation(checkpoint: Checkpoint, usual: Literal["gelu", "silu", "relu"] | None = None) -> ActivationName:
    """The activation of the setting `hidden_act`."""
    given = checkpoint.get_setting("hidden_act", str, usual)
    if given not in _ACTIVATIONS:
        raise CheckpointError(
            f"the setting 'hidden_act' beside {checkpoint.path} must be one of {join_names(_ACTIVATIONS)}, got "
            f"{given!r}"
        )
    return _ACTIVATIONS[given]


def name_activation(activation: ActivationName | Literal["swiglu"]) -> str:
    """Hugging Face's name of an activation."""
    return _NAMES.get(activation, activation)


def write_config(config: ViTConfig, model_type: str, architecture: str, **others: object) -> Settings:
    """Makes the `config.json` of a vision model, from the settings that the families share and `others`."""
    return {
        **write_header(model_type, architecture),
        **write_encoder(config.size, config.encoder),
        "image_size": write_sides(find_full_size(config)),
        "patch_size": write_sides(config.patch_size),
        "num_channels": config.channels,
        **others,
    }


def write_header(model_type: str, architecture: str) -> Settings:
    """The settings that every `config.json` has."""
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "transformers_version": _VERSION,
        "dtype": "float32",
    }


def write_encoder(size: EncoderSize, options: EncoderOptions) -> Settings:
    """The settings of an encoder."""
    return {
        "hidden_size": size.dim,
        "num_hidden_layers": size.depth,
        "num_attention_heads": size.num_heads,
        "intermediate_size": size.mlp_dim,
        "hidden_act": name_activation(options.activation),
        "layer_norm_eps": options.norm_eps,
    }


def map_hugging_face_block(prefix: str, ours: str = "backbone.encoder.stack.") -> tuple[Rule, ...]:
    """The rules of a block of CLIP's and SigLIP's towers, of images and of text."""
    return map_block(
        prefix,
        norm1="layer_norm1",
        qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        project="self_attn.out_proj",
        norm2="layer_norm2",
        hidden="mlp.fc1",
        out="mlp.fc2",
        ours=ours,
    )


def write_labels(config: ViTConfig | DenseConfig) -> Settings:
    """The names of the classes as settings; those that Hugging Face makes up if they are not known."""
    names = config.classes or [f"LABEL_{number}" for number in range(config.num_classes or 0)]
    return {
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
    }
