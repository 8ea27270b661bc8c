"""The options of an encoder."""

from dataclasses import dataclass
from typing import Literal

from .._check import check_above_zero, check_positive
from ..nn import ActivationName, NormName


@dataclass(frozen=True)
class WindowOptions:
    """Attention within windows, as in SAM (Kirillov et al. 2023, arXiv:2304.02643). The model has patch tokens
    alone."""

    size: int
    """The side of a window in patches. Windows at the edge are padded with zeros."""
    global_blocks: tuple[int, ...] = ()
    """The blocks, counted from zero, whose attention reads all tokens."""
    relative_grid: tuple[int, int] | None = None
    """The grid for which the global blocks have relative positions; `None` for no relative positions. The other blocks
    then have relative positions for their windows."""

    def __post_init__(self) -> None:
        check_positive(size=self.size)
        if self.relative_grid is not None:
            check_positive(relative_grid=self.relative_grid)


@dataclass(frozen=True)
class EncoderOptions:
    """The options of the encoder. The defaults are the original ViT's."""

    qkv_bias: bool = True
    """Whether queries, keys and values have a bias."""
    bias: bool = True
    """Whether the other linear layers have a bias. Those of AIMv2 have none."""
    qk_norm: bool = False
    """Whether queries and keys are normalised, each head by itself (Dehghani et al. 2023, arXiv:2302.05442)."""
    activation: ActivationName | Literal["swiglu"] = "gelu"
    """The activation of the MLP, or `"swiglu"` for a gate (Shazeer 2020, arXiv:2002.05202)."""
    norm: NormName = "layer"
    """The norm of the blocks and the final norm: `"layer"`, or `"rms"` as in AIMv2."""
    norm_eps: float = 1e-6
    """What every norm adds to the variance: `1e-6` in ViT, DeiT, DINO and MAE, `1e-5` in CLIP."""
    pre_norm: bool = False
    """Whether there is a norm before the first block, as in CLIP."""
    post_norm: bool = False
    """Whether a block normalises the outputs of its branches instead of their inputs, as in the largest EVA-02 (Liu et
    al. 2022, *Swin Transformer V2*, arXiv:2111.09883)."""
    attention_norm: bool = False
    """Whether the output of the heads is normalised before the projection, as in EVA-02 (Wang et al. 2022, *Foundation
    Transformers*, arXiv:2210.06423)."""
    mlp_norm: bool = False
    """Whether the hidden layer of the MLP is normalised before its second linear layer, as in EVA-02."""
    layer_scale: float | None = None
    """The initial value of the learned scale of each residual branch, as in CaiT and DINOv2; `None` for no scale."""

    def __post_init__(self) -> None:
        check_above_zero(norm_eps=self.norm_eps, layer_scale=self.layer_scale)


@dataclass(frozen=True)
class EncoderSize:
    """The size of an encoder."""

    dim: int
    """The width of a token."""
    depth: int
    """The number of blocks."""
    num_heads: int
    """The number of heads of the attention."""
    mlp_dim: int
    """The width of the MLP's hidden layer."""

    def __post_init__(self) -> None:
        check_positive(dim=self.dim, depth=self.depth, num_heads=self.num_heads, mlp_dim=self.mlp_dim)
