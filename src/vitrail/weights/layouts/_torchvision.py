"""The layout of torchvision.

Source: torchvision 0.28.0, `models/vision_transformer.py`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from ..._check import join_names
from ..._spec import PartSpec
from ...encoder import EncoderOptions
from ...model import ViTConfig
from .._errors import CheckpointError
from .._rules import FINAL_NORM, POSITION_ROWS, Rule, map_block, map_names
from ._checkpoint import Checkpoint
from ._layout import Layout
from ._libraries import TORCHVISION as _LIBRARY
from ._preprocess import IMAGENET, Preprocess, match_channels
from ._vit import use_learned

_BLOCK: Final = "encoder.layers.encoder_layer_{i}."
_BICUBIC: Final = Preprocess("cover", "bicubic", *IMAGENET)
_CUT: Final = Preprocess("cover", "bilinear", *IMAGENET, crop=0.875)
_V1, _LINEAR, _E2E = "IMAGENET1K_V1", "IMAGENET1K_SWAG_LINEAR_V1", "IMAGENET1K_SWAG_E2E_V1"
_WEIGHTS: Final[Mapping[tuple[int, int, int], Mapping[str, Preprocess]]] = MappingProxyType(
    {
        (768, 16, 224): {_V1: _CUT, _LINEAR: _BICUBIC},
        (768, 16, 384): {_E2E: _BICUBIC},
        (768, 32, 224): {_V1: _CUT},
        (1024, 16, 224): {_V1: Preprocess("cover", "bilinear", *IMAGENET, crop=224 / 242), _LINEAR: _BICUBIC},
        (1024, 16, 512): {_E2E: _BICUBIC},
        (1024, 32, 224): {_V1: _CUT},
        (1280, 14, 224): {_LINEAR: _BICUBIC},
        (1280, 14, 518): {_E2E: _BICUBIC},
    }
)
"""How the published weights prepare images, by the width, the patches and the images of the model."""
_MLPS: Final = (("mlp.0", "mlp.3"), ("mlp.linear_1", "mlp.linear_2"))
"""The names of the layers of the MLP: those of new versions, and those of old ones."""


def _read_config(checkpoint: Checkpoint) -> ViTConfig:
    dim, channels, patch = checkpoint.get_kernel("conv_proj.weight")
    image_size = checkpoint.find_image_size(checkpoint.get_shape("encoder.pos_embedding", 3)[1] - 1, patch)
    num_classes = checkpoint.count_classes("heads.head.weight")
    first = _BLOCK.format(i=0)
    hidden = next((name for name, _ in _MLPS if f"{first}{name}.weight" in checkpoint), _MLPS[-1][0])
    head: str | PartSpec = "none" if num_classes is None else "linear"
    if "heads.pre_logits.weight" in checkpoint:
        head = PartSpec("mlp", (("hidden_dim", checkpoint.get_shape("heads.pre_logits.weight", 2)[0]),))
    return ViTConfig(
        image_size=image_size,
        patch_size=patch,
        channels=channels,
        size=checkpoint.get_size(
            dim,
            depth=checkpoint.count_blocks(_BLOCK + "ln_1.weight"),
            mlp_dim=checkpoint.get_shape(f"{first}{hidden}.weight", 2)[0],
            patch=patch,
            setting="num_heads",
        ),
        num_classes=num_classes,
        position=use_learned("torchvision_corners"),
        pool="cls",
        head=head,
        class_token=True,
        encoder=EncoderOptions(norm_eps=1e-6),
        preprocess=_find_preprocess(checkpoint, image_size, channels),
    )


def _find_preprocess(checkpoint: Checkpoint, image_size: tuple[int, int], channels: int) -> Preprocess | None:
    """How the weights of the setting `weights` prepare images; `None` without it if the tensors do not tell them.

    Of the published ones for 224 pixels, ViT-B/16 and ViT-L/16 can be `IMAGENET1K_V1` or `IMAGENET1K_SWAG_LINEAR_V1`.
    """
    dim, _, patch = checkpoint.get_kernel("conv_proj.weight")
    known = _WEIGHTS.get((dim, patch[0], image_size[0]), {})
    given = checkpoint.settings.get("weights")
    if given is None and len(known) != 1:
        return None
    name = next(iter(known)) if given is None else str(given).rpartition(".")[2]
    if name not in known:
        raise CheckpointError(
            f"the setting 'weights' must be one of those that torchvision publishes for the shapes in {checkpoint.path}"
            f" ({join_names(known) or 'none'}), got {given!r}"
        )
    if given is None:
        checkpoint.assumed["weights"] = name
    return match_channels(known[name], channels)


def _map(config: ViTConfig) -> tuple[Rule, ...]:
    # PyTorch's attention joins the names of its joint weight and bias with an underscore.
    qkv = [
        map_names(f"{_BLOCK}self_attention.in_proj_{part}", f"backbone.encoder.stack.attention.qkv.{part}")
        for part in ("weight", "bias")
    ]
    old_and_new = [
        map_block(
            _BLOCK,
            norm1="ln_1",
            qkv=(),
            project="self_attention.out_proj",
            norm2="ln_2",
            hidden=hidden,
            out=out,
        )
        for hidden, out in _MLPS
    ]
    return (
        map_names("conv_proj.*", "backbone.patch.*"),
        map_names("class_token", "backbone.class_token", "1 1 d -> d"),
        map_names("encoder.pos_embedding", POSITION_ROWS, "1 n d -> n d"),
        *qkv,
        *old_and_new[0],
        *old_and_new[1],
        map_names("encoder.ln.*", FINAL_NORM),
        map_names("heads.pre_logits.*", "readout.head.hidden.*"),
        map_names("heads.head.*", "readout.head.linear.*"),
    )


TORCHVISION: Final = Layout(
    name="torchvision",
    title="torchvision's VisionTransformer",
    library=_LIBRARY,
    read_config=_read_config,
    rules=_map,
    signature=("conv_proj.weight", _BLOCK.format(i=0) + "self_attention.in_proj_weight"),
)
