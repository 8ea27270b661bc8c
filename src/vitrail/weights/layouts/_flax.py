"""The layouts of Google's JAX code: big_vision and vision_transformer, in npz.

Source: google-research/big_vision `models/vit.py` and `models/proj/image_text/two_towers.py`;
google-research/vision_transformer `vit_jax/models_vit.py`. Flax stores a dense kernel as `(in, out)`, those of the
attention head by head, and the kernel of a convolution as `(height, width, in, out)`.
"""

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Final

from ..._spec import PartSpec
from ...encoder import EncoderOptions, EncoderSize
from ...model import ViTConfig
from .._rules import POSITION_ROWS, Rule, map_names
from ._checkpoint import Checkpoint
from ._layout import Layout
from ._libraries import GOOGLE
from ._vit import use_attention_pool, use_learned

_BLOCK: Final = "Transformer/encoderblock_{i}/"
_STACK: Final = "backbone.encoder.stack."
_POOL: Final = "MAPHead_0/"


@dataclass(frozen=True)
class _Names:
    """What the two call the same things: Flax counts each kind of layer in a block by itself, or all together."""

    positions: str
    attention: str
    norm2: str
    mlp: str
    class_token_first: bool
    """Whether the class token is there when the positions are added."""


_NEW: Final = _Names("pos_embedding", "MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0", False)
_OLD: Final = _Names(
    "Transformer/posembed_input/pos_embedding", "MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3", True
)


def _read_config(checkpoint: Checkpoint, *, names: _Names) -> ViTConfig:
    height, width, channels, dim = checkpoint.get_shape("embedding/kernel", 4)
    first, class_token = _BLOCK.format(i=0), "cls" in checkpoint
    num_heads = checkpoint.get_shape(f"{first}{names.attention}/query/kernel", 3)[1]
    position, image_size = _read_positions(checkpoint, names, (height, width), class_token=class_token)
    pool: str | PartSpec = "cls" if class_token else "mean"
    if _POOL + "probe" in checkpoint:
        mlp_dim = checkpoint.get_shape(_POOL + "MlpBlock_0/Dense_0/kernel", 2)[1]
        pool = use_attention_pool(activation="gelu_tanh", mlp_dim=mlp_dim, norm_eps=1e-6, num_heads=num_heads)
    num_classes = checkpoint.get_shape("head/kernel", 2)[1] if "head/kernel" in checkpoint else None
    head: str | PartSpec = "none" if num_classes is None else "linear"
    if num_classes is not None and "pre_logits/kernel" in checkpoint:
        head = PartSpec("mlp", (("hidden_dim", checkpoint.get_shape("pre_logits/kernel", 2)[1]),))
    return ViTConfig(
        image_size=image_size,
        patch_size=(height, width),
        channels=channels,
        size=EncoderSize(
            dim=dim,
            depth=checkpoint.count_blocks(_BLOCK + "LayerNorm_0/scale"),
            num_heads=num_heads,
            mlp_dim=checkpoint.get_shape(f"{first}{names.mlp}/Dense_0/kernel", 2)[1],
        ),
        num_classes=num_classes,
        position=position,
        pool=pool,
        head=head,
        class_token=class_token,
        encoder=EncoderOptions(activation="gelu_tanh", norm_eps=1e-6),
        preprocess=checkpoint.find_preprocess(channels),
    )


def _read_positions(
    checkpoint: Checkpoint, names: _Names, patch: tuple[int, int], *, class_token: bool
) -> tuple[PartSpec, tuple[int, int]]:
    """The position embedding, and the size of the images."""
    covers = names.class_token_first and class_token
    if names.positions in checkpoint:
        rows = checkpoint.get_shape(names.positions, 3)[1]
        image_size = checkpoint.find_image_size(rows - int(covers), patch, checkpoint.settings.get("image_size"))
        return use_learned("bilinear_corners", covers_prefix=covers), image_size
    rows, cols = checkpoint.count_patches(patch, checkpoint.get_setting("image_size", int))
    return PartSpec("sincos2d", (("rule", "big_vision"),)), (rows * patch[0], cols * patch[1])


