"""The libraries that publish checkpoints."""

from typing import Final

from ._layout import Library
from ._preprocess_cfg import read_open_clip_preprocess, read_timm_preprocess
from ._processor import read_hugging_face_preprocess

TIMM: Final = Library(
    name="timm",
    marker="num_features",
    licence=(("license",), ("licence",), ("pretrained_cfg", "license"), ("pretrained_cfg", "licence")),
    labels="label_names",
    descriptions="label_descriptions",
    read_preprocess=read_timm_preprocess,
)
HUGGING_FACE: Final = Library(
    name="Hugging Face",
    marker="transformers_version",
    read_preprocess=read_hugging_face_preprocess,
)
OPEN_CLIP: Final = Library(name="OpenAI and open_clip", read_preprocess=read_open_clip_preprocess)
META: Final = Library(name="Meta")
TORCHVISION: Final = Library(name="torchvision")
GOOGLE: Final = Library(name="Google")
