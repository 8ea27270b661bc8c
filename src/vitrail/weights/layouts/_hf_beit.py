"""The layouts of Hugging Face's BEiT and data2vec: the names on the Hub, and those of version 5 in memory.

Source: transformers 5.23.0, the modules `beit` and `data2vec`.
"""

from dataclasses import replace
from functools import partial
from typing import Final

from ...encoder import EncoderOptions, EncoderSize
from ...model import ViTConfig
from .._errors import CheckpointError
from .._rules import FINAL_NORM, QKV, ZEROS, Rule, map_block, map_names
from ._beit import COMPUTED, IGNORED, Tables, is_relative, is_shared, map_position, read_position
from ._checkpoint import Checkpoint
from ._hf_vit import HF_KERNEL, IN_MEMORY, OF_BEIT, ON_THE_HUB, BlockNames
from ._hugging_face import MASK_TOKEN, read_activation, select_settings, write_config, write_labels
from ._layout import Export, Layout, Settings
from ._libraries import HUGGING_FACE
from ._preprocess import HALF, Preprocess
from ._processor import write_hugging_face_preprocess
from ._vit import find_misreading, find_square_obstacle

_HUB: Final = Tables("embeddings.position_embeddings", OF_BEIT[1].replace(".0.", ".{i}."), OF_BEIT[2])
_MEMORY: Final = replace(_HUB, by_block=OF_BEIT[4].replace(".0.", ".{i}."), shared=OF_BEIT[5])


def _read_config_hugging_face(checkpoint: Checkpoint, *, names: BlockNames, tables: Tables) -> ViTConfig:
    checkpoint = select_settings(checkpoint)
    dim, channels, patch = checkpoint.get_kernel(HF_KERNEL)
    given = checkpoint.settings.get("image_size")
    position, image_size, heads = read_position(checkpoint, tables, patch, given, resize="bilinear")
    if position != "none" and image_size[0] // patch[0] != image_size[1] // patch[1]:
        raise CheckpointError(
            f"{checkpoint.path} must have positions for a square grid of patches, got the image size of {given} "
            "pixels: transformers exchanges the rows and columns of such tables"
        )
    first = names.block.format(i=0)
    pools_patches = "pooler.layernorm.weight" in checkpoint
    if not pools_patches and "layernorm.weight" not in checkpoint:
        raise CheckpointError(
            f"{checkpoint.path} has a BEiT without a final norm, as a segmenter or DPT reads it: vitrail loads those "
            "of BeitModel, BeitForImageClassification and BeitForMaskedImageModeling"
        )
    num_classes = checkpoint.count_classes("classifier.weight")
    heads = checkpoint.settings.get("num_attention_heads", heads)
    return ViTConfig(
        image_size=image_size,
        patch_size=patch,
        channels=channels,
        size=EncoderSize(
            dim=dim,
            depth=checkpoint.count_blocks(names.block + "layernorm_before.weight"),
            num_heads=checkpoint.check_heads("num_attention_heads", heads, dim),
            mlp_dim=checkpoint.get_shape(f"{first}{names.hidden}.weight", 2)[0],
        ),
        num_classes=num_classes,
        classes=checkpoint.find_classes(num_classes),
        position=position,
        pool="mean" if pools_patches else "cls",
        head="none" if num_classes is None else "linear",
        norm_order="pool_norm" if pools_patches else "norm_pool",
        class_token=True,
        encoder=EncoderOptions(
            activation=read_activation(checkpoint),
            norm_eps=checkpoint.get_setting("layer_norm_eps", float),
            layer_scale=1.0 if f"{first}lambda_1" in checkpoint else None,
        ),
        preprocess=checkpoint.find_preprocess(channels, checkpoint.count_unread(patch, given)),
    )


def _map_hugging_face(config: ViTConfig, *, names: BlockNames, tables: Tables) -> tuple[Rule, ...]:
    q, k, v = (f"{names.block}{name}." for name in names.qkv)
    return (
        map_names("embeddings.patch_embeddings.projection.*", "backbone.patch.*"),
        map_names("embeddings.cls_token", "backbone.class_token", "1 1 d -> d"),
        map_position(config, tables),
        map_names((q + "weight", k + "weight", v + "weight"), QKV + "weight"),
        map_names((q + "bias", ZEROS, v + "bias"), QKV + "bias"),
        *map_block(
            names.block,
            norm1="layernorm_before",
            qkv=(),
            project=names.project,
            norm2="layernorm_after",
            hidden=names.hidden,
            out=names.out,
            scales=("lambda_1", "lambda_2"),
        ),
        map_names("pooler.layernorm.*" if config.norm_order == "pool_norm" else "layernorm.*", FINAL_NORM),
        map_names("classifier.*", "readout.head.linear.*"),
    )


def _write_config_hugging_face(config: ViTConfig) -> Settings:
    classifies, relative, shared = config.head != "none", is_relative(config), is_shared(config)
    return write_config(
        config,
        "beit",
        "BeitForImageClassification" if classifies else "BeitModel",
        layer_scale_init_value=config.encoder.layer_scale or 0.0,
        use_absolute_position_embeddings=not relative and config.position != "none",
        use_relative_position_bias=relative and not shared,
        use_shared_relative_position_bias=relative and shared,
        use_mask_token=False,
        use_mean_pooling=config.norm_order == "pool_norm",
        **(write_labels(config) if classifies else {}),
    )


_MODEL_TYPES: Final = ("beit", "data2vec-vision")

HF_BEIT: Final = Layout(
    name="hf_beit",
    title="Hugging Face's BEiT and data2vec",
    library=HUGGING_FACE,
    read_config=partial(_read_config_hugging_face, names=ON_THE_HUB, tables=_HUB),
    rules=partial(_map_hugging_face, names=ON_THE_HUB, tables=_HUB),
    signature=(HF_KERNEL, "encoder.layer.0.layernorm_before.weight"),
    one_of=(OF_BEIT[:3],),
    prefixes=("beit.", "data2vec_vision."),
    model_types=_MODEL_TYPES,
    usual={"layer_norm_eps": 1e-12, "hidden_act": "gelu"},
    preprocess={
        "beit": Preprocess("squash", "bilinear", *HALF),
        "data2vec-vision": Preprocess("squash", "bicubic", *HALF),
    },
    ignored=(*IGNORED, *MASK_TOKEN),
    computed=COMPUTED,
    export=Export(
        find_misreading,
        write_config=_write_config_hugging_face,
        write_preprocess=write_hugging_face_preprocess,
        find_obstacle=find_square_obstacle,
        prefix=lambda config: "" if config.head == "none" else "beit.",
        kept=(r"embeddings\.mask_token",),
        describe_kept=lambda settings: dict(settings) | {"use_mask_token": True},
        bare=("classifier",),
    ),
)
HF_BEIT_5: Final = replace(
    HF_BEIT,
    name="hf_beit_5",
    title="Hugging Face's BEiT, as version 5 names it in memory",
    read_config=partial(_read_config_hugging_face, names=IN_MEMORY, tables=_MEMORY),
    rules=partial(_map_hugging_face, names=IN_MEMORY, tables=_MEMORY),
    signature=(HF_KERNEL, "layers.0.layernorm_before.weight"),
    one_of=(OF_BEIT[3:],),
    export=None,
)
