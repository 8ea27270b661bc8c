"""The layouts of SAM's image encoder: Meta's own, Hugging Face's and timm's.

Source: facebookresearch/segment-anything `modeling/image_encoder.py`; transformers 5.23.0 `models/sam`; timm 1.0.31
`models/vision_transformer_sam.py`, whose blocks have another `norm_eps`.
"""

from dataclasses import dataclass
from functools import partial
from typing import Final

from ...encoder import EncoderOptions, EncoderSize, WindowOptions
from ...model import ViTConfig
from .._errors import CheckpointError
from .._rules import FINAL_NORM, Rule, map_block, map_names
from ._checkpoint import Checkpoint
from ._hugging_face import read_activation, select_vision_tower, write_config
from ._layout import Export, Layout, Settings
from ._libraries import HUGGING_FACE, META, TIMM
from ._preprocess import IMAGENET, Preprocess
from ._processor import write_hugging_face_preprocess
from ._timm import write_timm_config
from ._vit import find_misreading, find_square_obstacle, use_learned


@dataclass(frozen=True)
class _Names:
    """What the three call the same things."""

    patch: str
    block: str
    norm1: str
    norm2: str
    hidden: str
    out: str
    neck: tuple[str, str, str, str]


_NECK: Final = ("neck.0", "neck.1", "neck.2", "neck.3")
_HF_NECK: Final = ("neck.conv1", "neck.layer_norm1", "neck.conv2", "neck.layer_norm2")
_META: Final = _Names("patch_embed.proj", "blocks.{i}.", "norm1", "norm2", "mlp.lin1", "mlp.lin2", _NECK)
_HUGGING_FACE: Final = _Names(
    "patch_embed.projection", "layers.{i}.", "layer_norm1", "layer_norm2", "mlp.lin1", "mlp.lin2", _HF_NECK
)
_TIMM: Final = _Names("patch_embed.proj", "blocks.{i}.", "norm1", "norm2", "mlp.fc1", "mlp.fc2", _NECK)


def _read_config(checkpoint: Checkpoint, *, names: _Names) -> ViTConfig:
    checkpoint = select_vision_tower(checkpoint)
    dim, channels, patch = checkpoint.get_kernel(names.patch + ".weight")
    _, rows, cols, _ = checkpoint.get_shape("pos_embed", 4)
    depth = checkpoint.count_blocks(f"{names.block}{names.norm1}.weight")
    windows, head_dim = _read_windows(checkpoint, names, depth, (rows, cols))
    first = names.block.format(i=0)
    return ViTConfig(
        image_size=(rows * patch[0], cols * patch[1]),
        patch_size=patch,
        channels=channels,
        size=EncoderSize(
            dim=dim,
            depth=depth,
            num_heads=dim // head_dim,
            mlp_dim=checkpoint.get_shape(f"{first}{names.hidden}.weight", 2)[0],
        ),
        position=use_learned("torch_bicubic_antialias", covers_prefix=False),
        pool="none",
        head="none",
        class_token=False,
        neck_dim=checkpoint.get_shape(names.neck[0] + ".weight", 4)[0],
        encoder=EncoderOptions(
            qkv_bias=f"{first}attn.qkv.bias" in checkpoint,
            activation=read_activation(checkpoint),
            norm_eps=checkpoint.get_setting("layer_norm_eps", float),
        ),
        windows=windows,
        preprocess=checkpoint.find_preprocess(channels),
    )


def _read_windows(
    checkpoint: Checkpoint, names: _Names, depth: int, grid: tuple[int, int]
) -> tuple[WindowOptions, int]:
    """Which blocks look at all tokens and how large the windows of the others are; and the width of a head.

    A table of relative positions for n rows has 2 n - 1 rows.
    """
    shapes = [checkpoint.get_shape(names.block.format(i=i) + "attn.rel_pos_h", 2) for i in range(depth)]
    global_blocks = tuple(i for i, (distances, _) in enumerate(shapes) if distances == 2 * grid[0] - 1)
    others = {distances for i, (distances, _) in enumerate(shapes) if i not in global_blocks}
    if len(others) != 1 or not global_blocks:
        raise CheckpointError(
            f"{checkpoint.path} must have blocks with windows of one size, and blocks that look at all tokens, got "
            f"tables of relative positions with {sorted({n for n, _ in shapes})} rows"
        )
    size = (others.pop() + 1) // 2
    return WindowOptions(size=size, global_blocks=global_blocks, relative_grid=grid), shapes[0][1]


