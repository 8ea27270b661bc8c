"""The layouts of OpenAI's CLIP and open_clip, and of torchvision: both have PyTorch's own attention.

Source: openai/CLIP `clip/model.py`, open_clip 3.3.0 `transformer.py`, torchvision 0.28.0
`models/vision_transformer.py`.
"""

from typing import Final

from .._registry import PartSpec
from ..encoder import EncoderOptions
from ..model import ViTConfig
from ._checkpoint import Checkpoint, Layout, classes, learned, model_config
from ._errors import CheckpointError
from ._rules import FINAL_NORM, POSITION_ROWS, Rule, block_rules, rule

_CLIP_BLOCK: Final = "visual.transformer.resblocks.{i}."


def _configure_clip(checkpoint: Checkpoint) -> ViTConfig:
    dim, _, *patch = checkpoint.shape("visual.conv1.weight", 4)
    if "hidden_act" not in checkpoint.settings:
        raise CheckpointError(
            f"{checkpoint.path} does not say which activation its CLIP has: pass config={{'hidden_act': 'quick_gelu'}} "
            "for OpenAI's and every '-quickgelu' of open_clip, {'hidden_act': 'gelu'} for the others"
        )
    act = checkpoint.setting("hidden_act", "gelu")
    if act not in ("gelu", "quick_gelu"):
        raise CheckpointError(f"the setting 'hidden_act' must be 'gelu' or 'quick_gelu', but it is {act!r}")
    positions = checkpoint.shape("visual.positional_embedding", 2)[0]
    projection = checkpoint.shape("visual.proj", 2)[1] if "visual.proj" in checkpoint else None
    return model_config(
        checkpoint,
        kernel="visual.conv1.weight",
        depth=checkpoint.depth(_CLIP_BLOCK + "ln_1.weight"),
        num_heads=checkpoint.heads(dim, named="num_heads"),
        mlp_dim=checkpoint.shape("visual.transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
        grid=checkpoint.grid(positions - 1, (patch[0], patch[1]), checkpoint.settings.get("image_size")),
        num_classes=projection,
        patch=PartSpec("conv", (("bias", False),)),
        position=learned("torch_bicubic_antialias"),
        pool="cls",
        head="none" if projection is None else PartSpec("linear", (("bias", False),)),
        class_token=True,
        encoder=EncoderOptions(activation=act, norm_eps=1e-5, pre_norm=True),
    )


def _attention(block: str, name: str) -> tuple[Rule, ...]:
    """PyTorch's `MultiheadAttention`, whose joint weight and bias are joined to their names by an underscore."""
    return tuple(
        rule(f"{block}{name}.in_proj_{part}", f"backbone.encoder.stack.attention.qkv.{part}")
        for part in ("weight", "bias")
    )


def _clip_rules(config: ViTConfig) -> tuple[Rule, ...]:
    return (
        rule("visual.conv1.weight", "backbone.patch.weight"),
        rule("visual.class_embedding", "backbone.class_token"),
        rule("visual.positional_embedding", POSITION_ROWS, "n d -> n d"),
        rule("visual.ln_pre.*", "backbone.encoder.pre_norm.*"),
        *_attention(_CLIP_BLOCK, "attn"),
        *block_rules(
            _CLIP_BLOCK,
            norm1="ln_1",
            qkv=(),
            project="attn.out_proj",
            norm2="ln_2",
            hidden="mlp.c_fc",
            out="mlp.c_proj",
        ),
        rule("visual.ln_post.*", FINAL_NORM),
        rule("visual.proj", "readout.head.linear.weight", "i o -> o i"),
    )


OPENAI_CLIP: Final = Layout(
    name="openai_clip",
    title="OpenAI's CLIP and open_clip",
    signature=(
        "visual.conv1.weight",
        "visual.class_embedding",
        "visual.ln_pre.weight",
        "visual.transformer.resblocks.0.attn.in_proj_weight",
    ),
    configure=_configure_clip,
    rules=_clip_rules,
    ignored=(
        (r"transformer\..*|token_embedding\..*|ln_final\..*|text_projection|positional_embedding", "the text tower"),
        (r"text\..*", "the text tower"),
        (r"logit_(scale|bias)", "of the contrastive loss"),
        (r"input_resolution|context_length|vocab_size", "numbers that the shapes say, too"),
    ),
    embeds=lambda config: config.head != "none",  # the projection
)


_TV_BLOCK: Final = "encoder.layers.encoder_layer_{i}."


def _configure_torchvision(checkpoint: Checkpoint) -> ViTConfig:
    dim, _, *patch = checkpoint.shape("conv_proj.weight", 4)
    positions = checkpoint.shape("encoder.pos_embedding", 3)[1]
    hidden = "heads.pre_logits.weight" in checkpoint
    num_classes = classes(checkpoint, "heads.head.weight")
    mlp = "mlp.0" if "encoder.layers.encoder_layer_0.mlp.0.weight" in checkpoint else "mlp.linear_1"
    head: str | PartSpec = "none" if num_classes is None else "linear"
    if hidden:
        head = PartSpec("mlp", (("hidden_dim", checkpoint.shape("heads.pre_logits.weight", 2)[0]),))
    return model_config(
        checkpoint,
        kernel="conv_proj.weight",
        depth=checkpoint.depth(_TV_BLOCK + "ln_1.weight"),
        num_heads=checkpoint.heads(dim, named="num_heads"),
        mlp_dim=checkpoint.shape(f"encoder.layers.encoder_layer_0.{mlp}.weight", 2)[0],
        grid=checkpoint.grid(positions - 1, (patch[0], patch[1])),
        num_classes=num_classes,
        position=learned("torchvision_corners"),
        pool="cls",
        head=head,
        class_token=True,
        encoder=EncoderOptions(norm_eps=1e-6),
    )


def _torchvision_rules(config: ViTConfig) -> tuple[Rule, ...]:
    head = "readout.head.linear.*"
    blocks = [
        block_rules(
            _TV_BLOCK,
            norm1="ln_1",
            qkv=(),
            project="self_attention.out_proj",
            norm2="ln_2",
            hidden=f"mlp.{hidden}",
            out=f"mlp.{out}",
        )
        for hidden, out in (("0", "3"), ("linear_1", "linear_2"))
    ]
    return (
        rule("conv_proj.*", "backbone.patch.*"),
        rule("class_token", "backbone.class_token", "1 1 d -> d"),
        rule("encoder.pos_embedding", POSITION_ROWS, "1 n d -> n d"),
        *_attention(_TV_BLOCK, "self_attention"),
        *blocks[0],
        *blocks[1],
        rule("encoder.ln.*", FINAL_NORM),
        rule("heads.pre_logits.*", "readout.head.hidden.*"),
        rule("heads.head.*", head),
    )


TORCHVISION: Final = Layout(
    name="torchvision",
    title="torchvision's VisionTransformer",
    signature=("conv_proj.weight", "encoder.layers.encoder_layer_0.self_attention.in_proj_weight"),
    configure=_configure_torchvision,
    rules=_torchvision_rules,
)
