"""What flows between the parts: `Tokens`, and the `Rotation` that a rotary position hands to the attention."""

import dataclasses
from collections.abc import Callable
from typing import final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float


@final
class Tokens(eqx.Module):
    """The tokens of one image, with the prefix and the patches apart.

    Keeping the two apart is the point: a pool that reads `tokens.patches` cannot swallow the class token, and cannot
    average over the wrong axis without changing the width that its head expects (unless there are as many patches as
    channels).
    """

    prefix: Float[Array, "prefix dim"]
    patches: Float[Array, "patches dim"]
    grid: tuple[int, int] = eqx.field(static=True)
    has_class_token: bool = eqx.field(static=True)

    def __init__(
        self,
        prefix: Float[Array, "prefix dim"],
        patches: Float[Array, "patches dim"],
        grid: tuple[int, int],
        *,
        has_class_token: bool = True,
    ):
        """**Arguments:**

        - `prefix`: the prefix tokens: the class token first, then the registers. `(0, dim)` where there are none.
        - `patches`: one token for each patch, row-major over the grid.
        - `grid`: rows and columns of patches.
        - `has_class_token`: whether the first of the prefix tokens, where there are any, is the class token; `False`
            where all are registers.

        **Raises:** `ValueError` where `grid` does not have as many cells as there are patch tokens.
        """
        if grid[0] * grid[1] != patches.shape[0]:
            raise ValueError(
                f"grid {grid} has {grid[0] * grid[1]} cells, but there are {patches.shape[0]} patch tokens: "
                "pass the (rows, cols) that the patch tokens were flattened from, row by row"
            )
        self.prefix = prefix
        self.patches = patches
        self.grid = grid
        self.has_class_token = has_class_token and prefix.shape[0] > 0

    @property
    def dim(self) -> int:
        """The width of a token."""
        return self.patches.shape[-1]

    @property
    def num_prefix(self) -> int:
        """How many prefix tokens there are: the class token and the registers."""
        return self.prefix.shape[-2]

    @property
    def class_token(self) -> Float[Array, " dim"]:
        """The class token, the first of the prefix tokens.

        **Raises:** `ValueError` where there is none.
        """
        if not self.has_class_token:
            raise ValueError(
                f"these tokens have no class token ({self.num_prefix} registers come before the patches): build the "
                "model with class_token=True, or let the pool that reads it declare needs_class_token"
            )
        return self.prefix[0]

    @property
    def sequence(self) -> Float[Array, "tokens dim"]:
        """Prefix tokens, then patch tokens, as one array: what the encoder reads."""
        return jnp.concatenate([self.prefix, self.patches])

    @property
    def patch_grid(self) -> Float[Array, "rows cols dim"]:
        """The patch tokens laid out as they lie in the image."""
        return self.patches.reshape(*self.grid, self.dim)

    def with_sequence(self, sequence: Float[Array, "tokens dim"]) -> "Tokens":
        """These tokens with other values: the inverse of `sequence`.

        **Arguments:**

        - `sequence`: as many tokens as there are here, prefix first.

        **Returns:**

        `Tokens` with the same grid and the same number of prefix tokens.
        """
        prefix, patches = sequence[: self.num_prefix], sequence[self.num_prefix :]
        return dataclasses.replace(self, prefix=prefix, patches=patches)

    def map(self, function: Callable[[Float[Array, "tokens dim"]], Float[Array, "tokens dim"]]) -> "Tokens":
        """Applies one function to all tokens, prefix and patches alike.

        **Arguments:**

        - `function`: takes and returns `(tokens, dim)`.

        **Returns:**

        The `Tokens` of the results.
        """
        return self.with_sequence(function(self.sequence))


@final
class Rotation(eqx.Module):
    """A rotation of queries and keys by position, one row of angles for each token.

    Pairs of channels of each head are turned by an angle that depends on where the token lies, so that the scores of
    attention depend on the offset between two tokens. A prefix token has the angle zero: it is not turned.

    ??? cite

        Su et al., *RoFormer: Enhanced Transformer with Rotary Position Embedding*, 2021, arXiv:2104.09864.
    """

    cos: Float[Array, "tokens pairs"]
    sin: Float[Array, "tokens pairs"]
    interleaved: bool = eqx.field(static=True)

    def __init__(
        self,
        angles: Float[Array, "patches pairs"],
        *,
        num_prefix: int,
        interleaved: bool,
    ):
        """**Arguments:**

        - `angles`: in radians, one for each patch token and each pair of channels of a head.
        - `num_prefix`: how many tokens before the patches stay as they are.
        - `interleaved`: whether channels `2i` and `2i + 1` make a pair (RoFormer, RoPE-ViT), or channels `i` and
            `i + head_dim / 2` do (DINOv3, GPT-NeoX).
        """
        angles = jnp.pad(angles, ((num_prefix, 0), (0, 0)))
        self.cos = jnp.cos(angles)
        self.sin = jnp.sin(angles)
        self.interleaved = interleaved

    def __call__(self, x: Float[Array, "heads tokens head_dim"]) -> Float[Array, "heads tokens head_dim"]:
        """**Arguments:**

        - `x`: the queries or the keys.

        **Returns:**

        The same, turned. The rotation is computed in float32 at least and comes back in the dtype of `x`.
        """
        heads, tokens, head_dim = x.shape
        pairs = (head_dim // 2, 2) if self.interleaved else (2, head_dim // 2)
        axis = -1 if self.interleaved else -2
        first, second = jnp.moveaxis(x.reshape(heads, tokens, *pairs).astype(self.cos.dtype), axis, 0)
        cos, sin = self.cos[None], self.sin[None]
        turned = jnp.stack([first * cos - second * sin, first * sin + second * cos], axis)
        return turned.reshape(x.shape).astype(x.dtype)
