"""The configuration of a Vision Transformer."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jaxtyping import PRNGKeyArray

from .._check import check_classes, check_divisible, check_heads, check_positive
from .._spec import PartSpec
from ..encoder import NECK_EPS, EncoderOptions, EncoderSize, WindowOptions, check_blocks
from ..head import HeadFactory
from ..images import Preprocess
from ..nn import Dropout, Execution, InitName, split_key
from ..patch import PatchFactory
from ..pool import PoolFactory
from ..position import PositionFactory
from ._json import JSONConfig
from ._parts import make_backbone, make_pool, make_readout, needs_class_token
from ._readout import Readout

if TYPE_CHECKING:
    from ._vit import ViT
else:
    ViT = object  # the model imports its configuration


NormOrder = Literal["norm_pool", "pool_norm", "none"]
"""Where the final norm stands."""


@dataclass(frozen=True, kw_only=True)
class ViTConfig(JSONConfig):
    """Describes a Vision Transformer by names and plain values.

    A part is a registered name, a `PartSpec` (`HEADS.configure("mlp", hidden_dim=64)`), or a class or
    `functools.partial`, which cannot be written as JSON. Equal configurations build the same model from the same key.
    """

    image_size: tuple[int, int]
    """Height and width of the images in pixels."""
    patch_size: tuple[int, int]
    """Height and width of a patch in pixels."""
    size: EncoderSize
    """Width, depth, heads and the MLP's width."""
    num_classes: int | None = None
    """The number of logits; `None` for a head without classes."""
    classes: tuple[str, ...] | None = None
    """The names of the classes, one for each logit; `None` if they are not known."""
    channels: int = 3
    """The number of channels of the images."""
    patch: str | PartSpec | PatchFactory = "conv"
    """The patch embedding."""
    position: str | PartSpec | PositionFactory = "learned"
    """The position embedding."""
    pool: str | PartSpec | PoolFactory = "mean"
    """The pooling."""
    head: str | PartSpec | HeadFactory = "linear"
    """The head."""
    norm_order: NormOrder = "norm_pool"
    """`"norm_pool"`: the final norm acts on the tokens, before the pool (the original ViT). `"pool_norm"`: it acts on
    the pooled vector, after the pool. `"none"`: there is no final norm (Perception Encoder's language and spatial
    models)."""
    class_token: bool | None = None
    """Whether there is a class token; `None` to have one only if the pool needs it."""
    num_registers: int = 0
    """The number of registers after the class token (Darcet et al. 2024, arXiv:2309.16588)."""
    encoder: EncoderOptions = EncoderOptions()
    """The options of the encoder."""
    windows: WindowOptions | None = None
    """Attention within windows, as in SAM; `None` for attention of all tokens to all."""
    neck_dim: int | None = None
    """The width of the tokens after a neck of two convolutions, which comes before the final norm, as in SAM; `None`
    for no neck."""
    init: InitName = "trunc_normal"
    """How fresh weights are drawn: a name of [`INITS`][vitrail.INITS]."""
    preprocess: Preprocess | None = None
    """How pictures are prepared for the model; `None` if that is not known."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(image_size=self.image_size, patch_size=self.patch_size, channels=self.channels)
        check_divisible("image_size", self.image_size, self.patch_size)
        check_heads("dim", self.size.dim, self.size.num_heads)
        if self.neck_dim is not None:
            check_positive(neck_dim=self.neck_dim)
        if isinstance(self.num_registers, bool) or self.num_registers < 0:
            raise ValueError(f"num_registers must be at least 0, got {self.num_registers}: pass 0 for none")
        if self.num_registers and (self.windows is not None or self.neck_dim is not None):
            raise ValueError(
                f"num_registers must be 0 with windows or a neck, which take patches alone, got {self.num_registers}"
            )
        if self.preprocess is not None and self.preprocess.channels != self.channels:
            raise ValueError(
                f"preprocess must have the channels of the model, {self.channels}, got {self.preprocess.channels}: "
                "give its mean and std one number for each channel of the model, or change channels"
            )
        if self.preprocess is not None and self.preprocess.patch_size not in (None, self.patch_size):
            raise ValueError(
                f"preprocess must have the patch_size of the model, {self.patch_size}, got "
                f"{self.preprocess.patch_size}: change one of them"
            )
        check_classes(self.classes, self.num_classes)
        if self.windows is not None:
            check_blocks(self.windows.global_blocks, self.size.depth)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.image_size[0] // self.patch_size[0], self.image_size[1] // self.patch_size[1]

    @property
    def norm_eps(self) -> float:
        """What the final norm adds to the variance."""
        return self.encoder.norm_eps if self.neck_dim is None else NECK_EPS

    @property
    def token_dim(self) -> int:
        """The width of the tokens that the backbone returns: that of the neck, or of the encoder."""
        return self.size.dim if self.neck_dim is None else self.neck_dim

    def build(self, *, execution: Execution = Execution(), dropout: Dropout = Dropout(), key: PRNGKeyArray) -> ViT:
        """Builds the model.

        **Arguments:**

        - `execution`: how the model is computed.
        - `dropout`: what is dropped in training.
        - `key`: the random key of the weights.

        **Returns:**

        A `ViT` with fresh weights.

        **Raises:** `UnknownPartError`, `OptionError` or `PluginError` if a part is not found or has not such an option;
        `TypeError` if a factory returns something else than a part; `ValueError` if parts do not fit each other.
        """
        from ._vit import ViT

        backbone_key, readout_key = split_key(key)
        readout = self.build_readout(key=readout_key)
        class_token = needs_class_token(self, readout.pool)
        backbone = make_backbone(self, class_token=class_token, execution=execution, dropout=dropout, key=backbone_key)
        return ViT(backbone, readout, self)

    def build_readout(self, *, key: PRNGKeyArray) -> Readout:
        """Builds the readout alone, for the tokens of a backbone of this configuration.

        **Arguments:**

        - `key`: the random key of the weights.

        **Returns:**

        A `Readout` with fresh weights.

        **Raises:** what `build` raises.
        """
        pool_key, head_key = split_key(key)
        return make_readout(self, make_pool(self, key=pool_key), key=head_key)


def to_pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width, from one number for both or from the two."""
    return (size, size) if isinstance(size, int) else size