def _map(config: ViTConfig, *, names: _Names) -> tuple[Rule, ...]:
    return (
        map_names("embedding/kernel", "backbone.patch.weight", "h w i o -> o i h w"),
        map_names("embedding/bias", "backbone.patch.bias"),
        map_names("cls", "backbone.class_token", "1 1 d -> d"),
        map_names(names.positions, POSITION_ROWS, "1 n d -> n d"),
        *_map_norm(_BLOCK + "LayerNorm_0", _STACK + "norm1"),
        *_map_attention(_BLOCK + names.attention, _STACK + "attention"),
        *_map_norm(_BLOCK + names.norm2, _STACK + "norm2"),
        *_map_mlp(_BLOCK + names.mlp, _STACK + "mlp"),
        *_map_norm("Transformer/encoder_norm", "backbone.norm"),
        map_names(_POOL + "probe", "readout.pool.queries", "1 n d -> n d"),
        *_map_attention(_POOL + "MultiHeadDotProductAttention_0", "readout.pool.attention"),
        *_map_norm(_POOL + "LayerNorm_0", "readout.pool.norm"),
        *_map_mlp(_POOL + "MlpBlock_0", "readout.pool.mlp"),
        *_map_dense("pre_logits", "readout.head.hidden"),
        *_map_dense("head", "readout.head.linear"),
    )


def _map_dense(theirs: str, ours: str) -> tuple[Rule, ...]:
    return map_names(f"{theirs}/kernel", f"{ours}.weight", "i o -> o i"), map_names(f"{theirs}/bias", f"{ours}.bias")


def _map_norm(theirs: str, ours: str) -> tuple[Rule, ...]:
    return map_names(f"{theirs}/scale", f"{ours}.weight"), map_names(f"{theirs}/bias", f"{ours}.bias")


def _map_mlp(theirs: str, ours: str) -> tuple[Rule, ...]:
    return *_map_dense(f"{theirs}/Dense_0", f"{ours}.hidden"), *_map_dense(f"{theirs}/Dense_1", f"{ours}.out")


def _map_attention(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Queries, keys and values, which are one array of ours, and the projection."""
    kernels, biases = ([f"{theirs}/{name}/{part}" for name in ("query", "key", "value")] for part in ("kernel", "bias"))
    return (
        map_names(kernels, f"{ours}.qkv.weight", "d h k -> (h k) d"),
        map_names(biases, f"{ours}.qkv.bias", "h k -> (h k)"),
        map_names(f"{theirs}/out/kernel", f"{ours}.project.weight", "h k d -> d (h k)"),
        map_names(f"{theirs}/out/bias", f"{ours}.project.bias"),
    )


BIG_VISION: Final = Layout(
    name="big_vision",
    title="big_vision's ViT",
    library=GOOGLE,
    read_config=partial(_read_config, names=_NEW),
    rules=partial(_map, names=_NEW),
    signature=("embedding/kernel", f"{_BLOCK.format(i=0)}{_NEW.attention}/query/kernel"),
    prefixes=("params/img/", "img/", "params/", "opt/target/"),
    stacked="Transformer/encoderblock/",
    file="npz",
    usual={"image_size": 224},
    ignored=(
        (r"(params/)?(txt|t|b)(/.*)?", "the text tower and the loss"),
        (r"opt/state/.*|opt/.*", "part of the optimiser"),
    ),
)
VISION_TRANSFORMER: Final = dataclasses.replace(
    BIG_VISION,
    name="vision_transformer",
    title="the ViT of google-research/vision_transformer",
    read_config=partial(_read_config, names=_OLD),
    rules=partial(_map, names=_OLD),
    signature=("embedding/kernel", _OLD.positions, "Transformer/encoder_norm/scale"),
)
