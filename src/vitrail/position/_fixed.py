"""Position embeddings without parameters: sines and cosines, and none."""

import dataclasses
from typing import Literal, final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._check import check_above_zero
from .._init import Init
from .._tokens import Rotation, Tokens
from ._base import AbstractPosition


def grid_coordinates(grid: tuple[int, int]) -> tuple[Float[Array, " patches"], Float[Array, " patches"]]:
    """The row and the column of each patch, row-major, counted from zero."""
    rows, cols = jnp.meshgrid(
        jnp.arange(grid[0], dtype=jnp.float32), jnp.arange(grid[1], dtype=jnp.float32), indexing="ij"
    )
    return rows.reshape(-1), cols.reshape(-1)


@final
class SinCos2DPosition(AbstractPosition):
    r"""Fixed sines and cosines of row and column, added to the patches. The prefix gets none.

    A quarter of the channels each holds $\sin(\omega_i a)$, $\cos(\omega_i a)$, $\sin(\omega_i b)$, $\cos(\omega_i b)$
    with $\omega_i = 10000^{-r_i}$. The published rules differ in which axis comes first and in $r_i$, with $Q$ a
    quarter of the width:

    | rule | $a$ | $b$ | $r_i$ |
    |---|---|---|---|
    | `"big_vision"` | column | row | $i / (Q - 1)$ |
    | `"mae"` | column | row | $i / Q$ |
    | `"moco_v3"` | row | column | $i / Q$ |

    ??? cite

        Chen, Xie and He, *An Empirical Study of Training Self-Supervised Vision Transformers* (MoCo v3), 2021,
        arXiv:2104.02057; He et al., *Masked Autoencoders*, 2022, arXiv:2111.06377; Beyer et al., *Better plain ViT
        baselines for ImageNet-1k*, 2022, arXiv:2205.01580. The table is read off the code of the three: big_vision's
        `models/vit.py`, MAE's `util/pos_embed.py`, MoCo v3's `vits.py`, whose meshgrid is indexed `ij`.
    """

    rule: Literal["big_vision", "mae", "moco_v3"] = eqx.field(static=True)
    temperature: float = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        *,
        grid: tuple[int, int] | None = None,
        class_token: bool = False,
        num_registers: int = 0,
        head_dim: int | None = None,
        init: Init | None = None,
        rule: Literal["big_vision", "mae", "moco_v3"] = "big_vision",
        temperature: float = 10000.0,
        key: PRNGKeyArray | None = None,
    ):
        """**Arguments:**

        - `dim`: the width of a token, a multiple of four, and eight at least under `"big_vision"`.
        - `grid`, `class_token`, `num_registers`, `head_dim`, `init`, `key`: not used.
        - `rule`: whose order and frequencies: `"big_vision"`, `"mae"` or `"moco_v3"`.
        - `temperature`: the base of the frequencies.

        **Raises:** `ValueError` where `dim` does not fit.
        """
        if dim % 4 or (rule == "big_vision" and dim < 8):
            raise ValueError(
                f"dim must be a multiple of 4 for sines and cosines of two axes (and at least 8 under 'big_vision'), "
                f"but {dim} came: change the width, or take position='learned'"
            )
        check_above_zero(temperature=temperature)
        self.rule = rule
        self.temperature = temperature

    def table(self, grid: tuple[int, int], dim: int) -> Float[Array, "patches dim"]:
        """**Arguments:**

        - `grid`: rows and columns of patches.
        - `dim`: the width of a token.

        **Returns:**

        What is added to the patch tokens.
        """
        quarter = dim // 4
        exponents = jnp.arange(quarter, dtype=jnp.float32) / (quarter - (self.rule == "big_vision"))
        frequencies = self.temperature**-exponents
        rows, cols = grid_coordinates(grid)
        first, second = (rows, cols) if self.rule == "moco_v3" else (cols, rows)
        a, b = jnp.outer(first, frequencies), jnp.outer(second, frequencies)
        return jnp.concatenate([jnp.sin(a), jnp.cos(a), jnp.sin(b), jnp.cos(b)], axis=1)

    def __call__(self, tokens: Tokens) -> Tokens:
        """**Arguments:**

        - `tokens`: on any grid.

        **Returns:**

        The tokens, their patches plus the table.
        """
        table = tokens.at_places(self.table(tokens.grid, tokens.dim)).astype(tokens.patches.dtype)
        return dataclasses.replace(tokens, patches=tokens.patches + table)

    def rotation(self, tokens: Tokens) -> Rotation | None:
        """**Returns:**

        `None`: this position does not rotate.
        """
        return None

    def resized(self, grid: tuple[int, int]) -> "SinCos2DPosition":
        """**Returns:**

        Itself: the table is computed for whichever grid comes.
        """
        return self

    def with_class_token(self, row: Float[Array, " dim"] | None) -> "SinCos2DPosition":
        """**Returns:**

        Itself: the prefix tokens have no position here.
        """
        return self


@final
class NoPosition(AbstractPosition):
    """No position: the model cannot tell in which order the patches lie."""

    def __init__(
        self,
        dim: int,
        *,
        grid: tuple[int, int] | None = None,
        class_token: bool = False,
        num_registers: int = 0,
        head_dim: int | None = None,
        init: Init | None = None,
        key: PRNGKeyArray | None = None,
    ):
        """**Arguments:**

        - `dim`, `grid`, `class_token`, `num_registers`, `head_dim`, `init`, `key`: not used.
        """

    def __call__(self, tokens: Tokens) -> Tokens:
        """**Arguments:**

        - `tokens`: on any grid.

        **Returns:**

        The tokens as they came.
        """
        return tokens

    def rotation(self, tokens: Tokens) -> Rotation | None:
        """**Returns:**

        `None`: there is no rotation.
        """
        return None

    def resized(self, grid: tuple[int, int]) -> "NoPosition":
        """**Returns:**

        Itself.
        """
        return self

    def with_class_token(self, row: Float[Array, " dim"] | None) -> "NoPosition":
        """**Returns:**

        Itself: the prefix tokens have no position here.
        """
        return self
