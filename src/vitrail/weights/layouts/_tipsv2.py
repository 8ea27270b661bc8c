"""The layout of TIPSv2's image model, with DINOv2's names.

Source: transformers 5.23.0, the module `tipsv2` and `conversion_mapping.py`.
"""

from dataclasses import replace
from typing import Final

from ...model import ViTConfig
from .._rules import Rule
from ._checkpoint import Checkpoint
from ._dinov2 import META_DINOV2_IMAGE, META_NAMES, map_dinov2, read_dinov2
from ._hugging_face import read_activation, select_vision_tower
from ._layout import Layout
from ._libraries import HUGGING_FACE
from ._preprocess import UNIT, Preprocess
from ._vit import use_learned

_TEXT: Final = "text_encoder.ln_final.weight"
_MODEL_TYPES: Final = ("tipsv2_vision_model", "tipsv2")
_OTHER_NAMES: Final = replace(META_NAMES, hidden="mlp.c_fc", out="mlp.c_proj")
"""Those that transformers writes."""


def _read_config(whole: Checkpoint) -> ViTConfig:
    checkpoint = select_vision_tower(whole)
    return read_dinov2(
        checkpoint,
        _OTHER_NAMES if "blocks.0.mlp.c_proj.weight" in checkpoint else META_NAMES,
        heads="num_attention_heads",
        image_size=checkpoint.settings.get("image_size"),
        position=use_learned("bilinear_antialias", covers_prefix="class"),
        activation=read_activation(checkpoint),
        norm_eps=checkpoint.get_setting("layer_norm_eps", float),
    )


def _map(config: ViTConfig) -> tuple[Rule, ...]:
    """Both names of the MLP are read."""
    rules = map_dinov2(config, names=META_NAMES)
    return (*rules, *(rule for rule in map_dinov2(config, names=_OTHER_NAMES) if rule not in rules))


HF_TIPSV2: Final = Layout(
    name="hf_tipsv2",
    title="Hugging Face's TIPSv2, its image model",
    library=HUGGING_FACE,
    read_config=_read_config,
    rules=_map,
    signature=META_DINOV2_IMAGE.signature,
    one_of=(("blocks.0.mlp.c_fc.weight", _TEXT),),
    prefixes=("vision_encoder.",),
    model_types=_MODEL_TYPES,
    usual={"layer_norm_eps": 1e-6, "num_attention_heads": 12, "hidden_act": "gelu"},
    preprocess=dict.fromkeys(("", *_MODEL_TYPES), Preprocess("squash", "bilinear", *UNIT)),
    ignored=(
        *META_DINOV2_IMAGE.ignored,
        (
            r"text_encoder\..*",
            "the text tower, which vitrail does not have: its positions are fixed, it pools the mean",
        ),
        (r"temperature", "part of the contrastive loss"),
    ),
)
