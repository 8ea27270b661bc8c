"""Hugging Face's layouts of CLIP, SigLIP, SigLIP 2 and DINOv3.

Source: transformers 5.23.0: the modules `clip`, `siglip`, `siglip2` and `dinov3_vit`.
"""

import dataclasses
from collections.abc import Callable
from typing import Final

from .._registry import PartSpec
from ..encoder import EncoderOptions, EncoderSize
from ..model import ViTConfig
from ._checkpoint import Checkpoint, Layout, activation, classes, learned, model_config
from ._errors import CheckpointError
from ._hf_settings import ACTIVATIONS, MASK_TOKEN, TEXT_TOWER, check_type, vision_tower, written_settings
from ._rules import FINAL_NORM, POSITION_ROWS, ZEROS, Rule, block_rules, rule

_LAYER: Final = "encoder.layers.{i}."
_KERNEL: Final = "embeddings.patch_embedding.weight"
_POSITIONS: Final = "embeddings.position_embedding.weight"
_PREFIXES: Final = ("vision_model.", "model.vision_model.")


def _blocks() -> tuple[Rule, ...]:
    return block_rules(
        _LAYER,
        norm1="layer_norm1",
        qkv=tuple(f"self_attn.{n}_proj" for n in "qkv"),
        project="self_attn.out_proj",
        norm2="layer_norm2",
        hidden="mlp.fc1",
        out="mlp.fc2",
    )


# --- CLIP ---------------------------------------------------------------------------------------------------------


def _configure_clip(checkpoint: Checkpoint) -> ViTConfig:
    checkpoint = vision_tower(checkpoint, "clip_vision_model", "clip")
    dim, _, *patch = checkpoint.shape(_KERNEL, 4)
    positions = checkpoint.shape(_POSITIONS, 2)[0]
    projection = classes(checkpoint, "visual_projection.weight")
    return model_config(
        checkpoint,
        kernel=_KERNEL,
        depth=checkpoint.depth(_LAYER + "layer_norm1.weight"),
        num_heads=checkpoint.heads(dim, named="num_attention_heads"),
        mlp_dim=checkpoint.shape("encoder.layers.0.mlp.fc1.weight", 2)[0],
        grid=checkpoint.grid(positions - 1, (patch[0], patch[1]), checkpoint.settings.get("image_size")),
        num_classes=projection,
        patch=PartSpec("conv", (("bias", False),)),
        position=learned("torch_bicubic"),
        pool="cls",
        head="none" if projection is None else PartSpec("linear", (("bias", False),)),
        class_token=True,
        encoder=EncoderOptions(
            activation=activation(checkpoint, "hidden_act", ACTIVATIONS, "quick_gelu"),
            norm_eps=checkpoint.setting("layer_norm_eps", 1e-5),
            pre_norm=True,
        ),
    )


def _clip_rules(config: ViTConfig) -> tuple[Rule, ...]:
    return (
        rule(_KERNEL, "backbone.patch.weight"),
        rule("embeddings.class_embedding", "backbone.class_token"),
        rule(_POSITIONS, POSITION_ROWS, "n d -> n d"),
        rule("pre_layrnorm.*", "backbone.encoder.pre_norm.*"),
        *_blocks(),
        rule("post_layernorm.*", FINAL_NORM),
        rule("visual_projection.weight", "readout.head.linear.weight"),
    )


HF_CLIP: Final = Layout(
    name="hf_clip",
    title="Hugging Face's CLIP",
    signature=("embeddings.class_embedding", "pre_layrnorm.weight"),
    configure=_configure_clip,
    rules=_clip_rules,
    prefixes=_PREFIXES,
    ignored=TEXT_TOWER,
    written_prefix=lambda config: ("" if config.head == "none" else "vision_model.", ("visual_projection",)),
    written_settings=written_settings,
    embeds=lambda config: config.head != "none",  # the projection
)


# --- SigLIP, SigLIP 2 ---------------------------------------------------------------------------------------------


_NATIVE_ASPECT: Final = learned("bilinear_antialias")


