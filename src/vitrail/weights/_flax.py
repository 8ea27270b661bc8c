"""The layouts of Google's JAX code: big_vision and vision_transformer, both npz.

Source: google-research/big_vision `models/vit.py` and `models/proj/image_text/two_towers.py`,
google-research/vision_transformer `vit_jax/models_vit.py`. Flax stores a dense kernel `(in, out)`, those of attention
by head, and a convolution's `(height, width, in, out)`.
"""

import dataclasses
from typing import Final

from .._registry import PartSpec
from ..encoder import EncoderOptions, EncoderSize
from ..model import ViTConfig
from ._checkpoint import Checkpoint, Layout, learned
from ._rules import POSITION_ROWS, Rule, rule

_BLOCK: Final = "Transformer/encoderblock_{i}/"
_STACK: Final = "backbone.encoder.stack."
_OLD_TABLE: Final = "Transformer/posembed_input/pos_embedding"
_DENSE: Final = "i o -> o i"


def _dense(theirs: str, ours: str) -> tuple[Rule, ...]:
    return rule(f"{theirs}/kernel", f"{ours}.weight", _DENSE), rule(f"{theirs}/bias", f"{ours}.bias")


def _norm(theirs: str, ours: str) -> tuple[Rule, ...]:
    return rule(f"{theirs}/scale", f"{ours}.weight"), rule(f"{theirs}/bias", f"{ours}.bias")


def _attention(theirs: str, joint: tuple[str, ...], project: str) -> tuple[Rule, ...]:
    """Queries, keys and values, which are one array of ours or two."""
    kernels, biases = ([f"{theirs}/{name}/{part}" for name in ("query", "key", "value")] for part in ("kernel", "bias"))
    return (
        rule(kernels, [f"{name}.weight" for name in joint], "d h k -> (h k) d"),
        rule(biases, [f"{name}.bias" for name in joint], "h k -> (h k)"),
        rule(f"{theirs}/out/kernel", f"{project}.weight", "h k d -> d (h k)"),
        rule(f"{theirs}/out/bias", f"{project}.bias"),
    )


def _configure(checkpoint: Checkpoint) -> ViTConfig:
    height, width, channels, dim = checkpoint.shape("embedding/kernel", 4)
    old = _OLD_TABLE in checkpoint
    class_token, has_pool = "cls" in checkpoint, "MAPHead_0/probe" in checkpoint
    attention = f"{_BLOCK}MultiHeadDotProductAttention_{'1' if old else '0'}/query/kernel".format(i=0)
    mlp = f"{_BLOCK}MlpBlock_{'3' if old else '0'}/Dense_0/kernel".format(i=0)
    # big_vision adds the table before the class token comes, the older code after it.
    covers = old and class_token
    position: PartSpec = learned("big_vision_zoom", covers_prefix=covers)
    if old or "pos_embedding" in checkpoint:
        positions = checkpoint.shape(_OLD_TABLE if old else "pos_embedding", 3)[1]
        grid = checkpoint.grid(positions - int(covers), (height, width), checkpoint.settings.get("image_size"))
    else:
        position = PartSpec("sincos2d", (("rule", "big_vision"),))
        size = checkpoint.setting("image_size", 224)
        grid = size // height, size // width
    num_classes = checkpoint.shape("head/kernel", 2)[1] if "head/kernel" in checkpoint else None
    num_heads = checkpoint.shape(attention, 3)[1]
    activation = "gelu_tanh"
    pool: str | PartSpec = "cls" if class_token else "mean"
    if has_pool:
        mlp_dim = checkpoint.shape("MAPHead_0/MlpBlock_0/Dense_0/kernel", 2)[1]
        options = {"activation": activation, "mlp_dim": mlp_dim, "norm_eps": 1e-6, "num_heads": num_heads}
        pool = PartSpec("attention", tuple(sorted(options.items())))
    head: str | PartSpec = "none" if num_classes is None else "linear"
    if num_classes is not None and "pre_logits/kernel" in checkpoint:
        head = PartSpec("mlp", (("hidden_dim", checkpoint.shape("pre_logits/kernel", 2)[1]),))
    return ViTConfig(
        image_size=(grid[0] * height, grid[1] * width),
        patch_size=(height, width),
        channels=channels,
        size=EncoderSize(
            dim=dim,
            depth=checkpoint.depth(_BLOCK + "LayerNorm_0/scale"),
            num_heads=num_heads,
            mlp_dim=checkpoint.shape(mlp, 2)[1],
        ),
        num_classes=num_classes,
        position=position,
        pool=pool,
        head=head,
        class_token=class_token,
        encoder=EncoderOptions(activation=activation, norm_eps=1e-6),
    )


