"""The layout of SigLIP's image tower, and SigLIP 2's: Hugging Face's.

Source: transformers 5.23.0: the modules `siglip` and `siglip2`.
"""

import dataclasses
from typing import Final

from ...encoder import EncoderOptions
from ...model import ViTConfig
from .._errors import CheckpointError
from .._rules import FINAL_NORM, POSITION_ROWS, Rule, map_names
from ._checkpoint import Checkpoint, Kernel
from ._hugging_face import (
    TEXT_TOWER,
    map_hugging_face_block,
    read_activation,
    select_vision_tower,
    write_config,
    write_labels,
)
from ._layout import Export, Layout, Settings
from ._libraries import HUGGING_FACE
from ._preprocess import HALF, Preprocess
from ._processor import write_hugging_face_preprocess
from ._vit import find_misreading, find_square_obstacle, list_shapes, use_attention_pool, use_learned

_LAYER: Final = "encoder.layers.{i}."
_KERNEL: Final = "embeddings.patch_embedding.weight"
_POSITIONS: Final = "embeddings.position_embedding.weight"
_NATIVE_ASPECT: Final = use_learned("bilinear_antialias")
"""The positions of SigLIP 2 of native aspect, which has another rule for other sizes."""
_NATIVE_PREPROCESS: Final = Preprocess("native", "bilinear", *HALF, patch_size=(16, 16), max_patches=256)
"""What `Siglip2ImageProcessor` does if nothing else is said."""


def _read_config(checkpoint: Checkpoint) -> ViTConfig:
    whole = checkpoint
    checkpoint = select_vision_tower(whole)
    positions = checkpoint.get_shape(_POSITIONS, 2)[0]
    mlp_dim = checkpoint.get_shape(_LAYER.format(i=0) + "mlp.fc1.weight", 2)[0]
    eps = checkpoint.get_setting("layer_norm_eps", float)
    num_classes = checkpoint.count_classes("classifier.weight")
    activation = read_activation(checkpoint)
    flat = len(checkpoint.tensors[_KERNEL].shape) == 2
    dim, channels, patch = _get_flat_kernel(checkpoint) if flat else checkpoint.get_kernel(_KERNEL)
    given = None if flat else checkpoint.settings.get("image_size")
    image_size = checkpoint.find_image_size(positions, patch, given)
    depth = checkpoint.count_blocks(_LAYER + "layer_norm1.weight")
    size = checkpoint.get_size(dim, depth=depth, mlp_dim=mlp_dim, patch=patch, setting="num_attention_heads")
    has_pool = "head.probe" in checkpoint and num_classes is None
    pool = use_attention_pool(activation=activation, mlp_dim=mlp_dim, norm_eps=eps, num_heads=size.num_heads)
    return ViTConfig(
        image_size=image_size,
        patch_size=patch,
        channels=channels,
        size=size,
        num_classes=num_classes,
        classes=whole.find_classes(num_classes),
        position=_NATIVE_ASPECT if flat else use_learned("torch_bicubic"),
        pool=pool if has_pool else "mean",
        head="none" if num_classes is None else "linear",
        class_token=False,
        encoder=EncoderOptions(activation=activation, norm_eps=eps),
        preprocess=_find_preprocess(checkpoint, channels, patch, given),
    )


def _find_preprocess(checkpoint: Checkpoint, channels: int, patch: tuple[int, int], given: object) -> Preprocess | None:
    """How images are prepared; with the patches of the weights, if they keep their own aspect."""
    found = checkpoint.find_preprocess(channels, checkpoint.count_unread(patch, given))
    return found if found is None or found.fit != "native" else dataclasses.replace(found, patch_size=patch)


def _get_flat_kernel(checkpoint: Checkpoint) -> Kernel:
    """The shape of a patch embedding that is stored as a matrix for flattened patches."""
    dim, area = checkpoint.get_shape(_KERNEL, 2)
    side = checkpoint.get_setting("patch_size", int)
    channels = area // side**2
    if channels * side**2 != area:
        raise CheckpointError(
            f"{checkpoint.path} has {_KERNEL!r} for patches of {area} numbers, which does not fit the patch size "
            f"{side} in the settings beside it"
        )
    return Kernel(dim, channels, (side, side))


