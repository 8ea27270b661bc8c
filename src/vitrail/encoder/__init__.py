"""The encoder: pre-norm blocks, their parameters stacked."""

from ._block import Block as Block
from ._blocks import Blocks as Blocks, Recorded as Recorded, check_layer as check_layer
from ._encoder import Encoder as Encoder
from ._neck import NECK_EPS as NECK_EPS, Neck as Neck
from ._options import EncoderOptions as EncoderOptions, EncoderSize as EncoderSize, WindowOptions as WindowOptions
from ._relative import RelativePosition as RelativePosition
from ._windowed import (
    WindowedEncoder as WindowedEncoder,
    check_blocks as check_blocks,
    make_windowed_encoder as make_windowed_encoder,
)
