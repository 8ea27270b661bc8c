"""Hugging Face's layouts of ViT, DeiT, MAE and DINOv2: the names on the Hub, and those of version 5 in memory.

Source: transformers 5.23.0: the modules `vit`, `deit`, `vit_mae`, `dinov2` and `dinov2_with_registers`, and
`conversion_mapping.py`.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from .._registry import PartSpec
from ..encoder import EncoderOptions
from ..model import ViTConfig
from ._checkpoint import Checkpoint, Layout, activation, classes, has_pooler, learned, model_config
from ._hf_settings import ACTIVATIONS, MASK_TOKEN, check_type, written_settings
from ._rules import FINAL_NORM, POSITION_ROWS, Rule, block_rules, rule

_Blocks = Callable[[ViTConfig], tuple[Rule, ...]]


def _blocks(prefix: str, *, qkv: tuple[str, str, str], project: str, **names: Any) -> tuple[Rule, ...]:
    return block_rules(prefix, qkv=qkv, project=project, **names)


_OLD: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "qkv": tuple(f"attention.attention.{n}" for n in ("query", "key", "value")),
        "project": "attention.output.dense",
    }
)
_NEW: Final[Mapping[str, Any]] = MappingProxyType(
    {"qkv": tuple(f"attention.{n}_proj" for n in "qkv"), "project": "attention.o_proj"}
)


# --- ViT, DeiT, MAE -----------------------------------------------------------------------------------------------


def _vit_blocks_old(config: ViTConfig) -> tuple[Rule, ...]:
    names = {"norm1": "layernorm_before", "norm2": "layernorm_after", "hidden": "intermediate.dense"}
    return _blocks("encoder.layer.{i}.", out="output.dense", **names, **_OLD)


def _vit_blocks_new(config: ViTConfig) -> tuple[Rule, ...]:
    names = {"norm1": "layernorm_before", "norm2": "layernorm_after", "hidden": "mlp.fc1"}
    return _blocks("layers.{i}.", out="mlp.fc2", **names, **_NEW)


def _vit_rules(blocks: _Blocks) -> Callable[[ViTConfig], tuple[Rule, ...]]:
    def rules(config: ViTConfig) -> tuple[Rule, ...]:
        return (
            rule("embeddings.patch_embeddings.projection.*", "backbone.patch.*"),
            rule("embeddings.cls_token", "backbone.class_token", "1 1 d -> d"),
            rule("embeddings.distillation_token", "backbone.registers", "1 n d -> n d"),
            rule("embeddings.position_embeddings", POSITION_ROWS, "1 n d -> n d"),
            *blocks(config),
            rule("layernorm.*", FINAL_NORM),
            rule("pooler.dense.*" if has_pooler(config) else "classifier.*", "readout.head.linear.*"),
            rule("cls_classifier.*", "readout.head.class_token.*"),
            rule("distillation_classifier.*", "readout.head.distillation_token.*"),
        )

    return rules


def _configure_vit(*, first_norm: str, hidden: str, query: str) -> Callable[[Checkpoint], ViTConfig]:
    def configure(checkpoint: Checkpoint) -> ViTConfig:
        check_type(checkpoint, "vit", "deit", "vit_mae", "vit_msn", "ijepa")
        kernel = "embeddings.patch_embeddings.projection.weight"
        dim, _, *patch = checkpoint.shape(kernel, 4)
        class_token, distillation = (f"embeddings.{n}_token" in checkpoint for n in ("cls", "distillation"))
        num_prefix = int(class_token) + int(distillation)
        positions = checkpoint.shape("embeddings.position_embeddings", 3)[1]
        eps = checkpoint.setting("layer_norm_eps", 1e-12)
        distilled = "distillation_classifier.weight" in checkpoint
        num_classes = classes(checkpoint, "cls_classifier.weight" if distilled else "classifier.weight")
        head: str | PartSpec = "none" if num_classes is None else "distilled" if distilled else "linear"
        if num_classes is None and "pooler.dense.weight" in checkpoint:
            num_classes = classes(checkpoint, "pooler.dense.weight")
            head = PartSpec("linear", (("activation", checkpoint.setting("pooler_act", "tanh")),))
        return model_config(
            checkpoint,
            kernel=kernel,
            depth=checkpoint.depth(first_norm),
            num_heads=checkpoint.heads(dim, named="num_attention_heads"),
            mlp_dim=checkpoint.shape(hidden, 2)[0],
            grid=checkpoint.grid(positions - num_prefix, (patch[0], patch[1]), checkpoint.settings.get("image_size")),
            num_classes=num_classes,
            position=learned("torch_bicubic"),
            pool=PartSpec("cls", (("num_tokens", 2),)) if distilled else "cls" if class_token else "mean",
            head=head,
            class_token=class_token,
            num_registers=int(distillation),
            encoder=EncoderOptions(
                qkv_bias=query in checkpoint,
                activation=activation(checkpoint, "hidden_act", ACTIVATIONS, "gelu"),
                norm_eps=eps,
            ),
        )

    return configure


_DECODER: Final = ((r"decoder\..*", "MAE's decoder, which only pre-training needs"),)
_VIT_IGNORED: Final = (
    *MASK_TOKEN,
    *_DECODER,
    (r"pooler\.dense\.(weight|bias)", "the pooler, which the classifier does not read"),
)
_VIT_PREFIXES: Final = ("vit.", "deit.", "model.vit.", "model.deit.")


def _written_vit(config: ViTConfig) -> tuple[str, tuple[str, ...]]:
    bare = config.head == "none" or has_pooler(config)
    prefix = "" if bare else "deit." if config.num_registers else "vit."
    return prefix, ("classifier", "cls_classifier", "distillation_classifier")


HF_VIT: Final = Layout(
    name="hf_vit",
    title="Hugging Face's ViT, DeiT and ViTMAE",
    signature=("embeddings.patch_embeddings.projection.weight", "encoder.layer.0.layernorm_before.weight"),
    configure=_configure_vit(
        first_norm="encoder.layer.{i}.layernorm_before.weight",
        hidden="encoder.layer.0.intermediate.dense.weight",
        query="encoder.layer.0.attention.attention.query.bias",
    ),
    rules=_vit_rules(_vit_blocks_old),
    prefixes=_VIT_PREFIXES,
    ignored=_VIT_IGNORED,
    embeds=has_pooler,
    written_prefix=_written_vit,
    written_settings=written_settings,
)
HF_VIT_5: Final = Layout(
    name="hf_vit_5",
    title="Hugging Face's ViT, DeiT and ViTMAE, as version 5 names them in memory",
    signature=("embeddings.patch_embeddings.projection.weight", "layers.0.layernorm_before.weight"),
    configure=_configure_vit(
        first_norm="layers.{i}.layernorm_before.weight",
        hidden="layers.0.mlp.fc1.weight",
        query="layers.0.attention.q_proj.bias",
    ),
    rules=_vit_rules(_vit_blocks_new),
    prefixes=_VIT_PREFIXES,
    ignored=_VIT_IGNORED,
    embeds=has_pooler,
)


# --- DINOv2 -------------------------------------------------------------------------------------------------------


def _dinov2_blocks(linear: Mapping[str, Any], gated: Any, out: str) -> _Blocks:
    def blocks(config: ViTConfig) -> tuple[Rule, ...]:
        swiglu = config.encoder.activation == "swiglu"
        return _blocks(
            "encoder.layer.{i}.",
            norm1="norm1",
            norm2="norm2",
            hidden=gated if swiglu else "mlp.fc1",
            out=out if swiglu else "mlp.fc2",
            scales=("layer_scale1.lambda1", "layer_scale2.lambda1"),
            **linear,
        )

    return blocks


def _dinov2_rules(blocks: _Blocks) -> Callable[[ViTConfig], tuple[Rule, ...]]:
    def rules(config: ViTConfig) -> tuple[Rule, ...]:
        return (
            rule("embeddings.patch_embeddings.projection.*", "backbone.patch.*"),
            rule("embeddings.cls_token", "backbone.class_token", "1 1 d -> d"),
            rule("embeddings.register_tokens", "backbone.registers", "1 n d -> n d"),
            rule("embeddings.position_embeddings", POSITION_ROWS, "1 n d -> n d"),
            *blocks(config),
            rule("layernorm.*", FINAL_NORM),
            rule("classifier.*", "readout.head.linear.*"),
        )

    return rules


def _configure_dinov2(query: str, gated_out: str) -> Callable[[Checkpoint], ViTConfig]:
    def configure(checkpoint: Checkpoint) -> ViTConfig:
        check_type(checkpoint, "dinov2", "dinov2_with_registers")
        kernel, first = "embeddings.patch_embeddings.projection.weight", "encoder.layer.0"
        dim, _, *patch = checkpoint.shape(kernel, 4)
        has_registers = "embeddings.register_tokens" in checkpoint
        registers = checkpoint.shape("embeddings.register_tokens", 3)[1] if has_registers else 0
        positions = checkpoint.shape("embeddings.position_embeddings", 3)[1]
        gated = f"{first}.{gated_out}.weight" in checkpoint
        act = activation(checkpoint, "hidden_act", ACTIVATIONS, "gelu")
        out = checkpoint.shape(f"{first}.{gated_out if gated else 'mlp.fc2'}.weight", 2)
        num_classes = classes(checkpoint, "classifier.weight")
        return model_config(
            checkpoint,
            kernel=kernel,
            depth=checkpoint.depth("encoder.layer.{i}.norm1.weight"),
            num_heads=checkpoint.heads(dim, named="num_attention_heads"),
            mlp_dim=out[1],
            grid=checkpoint.grid(positions - 1, (patch[0], patch[1]), checkpoint.settings.get("image_size")),
            num_classes=num_classes,
            position=learned(
                "torch_bicubic_antialias" if has_registers else "torch_bicubic",
                covers_prefix="class" if has_registers else True,
            ),
            pool="cls" if num_classes is None else "cls_mean",
            head="none" if num_classes is None else "linear",
            class_token=True,
            num_registers=registers,
            encoder=EncoderOptions(
                qkv_bias=f"{first}.{query}.bias" in checkpoint,
                activation="swiglu" if gated else act,
                norm_eps=checkpoint.setting("layer_norm_eps", 1e-6),
                layer_scale=1.0,
            ),
        )

    return configure


_DINOV2_PREFIXES: Final = ("dinov2.", "dinov2_with_registers.")


def _written_dinov2(config: ViTConfig) -> tuple[str, tuple[str, ...]]:
    name = "dinov2_with_registers." if config.num_registers else "dinov2."
    return "" if config.head == "none" else name, ("classifier",)


HF_DINOV2: Final = Layout(
    name="hf_dinov2",
    title="Hugging Face's DINOv2, with and without registers",
    signature=("encoder.layer.0.layer_scale1.lambda1", "encoder.layer.0.attention.attention.query.weight"),
    configure=_configure_dinov2("attention.attention.query", "mlp.weights_out"),
    rules=_dinov2_rules(_dinov2_blocks(_OLD, "mlp.weights_in", "mlp.weights_out")),
    prefixes=_DINOV2_PREFIXES,
    ignored=MASK_TOKEN,
    written_prefix=_written_dinov2,
    written_settings=written_settings,
)
HF_DINOV2_5: Final = Layout(
    name="hf_dinov2_5",
    title="Hugging Face's DINOv2, as version 5 names it in memory",
    signature=("encoder.layer.0.layer_scale1.lambda1", "encoder.layer.0.attention.q_proj.weight"),
    configure=_configure_dinov2("attention.q_proj", "mlp.down_proj"),
    rules=_dinov2_rules(_dinov2_blocks(_NEW, ("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj")),
    prefixes=_DINOV2_PREFIXES,
    ignored=MASK_TOKEN,
)