def _map(config: ViTConfig) -> tuple[Rule, ...]:
    height, width = config.patch_size
    kernel = map_names(_KERNEL, "backbone.patch.weight")
    if config.position == _NATIVE_ASPECT:
        flat = "d (h w c) -> d c h w"
        kernel = map_names(_KERNEL, "backbone.patch.weight", flat, sizes=(("h", height), ("w", width)))
    return (
        kernel,
        map_names("embeddings.patch_embedding.bias", "backbone.patch.bias"),
        map_names(_POSITIONS, POSITION_ROWS, "n d -> n d"),
        *map_hugging_face_block(_LAYER),
        map_names("post_layernorm.*", FINAL_NORM),
        map_names("head.probe", "readout.pool.queries", "1 n d -> n d"),
        map_names("head.attention.in_proj_weight", "readout.pool.attention.qkv.weight"),
        map_names("head.attention.in_proj_bias", "readout.pool.attention.qkv.bias"),
        map_names("head.attention.out_proj.*", "readout.pool.attention.project.*"),
        map_names("head.layernorm.*", "readout.pool.norm.*"),
        map_names("head.mlp.fc1.*", "readout.pool.mlp.hidden.*"),
        map_names("head.mlp.fc2.*", "readout.pool.mlp.out.*"),
        map_names("classifier.*", "readout.head.linear.*"),
    )


def write_siglip_config(config: ViTConfig) -> Settings:
    """The classifier's has the settings of the tower inside those of the whole model."""
    flat = config.position == _NATIVE_ASPECT
    name, family = ("Siglip2", "siglip2") if flat else ("Siglip", "siglip")
    has_pool = "readout.pool.queries" in list_shapes(config)
    tower = dict(write_config(config, f"{family}_vision_model", f"{name}VisionModel", vision_use_head=has_pool))
    if flat:
        del tower["image_size"]
        tower["num_patches"] = config.grid[0] * config.grid[1]
    if config.head == "none":
        return tower
    common = {"architectures": [f"{name}ForImageClassification"], "model_type": family}
    version = {key: tower[key] for key in ("transformers_version", "dtype")}
    return {**common, **version, "vision_config": tower, **write_labels(config)}


def find_siglip_obstacle(config: ViTConfig) -> str:
    """What of a model Hugging Face cannot say."""
    if config.position != _NATIVE_ASPECT:
        return find_square_obstacle(config)
    if config.preprocess is not None and config.preprocess.fit != "native":
        return f"images keep their own aspect there, got preprocess.fit={config.preprocess.fit!r}"
    return find_square_obstacle(dataclasses.replace(config, preprocess=None))


HF_SIGLIP_IMAGE: Final = Layout(
    name="hf_siglip",
    title="Hugging Face's SigLIP, and SigLIP 2",
    library=HUGGING_FACE,
    read_config=_read_config,
    rules=_map,
    signature=("embeddings.patch_embedding.bias", _POSITIONS, "post_layernorm.weight"),
    prefixes=("vision_model.", "model.vision_model."),
    model_types=("siglip_vision_model", "siglip", "siglip2_vision_model", "siglip2", "idefics3_vision", "idefics3"),
    usual={
        "layer_norm_eps": 1e-6,
        "num_attention_heads": 12,
        "hidden_act": "gelu_pytorch_tanh",
        "patch_size": 16,
    },
    preprocess={
        **dict.fromkeys(("siglip", "siglip_vision_model"), Preprocess("squash", "bicubic", *HALF)),
        **dict.fromkeys(("siglip2", "siglip2_vision_model"), _NATIVE_PREPROCESS),
    },
    ignored=(*TEXT_TOWER, (r"head\..*", "the attention pooling, which the classifier does not read")),
    export=Export(
        find_misreading,
        write_config=write_siglip_config,
        write_preprocess=write_hugging_face_preprocess,
        find_obstacle=find_siglip_obstacle,
        prefix=lambda config: "" if config.head == "none" else "vision_model.",
        kept=(r"head\..*",),
        describe_kept=lambda settings: {
            **settings,
            "vision_config": {**settings["vision_config"], "vision_use_head": True},
        },
        bare=("classifier",),
    ),
)
