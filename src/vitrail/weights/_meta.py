"""Meta's own layouts: DINOv2, DINOv3 and MAE.

Source: facebookresearch/dinov2 `models/vision_transformer.py`, facebookresearch/dinov3 `models/vision_transformer.py`
and `layers/attention.py`, facebookresearch/mae `models_mae.py`.
"""

from typing import Final

import numpy as np
from jaxtyping import Float

from .._registry import PartSpec
from ..encoder import EncoderOptions
from ..model import ViTConfig
from ._checkpoint import Checkpoint, Layout, divisor, learned, model_config
from ._rules import FINAL_NORM, POSITION_ROWS, Rule, block_rules, rule

_KERNEL: Final = "patch_embed.proj.weight"
_BASE: Final = 100.0
_MASK_TOKEN: Final = (r"mask_token", "only masked images need it")


def _blocks(config: ViTConfig) -> tuple[Rule, ...]:
    """Of DINOv2 and MAE, and but for its biases and SwiGLU of DINOv3."""
    gated = config.encoder.activation == "swiglu"
    return block_rules(
        "blocks.{i}.",
        norm1="norm1",
        qkv="attn.qkv",
        project="attn.proj",
        norm2="norm2",
        hidden="mlp.w12" if gated else "mlp.fc1",
        out="mlp.w3" if gated else "mlp.fc2",
        scales=("ls1.gamma", "ls2.gamma"),
    )


def _configure_dinov2(checkpoint: Checkpoint) -> ViTConfig:
    dim, _, *patch = checkpoint.shape(_KERNEL, 4)
    registers = checkpoint.shape("register_tokens", 3)[1] if "register_tokens" in checkpoint else 0
    gated = "blocks.0.mlp.w12.weight" in checkpoint
    positions = checkpoint.shape("pos_embed", 3)[1]
    return model_config(
        checkpoint,
        kernel=_KERNEL,
        depth=checkpoint.depth("blocks.{i}.norm1.weight"),
        num_heads=checkpoint.heads(dim, named="num_heads"),
        mlp_dim=checkpoint.shape(f"blocks.0.mlp.{'w3' if gated else 'fc2'}.weight", 2)[1],
        grid=checkpoint.grid(positions - 1, (patch[0], patch[1])),
        position=learned("torch_bicubic_antialias", covers_prefix="class") if registers else learned("dinov2_offset"),
        pool="cls",
        head="none",
        class_token=True,
        num_registers=registers,
        encoder=EncoderOptions(
            qkv_bias="blocks.0.attn.qkv.bias" in checkpoint,
            activation="swiglu" if gated else "gelu",
            norm_eps=1e-6,
            layer_scale=1.0,
        ),
    )


def _dinov2_rules(config: ViTConfig) -> tuple[Rule, ...]:
    return (
        rule("patch_embed.proj.*", "backbone.patch.*"),
        rule("cls_token", "backbone.class_token", "1 1 d -> d"),
        rule("register_tokens", "backbone.registers", "1 n d -> n d"),
        rule("pos_embed", POSITION_ROWS, "1 n d -> n d"),
        *_blocks(config),
        rule("norm.*", FINAL_NORM),
    )


META_DINOV2: Final = Layout(
    name="dinov2",
    title="Meta's DINOv2, with and without registers",
    signature=("mask_token", "pos_embed", "cls_token", "blocks.0.ls1.gamma", "blocks.0.attn.qkv.weight"),
    foreign=("decoder_embed.weight", "storage_tokens"),
    configure=_configure_dinov2,
    rules=_dinov2_rules,
    ignored=(_MASK_TOKEN,),
)


