"""The configuration of Segment Anything."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import PRNGKeyArray

from .._check import check_above_zero, check_heads, check_positive
from ..model import JSONConfig, ViTConfig
from ..nn import INITS, ActivationName, Dropout, Execution, split_key
from ._sam_decoder import MaskDecoder
from ._sam_prompt import PromptEncoder

if TYPE_CHECKING:
    from ._sam import SegmentAnything
else:
    SegmentAnything = object  # the model imports its configuration


@dataclass(frozen=True, kw_only=True)
class SegmentAnythingConfig(JSONConfig):
    """Describes a `SegmentAnything` by names and plain values. The defaults are those of Meta's models."""

    image: ViTConfig
    """The image model. Prompts and mask decoder have the width of its tokens."""
    num_masks: int = 3
    """The number of masks for a prompt that can mean several things. The model has one more mask, for clear prompts."""
    depth: int = 2
    """The number of blocks of the mask decoder."""
    num_heads: int = 8
    """The number of attention heads of the mask decoder."""
    narrowing: int = 2
    """The width of a token divided by the width of the attention between prompts and image."""
    mlp_dim: int = 2048
    """The width of the hidden layer of the mask decoder's MLPs."""
    activation: ActivationName = "relu"
    """The activation of the mask decoder's MLPs."""
    norm_eps: float = 1e-5
    """What the norms of the mask decoder's blocks add to the variance. Hugging Face's code has 1e-6."""
    quality_depth: int = 3
    """The number of layers that predict the quality of masks."""
    quality_dim: int = 256
    """The width of the hidden layers that predict the quality."""
    mask_channels: int = 16
    """The number of channels of the convolutions that read the mask of a prompt, a multiple of 4."""
    mask_activation: ActivationName = "gelu"
    """The activation after these convolutions."""
    mask_norm_eps: float = 1e-6
    """What the norms after these convolutions add to the variance."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(num_masks=self.num_masks, depth=self.depth, num_heads=self.num_heads, mlp_dim=self.mlp_dim)
        check_positive(
            narrowing=self.narrowing,
            quality_depth=self.quality_depth,
            quality_dim=self.quality_dim,
            mask_channels=self.mask_channels,
        )
        check_above_zero(norm_eps=self.norm_eps, mask_norm_eps=self.mask_norm_eps)
        check_heads("the token_dim of image", self.dim, self.num_heads)
        if self.dim % (self.narrowing * self.num_heads):
            raise ValueError(
                f"narrowing must divide the token_dim of image into heads, got narrowing={self.narrowing} and "
                f"num_heads={self.num_heads} for {self.dim} channels: use 2, as SAM does, or fewer heads"
            )
        if self.dim % 8 or self.mask_channels % 4:
            raise ValueError(
                "the token_dim of image must be a multiple of 8 and mask_channels of 4, whose fractions are widths of "
                f"the mask decoder, got {self.dim} and {self.mask_channels}"
            )
        if self.image.class_token or self.image.num_registers:
            raise ValueError(
                "image must have patch tokens alone, got a class token or registers: use class_token=False, "
                "num_registers=0 and the pool 'none'"
            )

    @property
    def dim(self) -> int:
        """The width of a token, of the image and of prompts."""
        return self.image.token_dim

    @property
    def attention_dim(self) -> int:
        """The width of the attention between prompts and image."""
        return self.dim // self.narrowing

    @property
    def mask_size(self) -> tuple[int, int]:
        """Height and width of the logits of a mask, which the mask decoder returns and a prompt can have: 4 for each
        patch."""
        return 4 * self.image.grid[0], 4 * self.image.grid[1]

    def build(
        self, *, execution: Execution = Execution(), dropout: Dropout = Dropout(), key: PRNGKeyArray
    ) -> SegmentAnything:
        """Builds the model.

        **Arguments:**

        - `execution`: how the model is computed.
        - `dropout`: what is dropped in training.
        - `key`: the random key of the weights.

        **Returns:**

        A `SegmentAnything` with fresh weights.

        **Raises:** what `ViTConfig.build` raises.
        """
        from ._sam import SegmentAnything

        image_key, prompt_key, decoder_key = split_key(key, 3)
        init = INITS[self.image.init]
        prompt = PromptEncoder(
            self.dim,
            mask_channels=self.mask_channels,
            mask_activation=self.mask_activation,
            mask_norm_eps=self.mask_norm_eps,
            init=init,
            key=prompt_key,
        )
        decoder = MaskDecoder(
            self.dim,
            num_masks=1 + self.num_masks,
            depth=self.depth,
            num_heads=self.num_heads,
            inner_dim=self.attention_dim,
            mlp_dim=self.mlp_dim,
            activation=self.activation,
            norm_eps=self.norm_eps,
            quality_depth=self.quality_depth,
            quality_dim=self.quality_dim,
            init=init,
            key=decoder_key,
        )
        return SegmentAnything(
            self.image.build(execution=execution, dropout=dropout, key=image_key), prompt, decoder, self
        )
