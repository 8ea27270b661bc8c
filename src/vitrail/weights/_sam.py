"""The layouts of SAM's image encoder: Meta's own, Hugging Face's and timm's.

Source: facebookresearch/segment-anything `modeling/image_encoder.py`, transformers 5.23.0 `models/sam`, timm 1.0.31
`models/vision_transformer_sam.py`. timm's blocks have another epsilon than the others'.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from .._registry import PartSpec
from ..encoder import EncoderOptions, EncoderSize, WindowOptions
from ..model import ViTConfig
from ._checkpoint import Checkpoint, Layout, activation
from ._errors import CheckpointError
from ._hf_settings import ACTIVATIONS, vision_tower, written_settings
from ._rules import FINAL_NORM, Rule, block_rules, rule


@dataclass(frozen=True)
class _Names:
    """What the three call the same things."""

    patch: str
    blocks: str
    norm1: str
    norm2: str
    hidden: str
    out: str
    neck: tuple[str, str, str, str]
    norm_eps: float


_META: Final = _Names(
    "patch_embed.proj",
    "blocks.{i}.",
    "norm1",
    "norm2",
    "mlp.lin1",
    "mlp.lin2",
    ("neck.0", "neck.1", "neck.2", "neck.3"),
    1e-6,
)
_HUGGING_FACE: Final = _Names(
    "patch_embed.projection",
    "layers.{i}.",
    "layer_norm1",
    "layer_norm2",
    "mlp.lin1",
    "mlp.lin2",
    ("neck.conv1", "neck.layer_norm1", "neck.conv2", "neck.layer_norm2"),
    1e-6,
)
_TIMM: Final = _Names(
    "patch_embed.proj",
    "blocks.{i}.",
    "norm1",
    "norm2",
    "mlp.fc1",
    "mlp.fc2",
    ("neck.0", "neck.1", "neck.2", "neck.3"),
    1e-5,
)


def _configure(names: _Names) -> Callable[[Checkpoint], ViTConfig]:
    def configure(checkpoint: Checkpoint) -> ViTConfig:
        checkpoint = vision_tower(checkpoint, "sam_vision_model", "sam")
        dim, channels, *patch = checkpoint.shape(names.patch + ".weight", 4)
        _, rows, cols, _ = checkpoint.shape("pos_embed", 4)
        depth = checkpoint.depth(names.blocks + names.norm1 + ".weight")
        tables = [checkpoint.shape(names.blocks.format(i=i) + "attn.rel_pos_h", 2) for i in range(depth)]
        of_grid = [i for i, (distances, _) in enumerate(tables) if distances == 2 * rows - 1]
        others = {distances for i, (distances, _) in enumerate(tables) if i not in of_grid}
        if len(others) != 1 or not of_grid:
            raise CheckpointError(
                f"{checkpoint.path} must have blocks with windows of one size beside such as look at all tokens, but "
                f"its tables of relative positions have {sorted({n for n, _ in tables})} rows"
            )
        return ViTConfig(
            image_size=(rows * patch[0], cols * patch[1]),
            patch_size=(patch[0], patch[1]),
            channels=channels,
            size=EncoderSize(
                dim=dim,
                depth=depth,
                num_heads=dim // tables[0][1],
                mlp_dim=checkpoint.shape(f"{names.blocks}{names.hidden}.weight".format(i=0), 2)[0],
            ),
            position=PartSpec("learned", (("covers_prefix", False), ("resize", "torch_bicubic_antialias"))),
            pool="none",
            head="none",
            class_token=False,
            neck_dim=checkpoint.shape(names.neck[0] + ".weight", 4)[0],
            encoder=EncoderOptions(
                qkv_bias=names.blocks.format(i=0) + "attn.qkv.bias" in checkpoint,
                activation=activation(checkpoint, "hidden_act", ACTIVATIONS, "gelu"),
                norm_eps=checkpoint.setting("layer_norm_eps", names.norm_eps),
                windows=WindowOptions(
                    size=(others.pop() + 1) // 2,
                    global_blocks=tuple(of_grid),
                    relative_grid=(rows, cols),
                ),
            ),
        )

    return configure


def _rules(names: _Names) -> Callable[[ViTConfig], tuple[Rule, ...]]:
    def rules(config: ViTConfig) -> tuple[Rule, ...]:
        windows = config.encoder.windows
        global_blocks = () if windows is None else windows.global_blocks
        kinds = {True: "global_positions", False: "window_positions"}
        counts = {True: 0, False: 0}
        relative: list[Rule] = []
        for i in range(config.size.depth):
            kind = i in global_blocks
            for theirs, ours in (("h", "rows"), ("w", "cols")):
                name = names.blocks.format(i=i) + f"attn.rel_pos_{theirs}"
                relative.append(rule(name, f"backbone.encoder.{kinds[kind]}.{ours}", block=counts[kind]))
            counts[kind] += 1
        conv1, norm1, conv2, norm2 = names.neck
        return (
            rule(names.patch + ".*", "backbone.patch.*"),
            rule("pos_embed", "backbone.position.patches", "1 r c d -> r c d"),
            *block_rules(
                names.blocks,
                norm1=names.norm1,
                qkv="attn.qkv",
                project="attn.proj",
                norm2=names.norm2,
                hidden=names.hidden,
                out=names.out,
            ),
            *relative,
            rule(conv1 + ".weight", "backbone.neck.project.weight", "o i 1 1 -> o i"),
            rule(norm1 + ".*", "backbone.neck.norm.*"),
            rule(conv2 + ".weight", "backbone.neck.weight"),
            rule(norm2 + ".*", FINAL_NORM),
        )

    return rules


_OTHER_PARTS: Final = (
    (r"prompt_encoder\..*", "the prompt encoder"),
    (r"mask_decoder\..*", "the mask decoder"),
    (r"shared_image_embedding\..*", "of the prompt encoder"),
    (r"pixel_(mean|std)", "the numbers that images are normalised by"),
)
META_SAM: Final = Layout(
    name="sam",
    title="Meta's SAM",
    signature=("pos_embed", "blocks.0.attn.rel_pos_h", "blocks.0.mlp.lin1.weight", "neck.0.weight"),
    configure=_configure(_META),
    rules=_rules(_META),
    prefixes=("image_encoder.",),
    ignored=_OTHER_PARTS,
)
HF_SAM: Final = Layout(
    name="hf_sam",
    title="Hugging Face's SAM",
    signature=("pos_embed", "layers.0.attn.rel_pos_h", "neck.conv1.weight"),
    configure=_configure(_HUGGING_FACE),
    rules=_rules(_HUGGING_FACE),
    prefixes=("vision_encoder.", "model.vision_encoder."),
    ignored=_OTHER_PARTS,
    written_prefix=lambda config: ("vision_encoder.", ()),
    written_settings=written_settings,
)
TIMM_SAM: Final = Layout(
    name="timm_sam",
    title="timm's SAM",
    signature=("pos_embed", "blocks.0.attn.rel_pos_h", "blocks.0.mlp.fc1.weight", "neck.0.weight"),
    configure=_configure(_TIMM),
    rules=_rules(_TIMM),
    ignored=((r"head\..*|fc_norm\..*", "of a classifier that timm does not train"),),
    written_prefix=lambda config: ("", ()),
)