def _configure_siglip(checkpoint: Checkpoint) -> ViTConfig:
    checkpoint = vision_tower(checkpoint, "siglip_vision_model", "siglip", "siglip2_vision_model", "siglip2")
    positions = checkpoint.shape(_POSITIONS, 2)[0]
    mlp_dim = checkpoint.shape("encoder.layers.0.mlp.fc1.weight", 2)[0]
    eps = checkpoint.setting("layer_norm_eps", 1e-6)
    num_classes = classes(checkpoint, "classifier.weight")
    act = activation(checkpoint, "hidden_act", ACTIVATIONS, "gelu_pytorch_tanh")
    flat = len(checkpoint.tensors[_KERNEL].shape) == 2
    if flat:
        dim, area = checkpoint.shape(_KERNEL, 2)
        size = checkpoint.setting("patch_size", 16)
        patch, channels = (size, size), area // size**2
        if channels * size**2 != area:
            raise CheckpointError(
                f"{checkpoint.path} has {_KERNEL!r} for {area} numbers a patch, but the patch size beside it is {size}"
            )
    else:
        dim, channels, *sizes = checkpoint.shape(_KERNEL, 4)
        patch = sizes[0], sizes[1]
    grid = checkpoint.grid(positions, patch, None if flat else checkpoint.settings.get("image_size"))
    num_heads = checkpoint.heads(dim, named="num_attention_heads")
    options = {"activation": act, "mlp_dim": mlp_dim, "norm_eps": eps, "num_heads": num_heads}
    has_pool = "head.probe" in checkpoint and num_classes is None
    return ViTConfig(
        image_size=(grid[0] * patch[0], grid[1] * patch[1]),
        patch_size=patch,
        channels=channels,
        size=EncoderSize(
            dim=dim,
            depth=checkpoint.depth(_LAYER + "layer_norm1.weight"),
            num_heads=num_heads,
            mlp_dim=mlp_dim,
        ),
        num_classes=num_classes,
        position=_NATIVE_ASPECT if flat else learned("torch_bicubic"),
        pool=PartSpec("attention", tuple(sorted(options.items()))) if has_pool else "mean",
        head="none" if num_classes is None else "linear",
        class_token=False,
        encoder=EncoderOptions(activation=act, norm_eps=eps),
    )


def _siglip_rules(config: ViTConfig) -> tuple[Rule, ...]:
    height, width = config.patch_size
    # SigLIP 2 of native aspect has a matrix for flattened patches, and resamples its positions by another rule.
    flat = config.position == _NATIVE_ASPECT
    kernel = rule(_KERNEL, "backbone.patch.weight")
    if flat:
        kernel = rule(_KERNEL, "backbone.patch.weight", "d (h w c) -> d c h w", sizes=(("h", height), ("w", width)))
    return (
        kernel,
        rule("embeddings.patch_embedding.bias", "backbone.patch.bias"),
        rule(_POSITIONS, POSITION_ROWS, "n d -> n d"),
        *_blocks(),
        rule("post_layernorm.*", FINAL_NORM),
        rule("head.probe", "readout.pool.queries", "1 n d -> n d"),
        rule("head.attention.in_proj_weight", ("readout.pool.attention.q.weight", "readout.pool.attention.kv.weight")),
        rule("head.attention.in_proj_bias", ("readout.pool.attention.q.bias", "readout.pool.attention.kv.bias")),
        rule("head.attention.out_proj.*", "readout.pool.attention.project.*"),
        rule("head.layernorm.*", "readout.pool.norm.*"),
        rule("head.mlp.fc1.*", "readout.pool.mlp.hidden.*"),
        rule("head.mlp.fc2.*", "readout.pool.mlp.out.*"),
        rule("classifier.*", "readout.head.linear.*"),
    )


_SIGLIP_POOL: Final = ((r"head\..*", "the attention pooling, which the classifier does not read"),)
HF_SIGLIP: Final = Layout(
    name="hf_siglip",
    title="Hugging Face's SigLIP, and SigLIP 2",
    signature=("embeddings.patch_embedding.bias", _POSITIONS, "post_layernorm.weight"),
    configure=_configure_siglip,
    rules=_siglip_rules,
    prefixes=_PREFIXES,
    ignored=(*TEXT_TOWER, *_SIGLIP_POOL),
    written_prefix=lambda config: ("" if config.head == "none" else "vision_model.", ("classifier",)),
    written_settings=written_settings,
)


