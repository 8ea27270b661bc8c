"""How a model is computed, apart from what it is."""

from dataclasses import dataclass
from typing import Literal

from .._check import check_positive
from ._remat import Remat

AttentionStrategy = Literal["auto", "plain", "cudnn"] | int
"""How attention is computed: see [`Execution.attention`][vitrail.Execution.attention]."""


@dataclass(frozen=True)
class Execution:
    """How a model is computed. It changes speed and memory, not what the weights mean.

    It is not saved with a model. Change it on any model with `model.with_execution(vitrail.Execution(...))`.
    """

    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """The dtype of the forward pass. Parameters, logits, norms and softmax stay in float32."""
    scan: bool = True
    """Whether the blocks run as a loop, of which one block is compiled (`True`), or each block is compiled
    (`False`)."""
    remat: Remat = "products"
    """Which results of each block are kept for the backward pass. The others are computed again.

    - `"products"`: the results of the matrix products, and the tokens between the two branches.
    - `"attention"`: the result of the attention, and the tokens between blocks. It takes about half of the memory.
    - `"blocks"`: only the tokens between blocks.
    """
    attention: AttentionStrategy = "auto"
    """How attention is computed:

    - `"plain"`: all scores at once.
    - `"auto"`: as `"plain"`, except for many tokens on a CPU. Then it computes the scores in two halves, which is
        faster. With relative positions, as in SAM, it computes one head after the other, which takes less memory.
    - a number: that many queries at a time. Memory then grows with the number of tokens and not with its square.
    - `"cudnn"`: one kernel of cuDNN that does not store the scores. It needs an NVIDIA GPU, `compute_dtype="bfloat16"`,
        and heads whose width is a multiple of 8 up to 128. It has a gradient, but no forward-mode derivative and no
        second derivative.
    """

    def __post_init__(self) -> None:
        if isinstance(self.attention, int):
            check_positive(attention=self.attention)
        if self.attention == "cudnn" and self.compute_dtype != "bfloat16":
            raise ValueError(
                f"attention='cudnn' needs compute_dtype='bfloat16', got {self.compute_dtype!r}: cuDNN's kernel has no "
                "float32"
            )
