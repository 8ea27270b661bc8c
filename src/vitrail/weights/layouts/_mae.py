"""The layouts of MAE with its decoder: Meta's, and Hugging Face's.

Source: facebookresearch/mae `models_mae.py`; transformers 5.23.0: the module `vit_mae`.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from ...encoder import EncoderOptions, EncoderSize
from ...model import ViTConfig
from ...systems import MAEConfig
from .._errors import CheckpointError
from .._rules import FINAL_NORM, POSITION_ROWS, Rule, map_block, map_names, prefix_rules
from ._checkpoint import Checkpoint
from ._hf_vit import HF_VIT, HF_VIT_5, IN_MEMORY, ON_THE_HUB, BlockNames, map_hf_block
from ._hugging_face import write_config
from ._layout import Export, Layout, Settings
from ._libraries import HUGGING_FACE, META
from ._preprocess import IMAGENET, Preprocess
from ._processor import write_hugging_face_preprocess
from ._vit import describe_misreading, find_misreading, find_square_obstacle, use_learned

_ROWS: Final = ("decoder.position.class_token", "decoder.position.patches")


@dataclass(frozen=True)
class _Names:
    """What the two call the same things in the decoder."""

    prefix: str
    blocks: tuple[str, ...]
    norm1: str
    hidden: str
    heads: str


def _read_config(checkpoint: Checkpoint, *, names: _Names, image: Layout[ViTConfig]) -> MAEConfig:
    dim = checkpoint.get_shape(f"{names.prefix}decoder_embed.weight", 2)[0]
    block = next((b for b in names.blocks if f"{b.format(i=0)}{names.norm1}" in checkpoint), names.blocks[0])
    return MAEConfig(
        image=image.read_config(checkpoint.view(layout=image)),
        decoder=EncoderSize(
            dim=dim,
            depth=checkpoint.count_blocks(block + names.norm1),
            num_heads=checkpoint.get_heads(dim, setting=names.heads, usual=16 if dim == 512 else None),
            mlp_dim=checkpoint.get_shape(f"{block.format(i=0)}{names.hidden}", 2)[0],
        ),
        position=use_learned("torch_bicubic"),
        normalise_targets=_read_targets(checkpoint),
    )


def _read_targets(checkpoint: Checkpoint) -> bool:
    if not checkpoint.settings:
        raise CheckpointError(
            f"{checkpoint.path} does not say whether its decoder predicts normalised pixels: pass "
            "config={'norm_pix_loss': True} for Meta's pre-training checkpoints, {'norm_pix_loss': False} for those to "
            "visualise, or part='image' for the encoder alone"
        )
    return checkpoint.get_setting("norm_pix_loss", bool)


def _map_decoder(prefix: str) -> tuple[Rule, ...]:
    """The rules of what is around the blocks of the decoder."""
    return (
        map_names(f"{prefix}decoder_embed.*", "decoder.embed.*"),
        map_names(f"{prefix}mask_token", "decoder.mask_token", "1 1 d -> d"),
        map_names(f"{prefix}decoder_pos_embed", _ROWS, "1 n d -> n d"),
        map_names(f"{prefix}decoder_norm.*", "decoder.norm.*"),
        map_names(f"{prefix}decoder_pred.*", "decoder.predict.*"),
    )


def _find_misreading(config: MAEConfig, read: MAEConfig) -> str:
    for name in ("decoder", "normalise_targets"):
        if (wanted := getattr(config, name)) != (found := getattr(read, name)):
            return describe_misreading(name, wanted, found)
    return find_misreading(config.image, read.image)


# --- Meta ---------------------------------------------------------------------------------------------------------


def _read_image_config(checkpoint: Checkpoint) -> ViTConfig:
    dim, channels, patch = checkpoint.get_kernel("patch_embed.proj.weight")
    image_size = checkpoint.find_image_size(checkpoint.get_shape("pos_embed", 3)[1] - 1, patch)
    return ViTConfig(
        image_size=image_size,
        patch_size=patch,
        channels=channels,
        size=checkpoint.get_size(
            dim,
            depth=checkpoint.count_blocks("blocks.{i}.norm1.weight"),
            mlp_dim=checkpoint.get_shape("blocks.0.mlp.fc1.weight", 2)[0],
            patch=patch,
            setting="num_heads",
        ),
        position=use_learned("torch_bicubic"),
        pool="cls",
        head="none",
        class_token=True,
        encoder=EncoderOptions(qkv_bias="blocks.0.attn.qkv.bias" in checkpoint, norm_eps=1e-6),
        preprocess=checkpoint.find_preprocess(channels),
    )


def _map_block(prefix: str, ours: str) -> tuple[Rule, ...]:
    return map_block(
        prefix,
        norm1="norm1",
        qkv="attn.qkv",
        project="attn.proj",
        norm2="norm2",
        hidden="mlp.fc1",
        out="mlp.fc2",
        ours=ours,
    )


def _map_image(config: ViTConfig) -> tuple[Rule, ...]:
    return (
        map_names("patch_embed.proj.*", "backbone.patch.*"),
        map_names("cls_token", "backbone.class_token", "1 1 d -> d"),
        map_names("pos_embed", POSITION_ROWS, "1 n d -> n d"),
        *_map_block("blocks.{i}.", "backbone.encoder.stack."),
        map_names("norm.*", FINAL_NORM),
    )


def _map_meta(config: MAEConfig) -> tuple[Rule, ...]:
    return (
        *prefix_rules(_map_image(config.image), ours="image."),
        *_map_decoder(_META_NAMES.prefix),
        *_map_block(_META_NAMES.blocks[0], "decoder.encoder.stack."),
    )


_META_NAMES: Final = _Names("", ("decoder_blocks.{i}.",), "norm1.weight", "mlp.fc1.weight", "decoder_num_heads")
_SIGNATURE: Final = ("decoder_embed.weight", "mask_token", "pos_embed", "blocks.0.attn.qkv.weight")
META_MAE_IMAGE: Final = Layout(
    name="mae",
    title="Meta's MAE, the encoder alone",
    library=META,
    read_config=_read_image_config,
    rules=_map_image,
    signature=_SIGNATURE,
    preprocess={"": Preprocess("cover", "bicubic", *IMAGENET, crop=0.875)},
    ignored=(
        (r"decoder_.*", "the decoder, which only pre-training needs"),
        (r"mask_token", "only masked images need it"),
    ),
)
META_MAE: Final = Layout(
    name="mae",
    title="Meta's MAE, with its decoder",
    library=META,
    read_config=partial(_read_config, names=_META_NAMES, image=META_MAE_IMAGE),
    rules=_map_meta,
    signature=_SIGNATURE,
    kind=MAEConfig,
    image=META_MAE_IMAGE,
    usual={"norm_pix_loss": False},
)


# --- Hugging Face -------------------------------------------------------------------------------------------------


# Version 5 writes the blocks of the decoder under the second name, and reads both.
_HF_NAMES: Final = _Names(
    "decoder.",
    ("decoder.decoder_layers.{i}.", "decoder.decoder_encoder.layer.{i}."),
    "layernorm_before.weight",
    f"{ON_THE_HUB.hidden}.weight",
    "decoder_num_attention_heads",
)


def _map_hugging_face(config: MAEConfig, *, names: BlockNames, image: Layout[ViTConfig]) -> tuple[Rule, ...]:
    return (
        *prefix_rules(image.rules(config.image), ours="image.", theirs="vit."),
        *_map_decoder(_HF_NAMES.prefix),
        *(
            rule
            for block in _HF_NAMES.blocks
            for rule in map_hf_block(names, block=block, ours="decoder.encoder.stack.")
        ),
    )


def _write_config(config: MAEConfig) -> Settings:
    size = config.decoder
    return write_config(
        config.image,
        "vit_mae",
        "ViTMAEForPreTraining",
        qkv_bias=config.image.encoder.qkv_bias,
        decoder_hidden_size=size.dim,
        decoder_num_hidden_layers=size.depth,
        decoder_num_attention_heads=size.num_heads,
        decoder_intermediate_size=size.mlp_dim,
        norm_pix_loss=config.normalise_targets,
    )


HF_MAE: Final = Layout(
    name="hf_vit",
    title="Hugging Face's ViTMAE, with its decoder",
    library=HUGGING_FACE,
    read_config=partial(_read_config, names=_HF_NAMES, image=HF_VIT),
    rules=partial(_map_hugging_face, names=ON_THE_HUB, image=HF_VIT),
    signature=(
        "decoder.decoder_embed.weight",
        "vit.embeddings.cls_token",
        "vit.encoder.layer.0.layernorm_before.weight",
    ),
    prefixes=("model.",),
    kind=MAEConfig,
    image=HF_VIT,
    model_types=("vit_mae",),
    usual={"norm_pix_loss": False},
    export=Export(
        _find_misreading,
        write_config=_write_config,
        write_preprocess=lambda config: write_hugging_face_preprocess(config.image),
        find_obstacle=lambda config: find_square_obstacle(config.image),
    ),
)
HF_MAE_5: Final = replace(
    HF_MAE,
    name="hf_vit_5",
    title="Hugging Face's ViTMAE, with its decoder, as version 5 names them in memory",
    read_config=partial(_read_config, names=replace(_HF_NAMES, hidden=f"{IN_MEMORY.hidden}.weight"), image=HF_VIT_5),
    rules=partial(_map_hugging_face, names=IN_MEMORY, image=HF_VIT_5),
    signature=("decoder.decoder_embed.weight", "vit.embeddings.cls_token", "vit.layers.0.layernorm_before.weight"),
    image=HF_VIT_5,
    export=None,
)
