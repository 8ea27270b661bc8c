"""The layouts of Meta's training of DINO and DINOv2: the backbone with its projection heads.

Source: facebookresearch/dino `main_dino.py`, `utils.py`, `vision_transformer.py`; facebookresearch/dinov2
`train/ssl_meta_arch.py`, `layers/dino_head.py`.
"""

import dataclasses
import re
from typing import Final

from ..._spec import PartSpec
from ...head import HEADS
from ...model import ViTConfig
from ...systems import DINOConfig
from .._errors import CheckpointError
from .._rules import Rule, map_names, prefix_rules
from ._checkpoint import Checkpoint
from ._dinov2 import META_DINOV2_IMAGE
from ._layout import Layout
from ._libraries import META
from ._mae import META_MAE_IMAGE
from ._preprocess import IMAGENET, Preprocess
from ._vit import use_learned

_WRAPPED: Final = tuple(
    f"{wrapper}{backbone}"
    for backbone in ("backbone.", "")
    for wrapper in ("teacher.module.", "teacher.", "module.", "")
)[:-1]
"""What names begin with in the checkpoint of a run, and in one network of it."""
_OF_THE_RUN: Final = (
    (r"student\..*", "the student; the teacher is the model that is kept"),
    (r"(optimizer|dino_loss|ibot_patch_loss|koleo_loss|fp16_scaler)\..*", "only the run that wrote it needs it"),
)
_WEIGHTS: Final = ("weight", "parametrizations.weight.original")
"""How PyTorch's old and new normalisation of weights call the last layer, before `_g` or `0`, and `_v` or `1`."""


