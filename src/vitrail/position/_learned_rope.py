"""The position embedding `learned_rope`."""

from typing import Any, Literal, final

import equinox as eqx
from jaxtyping import Array, Float, PRNGKeyArray

from .._tokens import Tokens
from ..nn import TRUNC_NORMAL, Init, ResizeRule, Rotation, split_key
from ._base import AbstractPosition
from ._learned import LearnedPosition
from ._rope import RotaryPosition
from ._rope_mixed import MixedRotaryPosition


@final
class LearnedRotaryPosition(AbstractPosition):
    """Both at once: a learned vector added to each token (`learned`), and queries and keys rotated (`rope`).

    ??? cite

        Bolya et al., *Perception Encoder: The best visual embeddings are not at the output of the network*, 2025,
        arXiv:2504.13181; Heo et al., *Rotary Position Embedding for Vision Transformer*, ECCV 2024, arXiv:2403.13298
        (`rope_ape`).
    """

    learned: LearnedPosition
    rotary: RotaryPosition | MixedRotaryPosition

    def __init__(
        self,
        dim: int,
        *,
        grid: tuple[int, int],
        head_dim: int,
        num_heads: int = 1,
        depth: int = 1,
        class_token: bool = False,
        num_registers: int = 0,
        init: Init = TRUNC_NORMAL,
        covers_prefix: bool | Literal["class"] = True,
        resize: ResizeRule = "torch_bicubic_antialias",
        rule: Literal["axial", "eva", "dinov3"] = "axial",
        base: float = 100.0,
        offset: float = 0.0,
        reference: tuple[int, int] | None = None,
        mixed: bool = False,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `dim`: the width of a token.
        - `grid`: rows and columns of patches.
        - `head_dim`: the width of an attention head, a multiple of four.
        - `num_heads`, `depth`: the numbers of heads and blocks, for mixed rotation.
        - `class_token`: whether there is a class token.
        - `num_registers`: the number of registers.
        - `init`: draws the table.
        - `covers_prefix`, `resize`: as in `LearnedPosition`.
        - `rule`, `base`, `offset`, `reference`: as in `RotaryPosition`.
        - `mixed`: whether rows and columns are mixed as in `MixedRotaryPosition`, which reads `base` alone of these.
        - `key`: for the table, and the frequencies of mixed rotation.

        **Raises:** what `RotaryPosition` raises; `ValueError` if mixed rotation gets options that are not its own.
        """
        learned_key, rotary_key = split_key(key)
        self.learned = LearnedPosition(
            dim,
            grid=grid,
            class_token=class_token,
            num_registers=num_registers,
            init=init,
            covers_prefix=covers_prefix,
            resize=resize,
            key=learned_key,
        )
        if mixed:
            if (rule, offset, reference) != ("axial", 0.0, None):
                raise ValueError(
                    f"rule, offset and reference must be left out with mixed=True, got {rule!r}, {offset} and "
                    f"{reference}"
                )
            self.rotary = MixedRotaryPosition(
                head_dim=head_dim, num_heads=num_heads, depth=depth, base=base, key=rotary_key
            )
            return
        self.rotary = RotaryPosition(head_dim=head_dim, rule=rule, base=base, offset=offset, reference=reference)

    def __call__(self, tokens: Tokens) -> Tokens:
        return self.learned(tokens)

    def in_attention(self, tokens: Tokens) -> Rotation | None:
        return self.rotary.in_attention(tokens)

    def resized(self, grid: tuple[int, int]) -> "LearnedRotaryPosition":
        """**Arguments:**

        - `grid`: the new rows and columns.

        **Returns:**

        The position embedding with its table resampled by its rule.
        """
        return eqx.tree_at(_get_learned, self, self.learned.resized(grid))

    def with_class_token(self, row: Float[Array, " dim"] | None) -> "LearnedRotaryPosition":
        return eqx.tree_at(_get_learned, self, self.learned.with_class_token(row))

    def with_registers(self, rows: Float[Array, "added dim"] | None, *, kept: int) -> "LearnedRotaryPosition":
        return eqx.tree_at(_get_learned, self, self.learned.with_registers(rows, kept=kept))


# Equinox passes a placeholder to this, so no narrower type holds.
def _get_learned(position: Any) -> Any:
    return position.learned
