"""What real checkpoints need of an encoder, as options."""

from dataclasses import dataclass
from typing import Literal

from .._check import check_above_zero, check_positive, check_rate
from .._layers import ActivationName


@dataclass(frozen=True)
class WindowOptions:
    """Attention within windows, as in SAM (Kirillov et al. 2023, arXiv:2304.02643). There must be no prefix tokens."""

    size: int
    """The side of a window in patches. Windows at the edge are filled up with zeros."""
    global_blocks: tuple[int, ...] = ()
    """The blocks, counted from zero, that look at all tokens all the same."""
    relative_grid: tuple[int, int] | None = None
    """Rows and columns of patches for which the global blocks have positions relative to the query; those of the
    others are for a window. `None` for no relative positions."""

    def __post_init__(self) -> None:
        check_positive(size=self.size)
        if self.relative_grid is not None:
            check_positive(relative_grid=self.relative_grid)


@dataclass(frozen=True)
class EncoderOptions:
    """The options of the encoder. The defaults are the original ViT's."""

    qkv_bias: bool = True
    """Whether queries, keys and values have a bias."""
    qk_norm: bool = False
    """Whether queries and keys are normalised, each head by a LayerNorm (Dehghani et al. 2023, arXiv:2302.05442)."""
    activation: ActivationName | Literal["swiglu"] = "gelu"
    """Of the MLP: an activation between its two linear layers, or `"swiglu"` for a gated one (Shazeer 2020,
    arXiv:2002.05202)."""
    norm_eps: float = 1e-6
    """What every LayerNorm adds to the variance. `1e-6` in the JAX code of ViT, DeiT, DINO and MAE; CLIP has `1e-5`."""
    pre_norm: bool = False
    """Whether a LayerNorm comes before the first block, as in CLIP."""
    layer_scale: float | None = None
    """The value at which a learned scale of each residual branch starts (CaiT, DINOv2); `None` for no scale."""
    windows: WindowOptions | None = None
    """Attention within windows, for large images; `None` for all tokens to all."""
    attention_chunk: int | None = None
    """How many queries look at all tokens at a time; `None` for all at once, or half of them where there are many
    tokens. With it the memory that attention takes grows with the number of tokens, and not with its square: for large
    images."""
    fused_attention: bool = False
    """Whether attention is one kernel of cuDNN, which never holds all scores and is faster for all but small batches of
    small images. It needs an NVIDIA GPU, `compute_dtype="bfloat16"`, and heads as wide as a multiple of 8 up to 128; it
    has a gradient, but no forward-mode and no second derivative."""
    dropout: float = 0.0
    """The probability of dropping an element after the position embedding, in the MLP and at the end of each branch."""
    drop_path: float = 0.0
    """The probability of dropping a residual branch in the last block. It grows linearly from
    zero in the first, so that a single block is never dropped."""
    scan: bool = True
    """Whether the blocks run as one loop, compiled once whatever the depth, or one after the other, each compiled."""
    remat: Literal["products", "attention", "blocks"] = "products"
    """What the backward pass finds kept of the forward pass; the rest it computes again. `"products"`: the results of
    the matrix products, and the tokens between the two branches. `"attention"`: what the attention gathers, and what
    goes from block to block, about half of the memory. `"blocks"`: only what goes from block to block."""

    def __post_init__(self) -> None:
        check_rate(dropout=self.dropout, drop_path=self.drop_path)
        check_above_zero(norm_eps=self.norm_eps, layer_scale=self.layer_scale)
        if self.attention_chunk is not None:
            check_positive(attention_chunk=self.attention_chunk)
        if self.fused_attention and self.attention_chunk is not None:
            raise ValueError(
                f"fused_attention must be False with attention_chunk={self.attention_chunk}, but True came: the kernel "
                "never holds the scores: leave the chunks out"
            )
        if self.windows is not None and self.windows.relative_grid is not None:
            for name, came, off in (
                ("attention_chunk", self.attention_chunk, None),
                ("fused_attention", self.fused_attention, False),
            ):
                if came != off:
                    raise ValueError(
                        f"{name} must be {off} with relative positions, but {came} came: their table is as large "
                        "as the scores, so that nothing would be saved"
                    )


@dataclass(frozen=True)
class EncoderSize:
    """The four numbers that make an encoder's size."""

    dim: int
    """The width of a token."""
    depth: int
    """How many blocks there are."""
    num_heads: int
    """How many heads the attention has."""
    mlp_dim: int
    """The width of the MLP's hidden layer."""

    def __post_init__(self) -> None:
        check_positive(dim=self.dim, depth=self.depth, num_heads=self.num_heads, mlp_dim=self.mlp_dim)
