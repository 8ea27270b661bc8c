"""The systems that stand on a Vision Transformer, each with its image model in the field `image`."""

from ._clean import Cleaning as Cleaning
from ._clip_vocabulary import make_clip_vocabulary as make_clip_vocabulary
from ._image_text import ImageText as ImageText, ImageTextConfig as ImageTextConfig
from ._mae import MAEDecoder as MAEDecoder, MaskedAutoencoder as MaskedAutoencoder, Reconstruction as Reconstruction
from ._mae_config import MAEConfig as MAEConfig
from ._templates import TEMPLATES as TEMPLATES
from ._text import (
    TEXT_POOLINGS as TEXT_POOLINGS,
    TextConfig as TextConfig,
    TextPooling as TextPooling,
    TextTower as TextTower,
)
from ._tokenizer import (
    MAX_VOCABULARY as MAX_VOCABULARY,
    Tokenizer as Tokenizer,
    TokenizerConfig as TokenizerConfig,
    pack_vocabulary as pack_vocabulary,
)
from ._zero_shot import zero_shot as zero_shot
