"""The systems that stand on a Vision Transformer, each with its image model in the field `image`."""

from ._base import AbstractSystem as AbstractSystem, find_image_model as find_image_model
from ._clean import Cleaning as Cleaning
from ._clip_vocabulary import make_clip_vocabulary as make_clip_vocabulary
from ._crops import apply_to_crops as apply_to_crops, pick_hidden as pick_hidden
from ._dense import Dense as Dense, DenseConfig as DenseConfig, make_dense as make_dense
from ._dino import DINO as DINO, DINOConfig as DINOConfig, DINOOutput as DINOOutput
from ._distillation import (
    centre_scores as centre_scores,
    dino_loss as dino_loss,
    ibot_loss as ibot_loss,
    koleo_loss as koleo_loss,
    sinkhorn_knopp as sinkhorn_knopp,
    update_centre as update_centre,
    update_teacher as update_teacher,
)
from ._hiding import draw_hidden as draw_hidden
from ._image_text import ImageText as ImageText, ImageTextConfig as ImageTextConfig
from ._mae import (
    MAEDecoder as MAEDecoder,
    MaskedAutoencoder as MaskedAutoencoder,
    Reconstruction as Reconstruction,
    choose_patches as choose_patches,
)
from ._mae_config import MAEConfig as MAEConfig
from ._sam import EmbeddedImage as EmbeddedImage, SegmentAnything as SegmentAnything, Segmentation as Segmentation
from ._sam_config import SegmentAnythingConfig as SegmentAnythingConfig
from ._sam_decoder import MaskDecoder as MaskDecoder
from ._sam_geometry import check_prompt as check_prompt
from ._sam_masks import FoundMask as FoundMask, MaskSearch as MaskSearch, find_masks as find_masks
from ._sam_prompt import PromptEncoder as PromptEncoder
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
    read_tokenizer as read_tokenizer,
    unpack_vocabulary as unpack_vocabulary,
)
from ._zero_shot import find_templates as find_templates, zero_shot as zero_shot
