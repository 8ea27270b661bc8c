"""The systems that stand on a Vision Transformer, each with its image model in the field `image`."""

from ._mae import MAEDecoder as MAEDecoder, MaskedAutoencoder as MaskedAutoencoder, Reconstruction as Reconstruction
from ._mae_config import MAEConfig as MAEConfig
from ._sam import EmbeddedImage as EmbeddedImage, SegmentAnything as SegmentAnything, Segmentation as Segmentation
from ._sam_config import SegmentAnythingConfig as SegmentAnythingConfig
from ._sam_decoder import MaskDecoder as MaskDecoder
from ._sam_masks import FoundMask as FoundMask, MaskSearch as MaskSearch, find_masks as find_masks
from ._sam_prompt import PromptEncoder as PromptEncoder
