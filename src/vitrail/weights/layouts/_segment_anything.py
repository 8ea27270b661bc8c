"""The layouts of the whole of SAM, with its prompt encoder and its mask decoder: Meta's own and Hugging Face's.

Source: facebookresearch/segment-anything `build_sam.py` and `modeling`; transformers 5.23.0 `models/sam`.
"""

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Final, cast

from ...model import ViTConfig
from ...systems import SegmentAnythingConfig
from .._rules import Rule, map_names, prefix_rules
from ._checkpoint import Checkpoint
from ._hugging_face import name_activation, read_activation
from ._layout import Export, Layout, Settings
from ._libraries import HUGGING_FACE, META
from ._processor import write_hugging_face_preprocess
from ._sam import HF_SAM_IMAGE, META_SAM_IMAGE, OTHER_PARTS, write_image_settings
from ._vit import describe_misreading, find_misreading, find_square_obstacle, write_sides


@dataclass(frozen=True)
class _Names:
    """What the two call the same things, after `prompt_encoder.` and `mask_decoder.`."""

    image: str
    frequencies: tuple[str, ...]
    point: str
    mask: tuple[str, str, str, str, str]
    norm: str
    final_norm: str
    upscale: tuple[str, str, str]
    first: str
    between: str
    last: str
    norm_eps: float
    """What the norms of the blocks add to the variance where no settings say it."""


_META: Final = _Names(
    image="image_encoder.",
    frequencies=("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",),
    point="point_embeddings",
    mask=(
        "mask_downscaling.0",
        "mask_downscaling.1",
        "mask_downscaling.3",
        "mask_downscaling.4",
        "mask_downscaling.6",
    ),
    norm="norm",
    final_norm="norm_final_attn",
    upscale=("output_upscaling.0", "output_upscaling.1", "output_upscaling.3"),
    first="layers.0",
    between="layers.{layer}",
    last="layers.{layer}",
    norm_eps=1e-5,
)
_HUGGING_FACE: Final = _Names(
    image="vision_encoder.",
    frequencies=(
        "shared_image_embedding.positional_embedding",
        "prompt_encoder.shared_embedding.positional_embedding",
    ),
    point="point_embed",
    mask=(
        "mask_embed.conv1",
        "mask_embed.layer_norm1",
        "mask_embed.conv2",
        "mask_embed.layer_norm2",
        "mask_embed.conv3",
    ),
    norm="layer_norm",
    final_norm="layer_norm_final_attn",
    upscale=("upscale_conv1", "upscale_layer_norm", "upscale_conv2"),
    first="proj_in",
    between="layers.{before}",
    last="proj_out",
    norm_eps=1e-6,
)
_WEIGH: Final = "mask_decoder.output_hypernetworks_mlps."
_QUALITY: Final = "mask_decoder.iou_prediction_head."
_BLOCK: Final = "mask_decoder.transformer.layers."
_WEIGH_DEPTH: Final = 3
_OTHER_HEADS: Final = ("mask_decoder.hf_token.weight", "mask_decoder.hq_token.weight")
"""What SAM-HQ adds to the mask decoder."""


def _read_config(checkpoint: Checkpoint, *, layout: Layout[ViTConfig], names: _Names) -> SegmentAnythingConfig:
    image = layout.read_config(checkpoint.view(layout=layout))
    decoder = checkpoint.view(settings=checkpoint.settings.get("mask_decoder_config") or {})
    prompt = checkpoint.view(settings=checkpoint.settings.get("prompt_encoder_config") or {})
    quality = _QUALITY + _name_layer(names, 0)
    return SegmentAnythingConfig(
        image=image,
        num_masks=checkpoint.get_shape("mask_decoder.mask_tokens.weight", 2)[0] - 1,
        depth=checkpoint.count_blocks(_BLOCK + "{i}.self_attn.q_proj.weight"),
        num_heads=decoder.get_heads(image.token_dim, setting="num_attention_heads", usual=8),
        narrowing=image.token_dim // checkpoint.get_shape(f"{_BLOCK}0.cross_attn_token_to_image.q_proj.weight", 2)[0],
        mlp_dim=checkpoint.get_shape(f"{_BLOCK}0.mlp.lin1.weight", 2)[0],
        activation=read_activation(decoder, "relu"),
        norm_eps=decoder.get_setting("layer_norm_eps", float, names.norm_eps),
        quality_depth=_count_layers(checkpoint),
        quality_dim=checkpoint.get_shape(quality + ".weight", 2)[0],
        mask_channels=checkpoint.get_shape(f"prompt_encoder.{names.mask[2]}.weight", 4)[0],
        mask_activation=read_activation(prompt, "gelu"),
        mask_norm_eps=prompt.get_setting("layer_norm_eps", float, 1e-6),
    )