def _configure_dinov3(checkpoint: Checkpoint) -> ViTConfig:
    dim, _, *patch = checkpoint.shape(_KERNEL, 4)
    gated = "blocks.0.mlp.w3.weight" in checkpoint
    periods = checkpoint.shape("rope_embed.periods", 1)[0]
    return model_config(
        checkpoint,
        kernel=_KERNEL,
        depth=checkpoint.depth("blocks.{i}.norm1.weight"),
        num_heads=divisor(checkpoint, "num_heads", checkpoint.settings.get("num_heads", dim // (4 * periods)), dim),
        mlp_dim=checkpoint.shape(f"blocks.0.mlp.{'w3' if gated else 'fc2'}.weight", 2)[1],
        image_size=14 * patch[0],
        position=PartSpec("rope", (("base", _BASE), ("rule", "dinov3"))),
        pool="cls",
        head="none",
        class_token=True,
        num_registers=checkpoint.shape("storage_tokens", 3)[1],
        encoder=EncoderOptions(
            qkv_bias="blocks.0.attn.qkv.bias" in checkpoint,
            activation="swiglu" if gated else "gelu",
            norm_eps=1e-5,
            layer_scale=1.0,
        ),
    )


def _dinov3_rules(config: ViTConfig) -> tuple[Rule, ...]:
    gated = config.encoder.activation == "swiglu"
    qkv = "blocks.{i}.attn.qkv."
    return (
        rule("patch_embed.proj.*", "backbone.patch.*"),
        rule("cls_token", "backbone.class_token", "1 1 d -> d"),
        rule("storage_tokens", "backbone.registers", "1 n d -> n d"),
        rule(qkv + "weight", "backbone.encoder.stack.attention.qkv.weight"),
        rule(qkv + "bias", "backbone.encoder.stack.attention.qkv.bias", mask=qkv + "bias_mask"),
        *block_rules(
            "blocks.{i}.",
            norm1="norm1",
            qkv=(),
            project="attn.proj",
            norm2="norm2",
            hidden=("mlp.w1", "mlp.w2") if gated else "mlp.fc1",
            out="mlp.w3" if gated else "mlp.fc2",
            scales=("ls1.gamma", "ls2.gamma"),
        ),
        rule("norm.*", FINAL_NORM),
    )


def _periods(config: ViTConfig) -> Float[np.ndarray, " periods"]:
    head_dim = config.size.dim // config.size.num_heads
    return np.float32(_BASE) ** (4 * np.arange(head_dim // 4, dtype=np.float32) / head_dim)


META_DINOV3: Final = Layout(
    name="dinov3",
    title="Meta's DINOv3",
    signature=("storage_tokens", "rope_embed.periods", "blocks.0.attn.qkv.weight"),
    configure=_configure_dinov3,
    rules=_dinov3_rules,
    ignored=(
        _MASK_TOKEN,
        (r"rope_embed\.periods", "computed from the base of 100"),
        (r"local_cls_norm\..*", "only training on crops needs it"),
    ),
    computed=((r"rope_embed\.periods", _periods),),
)


def _configure_mae(checkpoint: Checkpoint) -> ViTConfig:
    dim, _, *patch = checkpoint.shape(_KERNEL, 4)
    positions = checkpoint.shape("pos_embed", 3)[1]
    return model_config(
        checkpoint,
        kernel=_KERNEL,
        depth=checkpoint.depth("blocks.{i}.norm1.weight"),
        num_heads=checkpoint.heads(dim, named="num_heads"),
        mlp_dim=checkpoint.shape("blocks.0.mlp.fc1.weight", 2)[0],
        grid=checkpoint.grid(positions - 1, (patch[0], patch[1])),
        position=learned("torch_bicubic"),
        pool="cls",
        head="none",
        class_token=True,
        encoder=EncoderOptions(qkv_bias="blocks.0.attn.qkv.bias" in checkpoint, norm_eps=1e-6),
    )


META_MAE: Final = Layout(
    name="mae",
    title="Meta's MAE, with its decoder",
    signature=("decoder_embed.weight", "mask_token", "pos_embed", "blocks.0.attn.qkv.weight"),
    configure=_configure_mae,
    rules=_dinov2_rules,
    ignored=((r"decoder_.*", "the decoder, which only pre-training needs"), _MASK_TOKEN),
)
