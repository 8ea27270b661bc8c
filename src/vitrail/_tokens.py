"""What flows between the parts: `Tokens`, and the `Rotation` that a rotary position hands to the attention."""

from collections.abc import Callable
from typing import final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ._check import check_all


@final
class Tokens(eqx.Module):
    """The tokens of one image: class token, registers and patches, each on its own.

    A pool that reads `tokens.patches` cannot average over the class token. Where some patches are missing, `places`
    says which cells of the grid the others stand in; where some are padding, `mask` is false for them. Both travel with
    the tokens, so that the positions, the attention and the pool take them into account.

    The properties also work on a batch of tokens, as `jax.vmap(model.backbone)(images)` returns it.
    """

    patches: Float[Array, "*batch patches dim"]
    class_token: Float[Array, "*batch dim"] | None
    registers: Float[Array, "*batch registers dim"] | None
    places: Int[Array, "*batch patches"] | None
    mask: Bool[Array, "*batch patches"] | None
    grid: tuple[int, int] = eqx.field(static=True)

    def __init__(
        self,
        patches: Float[Array, "*batch patches dim"],
        grid: tuple[int, int],
        *,
        class_token: Float[Array, "*batch dim"] | None = None,
        registers: Float[Array, "*batch registers dim"] | None = None,
        places: Int[Array, "*batch patches"] | None = None,
        mask: Bool[Array, "*batch patches"] | None = None,
    ):
        """**Arguments:**

        - `patches`: one token for each patch, row-major over the grid.
        - `grid`: rows and columns of patches in the whole image.
        - `class_token`: the class token; `None` for no class token.
        - `registers`: the registers; `None` for no registers.
        - `places`: for each patch token, the index of its cell in the row-major grid; `None` if every cell has its
            patch token, in order.
        - `mask`: true for each patch that counts, false for padding; `None` if all count.

        **Raises:** `ValueError` if `registers` has no rows, or if there are no `places` and `grid` does not have one
        cell for each patch token.
        """
        if places is None and grid[0] * grid[1] != patches.shape[-2]:
            raise ValueError(
                f"grid {grid} has {grid[0] * grid[1]} cells, got {patches.shape[-2]} patch tokens: pass the (rows, "
                "cols) that the patch tokens were flattened from, or say with places which cells they stand in"
            )
        if registers is not None and registers.shape[-2] == 0:
            raise ValueError(f"registers must have at least one row, got shape {registers.shape}: pass None for none")
        self.patches = patches
        self.class_token = class_token
        self.registers = registers
        self.places = places
        self.mask = mask
        self.grid = grid

    @staticmethod
    def from_sequence(
        sequence: Float[Array, "*batch tokens dim"],
        grid: tuple[int, int],
        *,
        class_token: bool,
        num_registers: int,
        places: Int[Array, "*batch patches"] | None = None,
        mask: Bool[Array, "*batch patches"] | None = None,
    ) -> "Tokens":
        """**Arguments:**

        - `sequence`: class token, registers and patches as one array.
        - `grid`: rows and columns of patches in the whole image.
        - `class_token`: whether the first row is a class token.
        - `num_registers`: how many rows after it are registers.
        - `places`, `mask`: of the patches, as in the constructor.

        **Returns:**

        The `Tokens` whose `sequence` that is.
        """
        first = int(class_token)
        last = first + num_registers
        return Tokens(
            sequence[..., last:, :],
            grid,
            class_token=sequence[..., 0, :] if class_token else None,
            registers=sequence[..., first:last, :] if num_registers else None,
            places=places,
            mask=mask,
        )

    @property
    def dim(self) -> int:
        """The width of a token."""
        return self.patches.shape[-1]

    @property
    def num_registers(self) -> int:
        """The number of registers."""
        return 0 if self.registers is None else self.registers.shape[-2]

    @property
    def num_prefix(self) -> int:
        """The number of tokens before the patches: the class token and the registers."""
        return int(self.class_token is not None) + self.num_registers

    @property
    def prefix(self) -> Float[Array, "*batch prefix dim"]:
        """Class token and registers as one array; no rows if there are none."""
        return self.sequence[..., : self.num_prefix, :]

    @property
    def sequence(self) -> Float[Array, "*batch tokens dim"]:
        """Class token, registers and patches as one array: what the encoder reads."""
        class_token = [] if self.class_token is None else [self.class_token[..., None, :]]
        registers = [] if self.registers is None else [self.registers]
        return jnp.concatenate([*class_token, *registers, self.patches], axis=-2)

    @property
    def sequence_mask(self) -> Bool[Array, "*batch tokens"] | None:
        """The mask of `sequence`, true for the class token and the registers; `None` if all tokens count."""
        if self.mask is None:
            return None
        prefix = jnp.ones((*self.mask.shape[:-1], self.num_prefix), bool)
        return jnp.concatenate([prefix, self.mask], axis=-1)

    @property
    def patch_grid(self) -> Float[Array, "*batch rows cols dim"]:
        """The patch tokens as they lie in the image.

        **Raises:** `ValueError` if the tokens have `places`: some cells may be empty.
        """
        if self.places is not None:
            raise ValueError(
                "patch_grid needs a patch token in every cell of the grid, got tokens with places: use tokens.patches"
            )
        return self.patches.reshape(*self.patches.shape[:-2], *self.grid, self.dim)

    def take(self, indices: Int[Array, " kept"]) -> "Tokens":
        """A subset of the patch tokens, with the same class token and registers.

        **Arguments:**

        - `indices`: of the patch tokens to keep, counted from zero.

        **Returns:**

        `Tokens` that remember the `places` of the patches, so that positions and rotations stay right.

        **Raises:** `ValueError` if an index is out of range; inside `jax.jit` this is raised when the program runs.
        """
        number = self.patches.shape[0]
        message = f"indices must be at least 0 and less than the number of patch tokens, {number}"
        indices = check_all((indices >= 0) & (indices < number), indices, message)
        return Tokens(
            self.patches[indices],
            self.grid,
            class_token=self.class_token,
            registers=self.registers,
            places=indices if self.places is None else self.places[indices],
            mask=None if self.mask is None else self.mask[indices],
        )

    def at_places(self, table: Float[Array, "cells width"]) -> Float[Array, "patches width"]:
        """**Arguments:**

        - `table`: one row for each cell of the grid, row-major.

        **Returns:**

        The rows of the cells that the patch tokens stand in.
        """
        return table if self.places is None else table[self.places]

    def with_sequence(self, sequence: Float[Array, "*batch tokens dim"]) -> "Tokens":
        """These tokens with other values: the inverse of `sequence`.

        **Arguments:**

        - `sequence`: as many tokens as there are here, in the same order; the width may be another.

        **Returns:**

        `Tokens` with the same grid, places and mask.
        """
        return Tokens.from_sequence(
            sequence,
            self.grid,
            class_token=self.class_token is not None,
            num_registers=self.num_registers,
            places=self.places,
            mask=self.mask,
        )

    def map(
        self, function: Callable[[Float[Array, "*batch tokens dim"]], Float[Array, "*batch tokens dim"]]
    ) -> "Tokens":
        """Applies a function to all tokens.

        **Arguments:**

        - `function`: takes `sequence` and returns an array of as many tokens.

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