def _map(config: ViTConfig, *, names: _Names) -> tuple[Rule, ...]:
    conv1, norm1, conv2, norm2 = names.neck
    return (
        map_names(names.patch + ".*", "backbone.patch.*"),
        map_names("pos_embed", "backbone.position.patches", "1 r c d -> r c d"),
        *map_block(
            names.block,
            norm1=names.norm1,
            qkv="attn.qkv",
            project="attn.proj",
            norm2=names.norm2,
            hidden=names.hidden,
            out=names.out,
        ),
        *_map_relative_positions(config, names.block),
        map_names(conv1 + ".weight", "backbone.neck.project.weight", "o i 1 1 -> o i"),
        map_names(norm1 + ".*", "backbone.neck.norm.*"),
        map_names(conv2 + ".weight", "backbone.neck.weight"),
        map_names(norm2 + ".*", FINAL_NORM),
    )


def _map_relative_positions(config: ViTConfig, block: str) -> list[Rule]:
    """The tables of the global blocks are one stacked array of ours, and those of the other blocks another."""
    global_blocks = () if config.windows is None else config.windows.global_blocks
    stacks = {True: "global_positions", False: "window_positions"}
    counts = {True: 0, False: 0}
    rules: list[Rule] = []
    for i in range(config.size.depth):
        kind = i in global_blocks
        for theirs, ours in (("h", "rows"), ("w", "cols")):
            name = f"{block.format(i=i)}attn.rel_pos_{theirs}"
            rules.append(map_names(name, f"backbone.encoder.{stacks[kind]}.{ours}", block=counts[kind]))
        counts[kind] += 1
    return rules


def write_image_settings(config: ViTConfig) -> Settings:
    """Makes the `config.json` of Hugging Face's image encoder."""
    size = {"mlp_dim": config.size.mlp_dim, "output_channels": config.neck_dim, "qkv_bias": config.encoder.qkv_bias}
    return write_config(config, "sam_vision_model", "SamVisionModel", **size, **_write_windows(config))


def _write_config_timm(config: ViTConfig) -> Settings:
    args = {"qkv_bias": config.encoder.qkv_bias, "neck_chans": config.neck_dim, **_write_windows(config)}
    return write_timm_config(config, "samvit_base_patch16", args)


def _write_windows(config: ViTConfig) -> Settings:
    """What both libraries call the same."""
    windows = config.windows
    if windows is None:
        return {}
    return {"window_size": windows.size, "global_attn_indexes": list(windows.global_blocks)}


_MODEL_TYPES: Final = ("sam_vision_model", "sam", "sam_hq_vision_model", "sam_hq")
_PREPROCESS: Final = {"": Preprocess("pad", "bilinear", *IMAGENET)}
OTHER_PARTS: Final = (
    (r"prompt_encoder\..*", "the prompt encoder"),
    (r"mask_decoder\..*", "the mask decoder"),
    (r"shared_image_embedding\..*", "part of the prompt encoder"),
    (r"pixel_(mean|std)", "the numbers that images are normalised by"),
)

META_SAM_IMAGE: Final = Layout(
    name="sam",
    title="Meta's SAM",
    library=META,
    read_config=partial(_read_config, names=_META),
    rules=partial(_map, names=_META),
    signature=("pos_embed", "blocks.0.attn.rel_pos_h", "blocks.0.mlp.lin1.weight", "neck.0.weight"),
    prefixes=("image_encoder.",),
    model_types=_MODEL_TYPES,
    usual={"layer_norm_eps": 1e-6, "hidden_act": "gelu"},
    preprocess=_PREPROCESS,
    ignored=OTHER_PARTS,
)
HF_SAM_IMAGE: Final = Layout(
    name="hf_sam",
    title="Hugging Face's SAM",
    library=HUGGING_FACE,
    read_config=partial(_read_config, names=_HUGGING_FACE),
    rules=partial(_map, names=_HUGGING_FACE),
    signature=("pos_embed", "layers.0.attn.rel_pos_h", "neck.conv1.weight"),
    prefixes=("vision_encoder.", "model.vision_encoder."),
    model_types=_MODEL_TYPES,
    usual={"layer_norm_eps": 1e-6, "hidden_act": "gelu"},
    preprocess=_PREPROCESS,
    ignored=OTHER_PARTS,
    export=Export(
        find_misreading,
        write_config=write_image_settings,
        write_preprocess=write_hugging_face_preprocess,
        find_obstacle=find_square_obstacle,
        prefix=lambda config: "vision_encoder.",
    ),
)
TIMM_SAM: Final = Layout(
    name="timm_sam",
    title="timm's SAM",
    library=TIMM,
    read_config=partial(_read_config, names=_TIMM),
    rules=partial(_map, names=_TIMM),
    signature=("pos_embed", "blocks.0.attn.rel_pos_h", "blocks.0.mlp.fc1.weight", "neck.0.weight"),
    model_types=_MODEL_TYPES,
    usual={"layer_norm_eps": 1e-5, "hidden_act": "gelu"},
    preprocess=_PREPROCESS,
    ignored=((r"head\..*|fc_norm\..*", "part of a classifier that timm does not train"),),
    export=Export(find_misreading, write_config=_write_config_timm),
)
