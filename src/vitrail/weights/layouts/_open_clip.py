"""What the layouts of open_clip's towers share, of images and of text.

Source: open_clip 3.3.0 `transformer.py` and `model.py`.
"""

from collections.abc import Mapping
from typing import Any, Final, cast

from ...encoder import EncoderOptions
from ...nn import ActivationName
from .._errors import CheckpointError
from .._rules import Rule, map_block, map_names
from ._checkpoint import Checkpoint
from ._layout import Settings

TEXT_TOWER: Final = (
    (r"text\..*", "the text tower"),
    (
        r"transformer\..*|token_embedding\..*|ln_final\..*|text_projection(\..*)?|positional_embedding",
        "the text tower",
    ),
    (r"logit_(scale|bias)", "part of the contrastive loss"),
)
"""What a file has beside the image tower."""


def read_open_clip_encoder(
    checkpoint: Checkpoint, given: Settings, block: str, *, pre_norm: bool = False
) -> EncoderOptions:
    """The options of an encoder, by the `text_cfg` or `vision_cfg` that was given.

    **Raises:** `CheckpointError` if nothing says the activation.
    """
    norm, act = (_read_arguments(checkpoint, given, name) for name in ("norm_kwargs", "act_kwargs"))
    return EncoderOptions(
        activation=_read_activation(checkpoint, act.get("approximate", "none")),
        norm_eps=norm.get("eps", 1e-5),
        pre_norm=pre_norm,
        layer_scale=1.0 if f"{block.format(i=0)}ls_1.gamma" in checkpoint else None,
    )


def _read_arguments(checkpoint: Checkpoint, given: Settings, name: str) -> Mapping[str, Any]:
    """The arguments of the norm or of the activation, of which one is known."""
    arguments: Any = given.get(name) or {}
    known = {"norm_kwargs": "eps", "act_kwargs": "approximate"}[name]
    if not isinstance(arguments, Mapping) or arguments.keys() - {known}:
        raise CheckpointError(f"{checkpoint.path} must have {name!r} with {known!r} alone beside it, got {arguments!r}")
    return cast("Mapping[str, Any]", arguments)


def _read_activation(checkpoint: Checkpoint, approximate: object) -> ActivationName:
    given, name = checkpoint.settings.get("hidden_act"), checkpoint.settings.get("architecture")
    if given is None and isinstance(name, str):  # a repository of timm with open_clip's names
        given = "quick_gelu" if "quickgelu" in name else "gelu"
    match given, approximate:
        case "gelu", "none":
            return "gelu"
        case "gelu", "tanh":
            return "gelu_tanh"
        case "quick_gelu", "none":
            return "quick_gelu"
        case None, _:
            raise CheckpointError(
                f"{checkpoint.path} does not say which activation its CLIP has: pass config={{'hidden_act': "
                "'quick_gelu'} for OpenAI's weights and every '-quickgelu' of open_clip, {'hidden_act': 'gelu'} for "
                "the others"
            )
        case other, _:
            raise CheckpointError(
                "the setting 'hidden_act' must be 'gelu', or 'quick_gelu' without 'approximate', got "
                f"{other!r} and {approximate!r}"
            )


def write_open_clip_encoder(options: EncoderOptions) -> Settings:
    """The settings of an encoder that are not open_clip's own defaults."""
    return {
        **({} if options.norm_eps == 1e-5 else {"norm_kwargs": {"eps": options.norm_eps}}),
        **({"act_kwargs": {"approximate": "tanh"}} if options.activation == "gelu_tanh" else {}),
        **({} if options.layer_scale is None else {"ls_init_value": options.layer_scale}),
    }


def map_open_clip_block(block: str, ours: str) -> tuple[Rule, ...]:
    """The rules of a block."""
    # PyTorch's attention joins the names of its joint weight and bias with an underscore.
    qkv = (map_names(f"{block}attn.in_proj_{part}", f"{ours}attention.qkv.{part}") for part in ("weight", "bias"))
    return (
        *qkv,
        *map_block(
            block,
            norm1="ln_1",
            qkv=(),
            project="attn.out_proj",
            norm2="ln_2",
            hidden="mlp.c_fc",
            out="mlp.c_proj",
            scales=("ls_1.gamma", "ls_2.gamma"),
            ours=ours,
        ),
    )
