"""The systems that stand on a Vision Transformer, each with its image model in the field `image`."""

from ._image_text import ImageText as ImageText, ImageTextConfig as ImageTextConfig
from ._mae import MAEDecoder as MAEDecoder, MaskedAutoencoder as MaskedAutoencoder, Reconstruction as Reconstruction
from ._mae_config import MAEConfig as MAEConfig
from ._text import (
    TEXT_POOLINGS as TEXT_POOLINGS,
    TextConfig as TextConfig,
    TextPooling as TextPooling,
    TextTower as TextTower,
)
