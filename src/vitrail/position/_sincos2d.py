"""The position embedding `sincos2d`."""

import dataclasses
from typing import Literal, final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._check import check_above_zero
from .._tokens import Tokens
from ..nn import Rotation
from ._base import AbstractPosition
from ._grid import grid_coordinates


@final
class SinCos2DPosition(AbstractPosition):
    r"""Fixed sines and cosines of row and column, added to the patches. The prefix tokens get none.

    A quarter of the channels each holds $\sin(\omega_i a)$, $\cos(\omega_i a)$, $\sin(\omega_i b)$, $\cos(\omega_i b)$
    with $\omega_i = T^{-r_i}$ and the temperature $T$. The published rules differ in the order of the axes and in
    $r_i$. $Q$ is a quarter of the width:

    | rule | $a$ | $b$ | $r_i$ |
    |---|---|---|---|
    | `"big_vision"` | column | row | $i / (Q - 1)$ |
    | `"mae"` | column | row | $i / Q$ |
    | `"moco_v3"` | row | column | $i / Q$ |

    ??? cite

        Chen, Xie and He, *An Empirical Study of Training Self-Supervised Vision Transformers* (MoCo v3), 2021,
        arXiv:2104.02057; He et al., *Masked Autoencoders*, 2022, arXiv:2111.06377; Beyer et al., *Better plain ViT
        baselines for ImageNet-1k*, 2022, arXiv:2205.01580. The table follows their code: big_vision's `models/vit.py`,
        MAE's `util/pos_embed.py`, and MoCo v3's `vits.py`, whose meshgrid is indexed `ij`.
    """

    rule: Literal["big_vision", "mae", "moco_v3"] = eqx.field(static=True)
    temperature: float = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        *,
        rule: Literal["big_vision", "mae", "moco_v3"] = "big_vision",
        temperature: float = 10000.0,
    ):
        """**Arguments:**

        - `dim`: the width of a token, a multiple of four; at least eight for `"big_vision"`.
        - `rule`: the order of the axes and the frequencies, `"big_vision"`, `"mae"` or `"moco_v3"`.
        - `temperature`: $T$.

        **Raises:** `ValueError` if `dim` does not fit.
        """
        if dim % 4 or (rule == "big_vision" and dim < 8):
            raise ValueError(
                "dim must be a multiple of 4 for sines and cosines of two axes (and at least 8 for the rule "
                f"'big_vision'), got {dim}: change the width, or use position='learned'"
            )
        check_above_zero(temperature=temperature)
        self.rule = rule
        self.temperature = temperature

    def compute_table(self, grid: tuple[int, int], dim: int) -> Float[Array, "patches dim"]:
        """**Arguments:**

        - `grid`: rows and columns of patches.
        - `dim`: the width of a token.

        **Returns:**

        What is added to the patch tokens.
        """
        return self._compute(*grid_coordinates(grid), dim)

    def _compute(
        self, rows: Float[Array, " patches"], cols: Float[Array, " patches"], dim: int
    ) -> Float[Array, "patches dim"]:
        quarter = dim // 4
        exponents = jnp.arange(quarter, dtype=jnp.float32) / (quarter - (self.rule == "big_vision"))
        frequencies = self.temperature**-exponents
        first, second = (rows, cols) if self.rule == "moco_v3" else (cols, rows)
        a, b = jnp.outer(first, frequencies), jnp.outer(second, frequencies)
        return jnp.concatenate([jnp.sin(a), jnp.cos(a), jnp.sin(b), jnp.cos(b)], axis=1)

    def __call__(self, tokens: Tokens) -> Tokens:
        rows, cols = (index.astype(jnp.float32) for index in tokens.coordinates)
        table = self._compute(rows, cols, tokens.dim).astype(tokens.patches.dtype)
        return dataclasses.replace(tokens, patches=tokens.patches + table)

    def in_attention(self, tokens: Tokens) -> Rotation | None:
        return None

    def resized(self, grid: tuple[int, int]) -> "SinCos2DPosition":
        return self

    def with_class_token(self, row: Float[Array, " dim"] | None) -> "SinCos2DPosition":
        return self

    def with_registers(self, rows: Float[Array, "added dim"] | None, *, kept: int) -> "SinCos2DPosition":
        return self
