"""The layouts of Hugging Face's ViT, DeiT and MAE: the names on the Hub, and those of version 5 in memory.

Source: transformers 5.23.0: the modules `vit`, `deit` and `vit_mae`, and `conversion_mapping.py`.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Final, cast

from ..._spec import PartSpec
from ...encoder import EncoderOptions
from ...model import ViTConfig
from .._rules import FINAL_NORM, POSITION_ROWS, Rule, map_block, map_names
from ._adapt import cover_all
from ._checkpoint import Checkpoint
from ._hugging_face import MASK_TOKEN, read_activation, select_settings, write_config, write_labels
from ._layout import Export, Layout, Settings
from ._libraries import HUGGING_FACE
from ._preprocess import HALF, IMAGENET, Preprocess
from ._processor import find_preprocess_obstacle, write_hugging_face_preprocess
from ._vit import find_misreading, has_pooler, list_shapes, use_learned

HF_KERNEL: Final = "embeddings.patch_embeddings.projection.weight"
OF_BEIT: Final = (
    "encoder.layer.0.lambda_1",
    "encoder.layer.0.attention.attention.relative_position_bias.relative_position_bias_table",
    "encoder.relative_position_bias.relative_position_bias_table",
    "layers.0.lambda_1",
    "layers.0.relative_position_bias.relative_position_bias_table",
    "shared_position_bias.relative_position_bias_table",
)
"""Names of which a BEiT has at least one, on the Hub or in memory."""


@dataclass(frozen=True)
class BlockNames:
    """What the two call the same things in a block."""

    block: str
    qkv: tuple[str, str, str]
    project: str
    hidden: str
    out: str


ON_THE_HUB: Final = BlockNames(
    "encoder.layer.{i}.",
    ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
IN_MEMORY: Final = BlockNames(
    "layers.{i}.",
    ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    "attention.o_proj",
    "mlp.fc1",
    "mlp.fc2",
)


def _read_config(checkpoint: Checkpoint, *, names: BlockNames) -> ViTConfig:
    checkpoint = select_settings(checkpoint)
    dim, channels, patch = checkpoint.get_kernel(HF_KERNEL)
    class_token, distillation = (f"embeddings.{n}_token" in checkpoint for n in ("cls", "distillation"))
    positions = checkpoint.get_shape("embeddings.position_embeddings", 3)[1]
    eps = _read_eps(checkpoint)
    num_classes, head = _choose_head(checkpoint)
    first = names.block.format(i=0)
    depth = checkpoint.count_blocks(names.block + "layernorm_before.weight")
    num_patches = positions - int(class_token) - int(distillation)
    given = checkpoint.settings.get("image_size")
    image_size = checkpoint.find_image_size(num_patches, patch, given)
    pool = "cls" if class_token else "mean"
    return ViTConfig(
        image_size=image_size,
        patch_size=patch,
        channels=channels,
        size=checkpoint.get_size(
            dim,
            depth=depth,
            mlp_dim=checkpoint.get_shape(f"{first}{names.hidden}.weight", 2)[0],
            patch=patch,
            setting="num_attention_heads",
        ),
        num_classes=num_classes,
        classes=checkpoint.find_classes(num_classes),
        position=use_learned("torch_bicubic"),
        pool=PartSpec("cls", (("num_tokens", 2),)) if head == "distilled" else pool,
        head=head,
        class_token=class_token,
        num_registers=int(distillation),
        encoder=EncoderOptions(
            qkv_bias=f"{first}{names.qkv[0]}.bias" in checkpoint,
            activation=read_activation(checkpoint),
            norm_eps=eps,
        ),
        preprocess=checkpoint.find_preprocess(channels, checkpoint.count_unread(patch, given)),
    )


def _read_eps(checkpoint: Checkpoint) -> float:
    """The `norm_eps`: a setting, or what transformers assumes for the family that the settings or the names tell."""
    family = checkpoint.settings.get("model_type")
    told = ("embeddings.distillation_token", "decoder.decoder_embed.weight")  # DeiT, MAE
    if family is None and not any(name in checkpoint for name in told) and "layer_norm_eps" not in checkpoint.settings:
        raise checkpoint.ask(
            "the eps of its norms",
            "pass config={'layer_norm_eps': 1e-12} for ViT, DeiT and MAE, {'layer_norm_eps': 1e-6} for MSN and I-JEPA",
        )
    return checkpoint.get_setting("layer_norm_eps", float, 1e-6 if family == "vit_msn" else None)


def _choose_head(checkpoint: Checkpoint) -> tuple[int | None, str | PartSpec]:
    """The number of classes, and the head: both classifiers of DeiT, or one, or the pooler, or none."""
    if "distillation_classifier.weight" in checkpoint:
        return checkpoint.get_shape("cls_classifier.weight", 2)[0], "distilled"
    if "classifier.weight" in checkpoint:
        return checkpoint.count_classes("classifier.weight"), "linear"
    if "pooler.dense.weight" in checkpoint:
        activation = checkpoint.get_setting("pooler_act", str)
        return checkpoint.count_classes("pooler.dense.weight"), PartSpec("linear", (("activation", activation),))
    return None, "none"


def _map(config: ViTConfig, *, names: BlockNames) -> tuple[Rule, ...]:
    return (
        map_names("embeddings.patch_embeddings.projection.*", "backbone.patch.*"),
        map_names("embeddings.cls_token", "backbone.class_token", "1 1 d -> d"),
        map_names("embeddings.distillation_token", "backbone.registers", "1 n d -> n d"),
        map_names("embeddings.position_embeddings", POSITION_ROWS, "1 n d -> n d"),
        *map_hf_block(names),
        map_names("layernorm.*", FINAL_NORM),
        map_names("pooler.dense.*" if has_pooler(config) else "classifier.*", "readout.head.linear.*"),
        map_names("cls_classifier.*", "readout.head.class_token.*"),
        map_names("distillation_classifier.*", "readout.head.distillation_token.*"),
    )


def map_hf_block(
    names: BlockNames, *, block: str | None = None, ours: str = "backbone.encoder.stack."
) -> tuple[Rule, ...]:
    """The rules of a block, in the encoder or elsewhere."""
    return map_block(
        names.block if block is None else block,
        norm1="layernorm_before",
        qkv=names.qkv,
        project=names.project,
        norm2="layernorm_after",
        hidden=names.hidden,
        out=names.out,
        ours=ours,
    )


def _choose_family(config: ViTConfig) -> str:
    """The `model_type`: DeiT has a distillation token, and I-JEPA no class token."""
    if config.num_registers:
        return "deit"
    return "vit" if "backbone.class_token" in list_shapes(config) else "ijepa"


def _choose_prefix(config: ViTConfig) -> str:
    return "" if config.head == "none" or has_pooler(config) else f"{_choose_family(config)}."


def _write_config(config: ViTConfig) -> Settings:
    family = _choose_family(config)
    name = {"vit": "ViT", "deit": "DeiT", "ijepa": "IJepa"}[family]
    common = partial(write_config, config, family, qkv_bias=config.encoder.qkv_bias)
    if has_pooler(config):
        activation = dict(cast(PartSpec, config.head).options)["activation"]
        return common(f"{name}Model", pooler_output_size=config.num_classes, pooler_act=activation)
    if config.head == "none":
        return common(f"{name}Model")
    teacher = "WithTeacher" if config.head == "distilled" else ""
    return common(f"{name}ForImageClassification{teacher}", **write_labels(config))


def _find_obstacle(config: ViTConfig) -> str:
    if "backbone.class_token" not in list_shapes(config) and (config.num_registers or has_pooler(config)):
        return "a distillation token or a pooler needs a class token there"
    return find_preprocess_obstacle(config)


_PREFIXES: Final = ("vit.", "deit.", "ijepa.", "model.vit.", "model.deit.", "model.ijepa.")
_MODEL_TYPES: Final = ("vit", "deit", "vit_mae", "vit_msn", "ijepa", "flava_image_model", "flava")
_USUAL: Final = {"layer_norm_eps": 1e-12, "num_attention_heads": 12, "hidden_act": "gelu", "pooler_act": "tanh"}
_PREPROCESS: Final = {
    "vit": Preprocess("squash", "bilinear", *HALF),
    "deit": Preprocess("squash", "bicubic", *IMAGENET, crop=0.875),
    "vit_mae": Preprocess("squash", "bilinear", *IMAGENET),
}
_IGNORED: Final = (
    *MASK_TOKEN,
    (r"decoder\..*", "MAE's decoder, which only pre-training needs"),
    (r"pooler\.dense\.(weight|bias)", "the pooler, which the classifier does not read"),
)

HF_VIT: Final = Layout(
    name="hf_vit",
    title="Hugging Face's ViT, DeiT and ViTMAE",
    library=HUGGING_FACE,
    read_config=partial(_read_config, names=ON_THE_HUB),
    rules=partial(_map, names=ON_THE_HUB),
    signature=(HF_KERNEL, "encoder.layer.0.layernorm_before.weight"),
    foreign=OF_BEIT,
    prefixes=_PREFIXES,
    model_types=_MODEL_TYPES,
    usual=_USUAL,
    preprocess=_PREPROCESS,
    ignored=_IGNORED,
    embeds=("pooler.dense.weight",),
    export=Export(
        find_misreading,
        write_config=_write_config,
        write_preprocess=write_hugging_face_preprocess,
        adapt=cover_all,
        find_obstacle=_find_obstacle,
        prefix=_choose_prefix,
        kept=(r"embeddings\.mask_token",),
        bare=("classifier", "cls_classifier", "distillation_classifier"),
    ),
)
HF_VIT_5: Final = replace(
    HF_VIT,
    name="hf_vit_5",
    title="Hugging Face's ViT, DeiT and ViTMAE, as version 5 names them in memory",
    read_config=partial(_read_config, names=IN_MEMORY),
    rules=partial(_map, names=IN_MEMORY),
    signature=(HF_KERNEL, "layers.0.layernorm_before.weight"),
    export=None,
)