def _count_layers(checkpoint: Checkpoint) -> int:
    """The number of layers that predict the quality."""
    return sum(1 for name in checkpoint.tensors if name.startswith(_QUALITY) and name.endswith(".weight"))


def _name_layer(names: _Names, layer: int, depth: int = _WEIGH_DEPTH) -> str:
    """The name of a layer of a perceptron of `depth` layers."""
    pattern = names.first if layer == 0 else names.last if layer == depth - 1 else names.between
    return pattern.format(layer=layer, before=layer - 1)


def _map(config: SegmentAnythingConfig, *, layout: Layout[ViTConfig], names: _Names) -> tuple[Rule, ...]:
    return (
        *prefix_rules(layout.rules(config.image), ours="image.", theirs=names.image),
        *_map_prompt(names),
        *(rule for i in range(config.depth) for rule in _map_block(i, names)),
        *_map_decoder(config, names),
    )


def _map_prompt(names: _Names) -> tuple[Rule, ...]:
    theirs, ours = "prompt_encoder.", "prompt."
    conv1, norm1, conv2, norm2, conv3 = (theirs + name for name in names.mask)
    return (
        *(map_names(name, ours + "frequencies") for name in names.frequencies),
        map_names([f"{theirs}{names.point}.{i}.weight" for i in range(4)], ours + "labels"),
        map_names(theirs + "not_a_point_embed.weight", ours + "no_point", "1 d -> d"),
        map_names(theirs + "no_mask_embed.weight", ours + "no_mask", "1 d -> d"),
        map_names(conv1 + ".*", ours + "mask.first.*"),
        map_names(norm1 + ".*", ours + "mask.first_norm.*"),
        map_names(conv2 + ".*", ours + "mask.second.*"),
        map_names(norm2 + ".*", ours + "mask.second_norm.*"),
        map_names(conv3 + ".weight", ours + "mask.project.weight", "o i 1 1 -> o i"),
        map_names(conv3 + ".bias", ours + "mask.project.bias"),
    )


def _map_block(i: int, names: _Names) -> tuple[Rule, ...]:
    theirs, ours = f"{_BLOCK}{i}.", f"decoder.blocks.{i}."
    return (
        *_map_attention(theirs + "self_attn", ours + "attention"),
        *_map_attention(theirs + "cross_attn_token_to_image", ours + "to_image"),
        *_map_attention(theirs + "cross_attn_image_to_token", ours + "from_image"),
        map_names(theirs + "mlp.lin1.*", ours + "mlp.hidden.*"),
        map_names(theirs + "mlp.lin2.*", ours + "mlp.out.*"),
        *(map_names(f"{theirs}{names.norm}{n}.*", f"{ours}norm{n}.*") for n in range(1, 5)),
    )


