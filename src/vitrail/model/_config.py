"""The configuration of a Vision Transformer."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import jax
from jaxtyping import PRNGKeyArray

from .._check import check_divisible, check_heads, check_positive
from .._init import InitName
from .._registry import PartSpec
from ..encoder import NECK_EPS, EncoderOptions, EncoderSize
from ..head import HeadFactory
from ..patch import PatchFactory
from ..pool import PoolFactory
from ..position import PositionFactory
from ._json import from_json, to_json
from ._parts import make_backbone, make_pool, make_readout, needs_class_token
from ._preprocess import Preprocess
from ._readout import Readout

if TYPE_CHECKING:
    from ._vit import ViT
else:
    ViT = object  # a model is built from its configuration, and holds it


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """Everything that says which Vision Transformer to build: names and plain values.

    A part is given by its registered name, by a `PartSpec` (`HEADS.configure("mlp", hidden_dim=64)`), or as a class
    or `functools.partial`, which JSON cannot hold. Two configurations that are equal build the same model from the same
    key; a `functools.partial` is equal to itself alone.
    """

    image_size: tuple[int, int]
    """Height and width of the images in pixels."""
    patch_size: tuple[int, int]
    """Height and width of a patch in pixels."""
    size: EncoderSize
    """Width, depth, heads and the MLP's width."""
    num_classes: int | None = None
    """How many logits the head returns; `None` for a head without classes."""
    channels: int = 3
    """Of the images."""
    patch: str | PartSpec | PatchFactory = "conv"
    """The patch embedding."""
    position: str | PartSpec | PositionFactory = "learned"
    """The position embedding."""
    pool: str | PartSpec | PoolFactory = "mean"
    """The pooling."""
    head: str | PartSpec | HeadFactory = "linear"
    """The head."""
    norm_order: Literal["norm_pool", "pool_norm"] = "norm_pool"
    """Whether the final norm acts on the tokens before the pool (the original), or on the pooled vector after it."""
    class_token: bool | None = None
    """Whether there is a class token; `None` for one where the pool needs it."""
    num_registers: int = 0
    """How many register tokens follow the class token (Darcet et al. 2024, arXiv:2309.16588)."""
    encoder: EncoderOptions = EncoderOptions()
    """The options of the encoder."""
    neck_dim: int | None = None
    """The width that a neck of two convolutions brings the tokens to before the final norm, as in SAM; `None` for no
    neck."""
    init: InitName = "trunc_normal"
    """The scheme that fresh weights are drawn by."""
    preprocess: Preprocess | None = None
    """How pictures are prepared for the weights, where these were loaded; `None` where nothing says it."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """What the forward pass computes in. Parameters and logits are float32 all the same, as are softmax and norms."""

    def __post_init__(self) -> None:
        check_positive(image_size=self.image_size, patch_size=self.patch_size, channels=self.channels)
        check_divisible("image_size", self.image_size, self.patch_size)
        check_heads("dim", self.size.dim, self.size.num_heads)
        if self.neck_dim is not None:
            check_positive(neck_dim=self.neck_dim)
        if isinstance(self.num_registers, bool) or self.num_registers < 0:
            raise ValueError(f"num_registers must be at least 0, got {self.num_registers}: pass 0 for none")
        if self.encoder.fused_attention and self.compute_dtype != "bfloat16":
            raise ValueError(
                f"fused_attention needs compute_dtype='bfloat16', got {self.compute_dtype!r}: cuDNN's kernel is for "
                "half precision"
            )

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
        """The width of a token where the pool reads it: that of the neck, or the encoder's."""
        return self.size.dim if self.neck_dim is None else self.neck_dim

    def build(self, *, key: PRNGKeyArray) -> ViT:
        """Resolves the names and assembles the model.

        **Arguments:**

        - `key`: for the weights.

        **Returns:**

        A `ViT` with fresh weights.

        **Raises:** `UnknownPartError`, `OptionError` or `PluginError` where a part is not to be had, `TypeError`
        where a factory makes something else, `ValueError` where parts do not fit each other.
        """
        from ._vit import ViT

        backbone_key, readout_key = jax.random.split(key)
        readout = self.build_readout(key=readout_key)
        class_token = needs_class_token(self, readout.pool)
        return ViT(make_backbone(self, class_token=class_token, key=backbone_key), readout, self)

    def build_readout(self, *, key: PRNGKeyArray) -> Readout:
        """Builds the pool, the norm and the head alone, for the tokens of a backbone of this configuration.

        **Arguments:**

        - `key`: for the weights.

        **Returns:**

        A `Readout` with fresh weights.

        **Raises:** what `build` raises.
        """
        pool_key, head_key = jax.random.split(key)
        return make_readout(self, make_pool(self, key=pool_key), key=head_key)

    def to_json(self) -> str:
        """The configuration as JSON, for `from_json`.

        **Returns:**

        A JSON object, indented.

        **Raises:** `ValueError` where a part was given as a class or `functools.partial`, which only code can name.
        """
        return to_json(self)

    @staticmethod
    def from_json(text: str) -> "ViTConfig":
        """The configuration that `to_json` wrote.

        **Arguments:**

        - `text`: a JSON object.

        **Returns:**

        A configuration equal to the one that was written.

        **Raises:** `ValueError` where the text is not JSON, or names a field that there is not, or twice, or lacks one;
        `TypeError` where a value has the wrong type. Parts are looked up by `build`.
        """
        return from_json(ViTConfig, text)


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """One number for both of height and width, or the two."""
    return (size, size) if isinstance(size, int) else size