# --- DINOv3 -------------------------------------------------------------------------------------------------------


def _configure_dinov3(layer: str) -> Callable[[Checkpoint], ViTConfig]:
    def configure(checkpoint: Checkpoint) -> ViTConfig:
        check_type(checkpoint, "dinov3_vit")
        dim, _, *patch = checkpoint.shape("embeddings.patch_embeddings.weight", 4)
        gated = f"{layer}0.mlp.gate_proj.weight" in checkpoint
        has_registers = "embeddings.register_tokens" in checkpoint
        registers = checkpoint.tensors["embeddings.register_tokens"].shape[1] if has_registers else 0
        mlp_dim = checkpoint.shape(f"{layer}0.mlp.down_proj.weight", 2)[1]
        num_heads = checkpoint.heads(
            dim, named="num_attention_heads", usual=20 if (dim, gated) == (1280, True) else None
        )
        act = activation(checkpoint, "hidden_act", ACTIVATIONS, "silu" if gated else "gelu")
        if gated and act != "silu":
            raise CheckpointError(
                f"{checkpoint.path} has a gated MLP, whose gate must be 'silu', but its config.json says {act!r}"
            )
        return model_config(
            checkpoint,
            kernel="embeddings.patch_embeddings.weight",
            depth=checkpoint.depth(layer + "{i}.norm1.weight"),
            num_heads=num_heads,
            mlp_dim=mlp_dim,
            image_size=checkpoint.settings.get("image_size", 14 * patch[0]),
            position=PartSpec("rope", (("base", checkpoint.setting("rope_theta", 100.0)), ("rule", "dinov3"))),
            pool="cls",
            head="none",
            class_token=True,
            num_registers=registers,
            encoder=EncoderOptions(
                qkv_bias=f"{layer}0.attention.q_proj.bias" in checkpoint,
                activation="swiglu" if gated else act,
                norm_eps=checkpoint.setting("layer_norm_eps", 1e-5),
                layer_scale=1.0,
            ),
        )

    return configure


def _dinov3_rules(layer: str) -> Callable[[ViTConfig], tuple[Rule, ...]]:
    def rules(config: ViTConfig) -> tuple[Rule, ...]:
        gated = config.encoder.activation == "swiglu"
        q, k, v = (f"{layer}{{i}}.attention.{n}_proj." for n in "qkv")
        return (
            rule("embeddings.patch_embeddings.*", "backbone.patch.*"),
            rule("embeddings.cls_token", "backbone.class_token", "1 1 d -> d"),
            rule("embeddings.register_tokens", "backbone.registers", "1 n d -> n d"),
            rule((q + "weight", k + "weight", v + "weight"), "backbone.encoder.stack.attention.qkv.weight"),
            rule((q + "bias", ZEROS, v + "bias"), "backbone.encoder.stack.attention.qkv.bias"),
            *block_rules(
                layer + "{i}.",
                norm1="norm1",
                qkv=(),
                project="attention.o_proj",
                norm2="norm2",
                hidden=("mlp.gate_proj", "mlp.up_proj") if gated else "mlp.up_proj",
                out="mlp.down_proj",
                scales=("layer_scale1.lambda1", "layer_scale2.lambda1"),
            ),
            rule("norm.*", FINAL_NORM),
        )

    return rules


HF_DINOV3: Final = Layout(
    name="hf_dinov3",
    title="Hugging Face's DINOv3",
    signature=("embeddings.patch_embeddings.weight", "layer.0.layer_scale1.lambda1"),
    configure=_configure_dinov3("layer."),
    rules=_dinov3_rules("layer."),
    ignored=MASK_TOKEN,
    written_prefix=lambda config: ("", ()),
    written_settings=written_settings,
)
HF_DINOV3_5: Final = dataclasses.replace(
    HF_DINOV3,
    name="hf_dinov3_5",
    title="Hugging Face's DINOv3, as version 5 names it in memory",
    signature=("embeddings.patch_embeddings.weight", "model.layer.0.layer_scale1.lambda1"),
    configure=_configure_dinov3("model.layer."),
    rules=_dinov3_rules("model.layer."),
    written_prefix=None,
)