def _map_attention(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (
        map_names([f"{theirs}.{name}_proj.*" for name in "qkv"], ours + ".qkv.*"),
        map_names(theirs + ".out_proj.*", ours + ".project.*"),
    )


def _map_decoder(config: SegmentAnythingConfig, names: _Names) -> tuple[Rule, ...]:
    theirs, ours = "mask_decoder.", "decoder."
    upscale1, norm, upscale2 = (theirs + name for name in names.upscale)
    return (
        map_names(theirs + "iou_token.weight", ours + "quality_token", "1 d -> d"),
        map_names(theirs + "mask_tokens.weight", ours + "mask_tokens"),
        *_map_attention(theirs + "transformer.final_attn_token_to_image", ours + "to_image"),
        map_names(f"{theirs}transformer.{names.final_norm}.*", ours + "norm.*"),
        map_names(upscale1 + ".*", ours + "upscale1.*"),
        map_names(norm + ".*", ours + "upscale_norm.*"),
        map_names(upscale2 + ".*", ours + "upscale2.*"),
        *(
            map_names(f"{_WEIGH}{{i}}.{_name_layer(names, layer)}.*", f"{ours}weigh.layers.{layer}.*")
            for layer in range(_WEIGH_DEPTH)
        ),
        *(
            map_names(
                f"{_QUALITY}{_name_layer(names, layer, config.quality_depth)}.*", f"{ours}quality.layers.{layer}.*"
            )
            for layer in range(config.quality_depth)
        ),
    )


def _find_misreading(config: SegmentAnythingConfig, read: SegmentAnythingConfig) -> str:
    """What differs between a configuration and the one that its tensors are read as; empty if nothing does."""
    if problem := find_misreading(config.image, read.image):
        return problem
    for field in dataclasses.fields(config):
        wanted, found = (cast(object, getattr(each, field.name)) for each in (config, read))
        if field.name != "image" and wanted != found:
            return describe_misreading(field.name, wanted, found)
    return ""


def _write_config_hugging_face(config: SegmentAnythingConfig) -> Settings:
    sides = {"image_size": write_sides(config.image.image_size), "patch_size": write_sides(config.image.patch_size)}
    image = dict(write_image_settings(config.image))
    whole = {name: image.pop(name) for name in ("architectures", "model_type", "transformers_version", "dtype")}
    return {
        **whole,
        "architectures": ["SamModel"],
        "model_type": "sam",
        "vision_config": {"model_type": "sam_vision_model", **image, "num_pos_feats": config.dim // 2},
        "prompt_encoder_config": {
            "model_type": "sam_prompt_encoder",
            "hidden_size": config.dim,
            **sides,
            "mask_input_channels": config.mask_channels,
            "hidden_act": name_activation(config.mask_activation),
            "layer_norm_eps": config.mask_norm_eps,
        },
        "mask_decoder_config": {
            "model_type": "sam_mask_decoder",
            "hidden_size": config.dim,
            "num_hidden_layers": config.depth,
            "num_attention_heads": config.num_heads,
            "attention_downsample_rate": config.narrowing,
            "mlp_dim": config.mlp_dim,
            "hidden_act": name_activation(config.activation),
            "layer_norm_eps": config.norm_eps,
            "num_multimask_outputs": config.num_masks,
            "iou_head_depth": config.quality_depth,
            "iou_head_hidden_dim": config.quality_dim,
        },
    }


META_SAM: Final = Layout(
    name="sam",
    title="Meta's SAM",
    library=META,
    read_config=partial(_read_config, layout=META_SAM_IMAGE, names=_META),
    rules=partial(_map, layout=META_SAM_IMAGE, names=_META),
    signature=(
        "image_encoder.pos_embed",
        "image_encoder.neck.0.weight",
        _META.frequencies[0],
        "mask_decoder.mask_tokens.weight",
    ),
    foreign=_OTHER_HEADS,
    ignored=OTHER_PARTS[-1:],
    kind=SegmentAnythingConfig,
    image=META_SAM_IMAGE,
    export=Export(_find_misreading),
)
HF_SAM: Final = Layout(
    name="hf_sam",
    title="Hugging Face's SAM",
    library=HUGGING_FACE,
    read_config=partial(_read_config, layout=HF_SAM_IMAGE, names=_HUGGING_FACE),
    rules=partial(_map, layout=HF_SAM_IMAGE, names=_HUGGING_FACE),
    signature=(
        "vision_encoder.pos_embed",
        "vision_encoder.neck.conv1.weight",
        "mask_decoder.mask_tokens.weight",
        "prompt_encoder.no_mask_embed.weight",
    ),
    one_of=(_HUGGING_FACE.frequencies,),
    foreign=_OTHER_HEADS,
    ignored=((r"prompt_encoder\.shared_embedding\.positional_embedding", "the same as that of the image"),),
    kind=SegmentAnythingConfig,
    image=HF_SAM_IMAGE,
    model_types=("sam",),
    export=Export(
        _find_misreading,
        write_config=_write_config_hugging_face,
        write_preprocess=lambda config: write_hugging_face_preprocess(config.image),
        find_obstacle=lambda config: find_square_obstacle(config.image),
    ),
)
