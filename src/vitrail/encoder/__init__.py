"""The encoder: pre-norm blocks, their parameters stacked."""

from ._attention import Attention as Attention
from ._block import Block as Block
from ._encoder import Blocks as Blocks, Encoder as Encoder
from ._neck import NECK_EPS as NECK_EPS, Neck as Neck
from ._options import EncoderOptions as EncoderOptions, EncoderSize as EncoderSize, WindowOptions as WindowOptions
from ._window import RelativePosition as RelativePosition