def _read_head(checkpoint: Checkpoint, prefix: str) -> tuple[int, PartSpec]:
    """The number of prototypes of a head, and the head."""
    batch_norm = f"{prefix}.mlp.1.running_mean"
    if batch_norm in checkpoint:
        raise CheckpointError(
            f"{checkpoint.path} has a projection head with batch normalisation ({batch_norm!r}), which vitrail does "
            "not have: pass part='image' for the backbone alone"
        )
    directions = f"{prefix}.last_layer.{_name_last(checkpoint, prefix)[1]}"
    prototypes, bottleneck = checkpoint.get_shape(directions, 2)
    numbers = re.findall(rf"^{prefix}\.mlp\.(\d+)\.", "\n".join(checkpoint.tensors), re.MULTILINE)
    layers = min(max(map(int, numbers), default=0) // 2 + 1, max(len(numbers), 1))
    first = f"{prefix}.mlp" if layers == 1 else f"{prefix}.mlp.0"
    options = {
        "layers": layers,
        "hidden_dim": checkpoint.get_shape(f"{first}.weight", 2)[0],
        "bottleneck_dim": bottleneck,
        "bias": f"{first}.bias" in checkpoint,
    }
    return prototypes, HEADS.configure("projection", **options)


def _name_last(checkpoint: Checkpoint, prefix: str) -> tuple[str, str]:
    """The names of the scales and the directions of the last layer."""
    old, new = _WEIGHTS
    return (f"{new}0", f"{new}1") if f"{prefix}.last_layer.{new}1" in checkpoint else (f"{old}_g", f"{old}_v")


def _map_head(prefix: str, ours: str, head: object) -> tuple[Rule, ...]:
    layers = dict(head.options).get("layers", 3) if isinstance(head, PartSpec) else 3
    assert isinstance(layers, int)
    *hidden, bottleneck = [f"{prefix}.mlp.*"] if layers == 1 else [f"{prefix}.mlp.{2 * i}.*" for i in range(layers)]
    old, new = (f"{prefix}.last_layer.{name}" for name in _WEIGHTS)
    return (
        *(map_names(name, f"{ours}.hidden.{i}.*") for i, name in enumerate(hidden)),
        map_names(bottleneck, f"{ours}.bottleneck.*"),
        *(map_names(name, f"{ours}.directions") for name in (f"{old}_v", f"{new}1")),
        *(map_names(name, f"{ours}.scales", "k 1 -> k") for name in (f"{old}_g", f"{new}0")),
    )


# --- DINO ---------------------------------------------------------------------------------------------------------


def _read_image_config(checkpoint: Checkpoint) -> ViTConfig:
    """MAE's, but for the rule of the positions for other sizes."""
    return dataclasses.replace(META_MAE_IMAGE.read_config(checkpoint), position=use_learned("dinov2_offset"))


def _read_config(checkpoint: Checkpoint) -> DINOConfig:
    prototypes, head = _read_head(checkpoint, "head")
    image = META_DINO_IMAGE.read_config(checkpoint.view(layout=META_DINO_IMAGE))
    return DINOConfig(image=image, num_prototypes=prototypes, head=head)


def _map(config: DINOConfig) -> tuple[Rule, ...]:
    return (
        *prefix_rules(META_DINO_IMAGE.rules(config.image), ours="image."),
        *_map_head("head", "head", config.head),
    )


META_DINO_IMAGE: Final = dataclasses.replace(
    META_MAE_IMAGE,
    name="dino",
    title="Meta's DINO, the backbone alone",
    read_config=_read_image_config,
    signature=("pos_embed", "blocks.0.attn.qkv.weight"),
    one_of=(tuple(f"head.last_layer.{name}" for name in ("weight_v", "parametrizations.weight.original1")),),
    foreign=("blocks.0.ls1.gamma", "mask_token", "masked_embed"),
    prefixes=_WRAPPED,
    preprocess={"": Preprocess("cover", "bicubic", *IMAGENET, crop=0.875)},
    ignored=((r"head\..*", "the projection head, which only pre-training needs"), *_OF_THE_RUN),
)
META_DINO: Final = Layout(
    name="dino",
    title="Meta's DINO, with its projection head",
    library=META,
    read_config=_read_config,
    rules=_map,
    signature=META_DINO_IMAGE.signature,
    one_of=META_DINO_IMAGE.one_of,
    foreign=META_DINO_IMAGE.foreign,
    prefixes=_WRAPPED,
    kind=DINOConfig,
    image=META_DINO_IMAGE,
    ignored=_OF_THE_RUN,
)


# --- DINOv2 -------------------------------------------------------------------------------------------------------


def _read_config_2(checkpoint: Checkpoint) -> DINOConfig:
    prototypes, head = _read_head(checkpoint, "dino_head")
    patch_prototypes, patch_head = None, None
    if any(name.startswith("ibot_head.") for name in checkpoint.tensors):
        patch_prototypes, patch_head = _read_head(checkpoint, "ibot_head")
    return DINOConfig(
        image=_IMAGE_2.read_config(checkpoint.view(layout=_IMAGE_2)),
        num_prototypes=prototypes,
        head=head,
        patch_head=patch_head,
        num_patch_prototypes=patch_prototypes,
        mask_token=True,
    )


def _map_2(config: DINOConfig) -> tuple[Rule, ...]:
    return (
        *prefix_rules(_IMAGE_2.rules(config.image), ours="image."),
        map_names("mask_token", "mask_token", "1 d -> d"),
        *_map_head("dino_head", "head", config.head),
        *_map_head("ibot_head", "patch_head", config.patch_head),
    )


_IMAGE_2: Final = dataclasses.replace(
    META_DINOV2_IMAGE,
    prefixes=_WRAPPED,
    ignored=(
        *META_DINOV2_IMAGE.ignored,
        (r"(dino|ibot)_head\..*", "a projection head, which only pre-training needs"),
        *_OF_THE_RUN,
    ),
)
META_DINOV2: Final = Layout(
    name="dinov2",
    title="Meta's DINOv2, with its projection heads",
    library=META,
    read_config=_read_config_2,
    rules=_map_2,
    signature=META_DINOV2_IMAGE.signature,
    one_of=(tuple(f"dino_head.last_layer.{name}" for name in ("weight_v", "parametrizations.weight.original1")),),
    foreign=META_DINOV2_IMAGE.foreign,
    prefixes=_WRAPPED,
    kind=DINOConfig,
    image=_IMAGE_2,
    ignored=_OF_THE_RUN,
)