def _rules(config: ViTConfig) -> tuple[Rule, ...]:
    return (
        *_trunk("pos_embedding", attention=0, norm2=1, mlp=0),
        rule("MAPHead_0/probe", "readout.pool.queries", "1 n d -> n d"),
        *_attention(
            "MAPHead_0/MultiHeadDotProductAttention_0",
            ("readout.pool.attention.q", "readout.pool.attention.kv"),
            "readout.pool.attention.project",
        ),
        *_norm("MAPHead_0/LayerNorm_0", "readout.pool.norm"),
        *_dense("MAPHead_0/MlpBlock_0/Dense_0", "readout.pool.mlp.hidden"),
        *_dense("MAPHead_0/MlpBlock_0/Dense_1", "readout.pool.mlp.out"),
    )


def _old_rules(config: ViTConfig) -> tuple[Rule, ...]:
    return _trunk(_OLD_TABLE, attention=1, norm2=2, mlp=3)


def _trunk(positions: str, *, attention: int, norm2: int, mlp: int) -> tuple[Rule, ...]:
    """What both have: Flax numbers the submodules of a block, each kind by itself or all together."""
    return (
        rule("embedding/kernel", "backbone.patch.weight", "h w i o -> o i h w"),
        rule("embedding/bias", "backbone.patch.bias"),
        rule("cls", "backbone.class_token", "1 1 d -> d"),
        rule(positions, POSITION_ROWS, "1 n d -> n d"),
        *_norm(_BLOCK + "LayerNorm_0", _STACK + "norm1"),
        *_attention(
            f"{_BLOCK}MultiHeadDotProductAttention_{attention}",
            (_STACK + "attention.qkv",),
            _STACK + "attention.project",
        ),
        *_norm(f"{_BLOCK}LayerNorm_{norm2}", _STACK + "norm2"),
        *_dense(f"{_BLOCK}MlpBlock_{mlp}/Dense_0", _STACK + "mlp.hidden"),
        *_dense(f"{_BLOCK}MlpBlock_{mlp}/Dense_1", _STACK + "mlp.out"),
        *_norm("Transformer/encoder_norm", "backbone.norm"),
        *_dense("pre_logits", "readout.head.hidden"),
        *_dense("head", "readout.head.linear"),
    )


BIG_VISION: Final = Layout(
    name="big_vision",
    title="big_vision's ViT",
    signature=("embedding/kernel", _BLOCK.format(i=0) + "MultiHeadDotProductAttention_0/query/kernel"),
    configure=_configure,
    rules=_rules,
    prefixes=("params/img/", "img/", "params/", "opt/target/"),
    ignored=(
        (r"(params/)?(txt|t|b)(/.*)?", "the text tower and the loss"),
        (r"opt/state/.*|opt/.*", "of the optimiser"),
    ),
    stacked="Transformer/encoderblock/",
)
VISION_TRANSFORMER: Final = dataclasses.replace(
    BIG_VISION,
    name="vision_transformer",
    title="the ViT of google-research/vision_transformer",
    signature=("embedding/kernel", _OLD_TABLE, "Transformer/encoder_norm/scale"),
    rules=_old_rules,
)
