"""What the parts pass to each other: `Tokens`."""

from collections.abc import Callable
from typing import Final, final

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ._check import check_all

_WRONG_PLACE: Final = "places must be at least 0 and less than the number of cells of the grid"


@final
class Tokens(eqx.Module):
    """The tokens of one image. Class token, registers and patches are separate arrays.

    If some patches are missing, `places` has the cell of the grid of each patch that is there. If some patches are
    padding, `mask` is false for them. Positions, attention and pools read both. The tokens of a `PatchedImage` have
    their grid in `own_grid`, as an array, so that one compiled program takes images of any shape.

    The properties also work on a batch of tokens, which `jax.vmap(model.backbone)(images)` returns.
    """

    patches: Float[Array, "*batch patches dim"]
    class_token: Float[Array, "*batch dim"] | None
    registers: Float[Array, "*batch registers dim"] | None
    places: Int[Array, "*batch patches"] | None
    mask: Bool[Array, "*batch patches"] | None
    own_grid: Int[Array, "*batch 2"] | None
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
        own_grid: Int[Array, "*batch 2"] | None = None,
    ):
        """**Arguments:**

        - `patches`: one token for each patch, row-major over the grid.
        - `grid`: rows and columns of patches in the whole image. With an `own_grid`, those of the image size of the
            model.
        - `class_token`: the class token; `None` for no class token.
        - `registers`: the registers; `None` for no registers.
        - `places`: for each patch token, the index of its cell in the row-major grid; `None` if each cell has one patch
            token, in order.
        - `mask`: true for each patch that counts, false for padding; `None` if all count.
        - `own_grid`: rows and columns of patches in this image, as an array; `None` if they are those of `grid`.

        **Raises:** `ValueError` if `registers` has no rows, or if there are neither `places` nor an `own_grid` and
        `grid` does not have one cell for each patch token.
        """
        if places is None and own_grid is None and grid[0] * grid[1] != patches.shape[-2]:
            raise ValueError(
                f"grid {grid} has {grid[0] * grid[1]} cells, got {patches.shape[-2]} patch tokens: pass the (rows, "
                "cols) that the patch tokens were flattened from, or pass places if some patches are missing"
            )
        if registers is not None and registers.shape[-2] == 0:
            raise ValueError(f"registers must have at least one row, got shape {registers.shape}: pass None for none")
        self.patches = patches
        self.class_token = class_token
        self.registers = registers
        self.places = places
        self.mask = mask
        self.own_grid = own_grid
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
        own_grid: Int[Array, "*batch 2"] | None = None,
    ) -> "Tokens":
        """Makes tokens from one array: the inverse of `sequence`.

        **Arguments:**

        - `sequence`: class token, registers and patches as one array.
        - `grid`: as for `Tokens`.
        - `class_token`: whether the first row is a class token.
        - `num_registers`: the number of registers after it.
        - `places`, `mask`, `own_grid`: as for `Tokens`.

        **Returns:**

        `Tokens` whose `sequence` is that array.

        **Raises:** what `Tokens` raises.
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
            own_grid=own_grid,
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
        """Class token and registers as one array, which has no rows if there are none."""
        return self.sequence[..., : self.num_prefix, :]

    @property
    def sequence(self) -> Float[Array, "*batch tokens dim"]:
        """Class token, registers and patches as one array, in this order. The encoder reads it."""
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
        """The patch tokens by row and column of the image.

        **Raises:** `ValueError` if the tokens have `places`, because some cells may be empty, or an `own_grid`, because
        the shape of an array cannot depend on data.
        """
        if self.own_grid is not None:
            raise ValueError(
                "patch_grid needs a grid that is the same for all images, got tokens with an own_grid: use "
                "tokens.patches and tokens.coordinates"
            )
        if self.places is not None:
            raise ValueError(
                "patch_grid needs a patch token in every cell of the grid, got tokens with places: use tokens.patches"
            )
        return self.patches.reshape(*self.patches.shape[:-2], *self.grid, self.dim)

    @property
    def coordinates(self) -> tuple[Int[Array, "*batch patches"], Int[Array, "*batch patches"]]:
        """The row and the column of each patch token, counted from zero. Padding has those of the last cell.

        **Raises:** `ValueError` if a place is not a cell of the grid. Inside `jax.jit` the error comes when the program
        runs.
        """
        shape = self.patches.shape[:-1]
        grid = jnp.asarray(self.grid) if self.own_grid is None else self.own_grid
        rows, cols = (jnp.broadcast_to(grid[..., axis, None], shape) for axis in range(2))
        if self.places is None:
            cells = jnp.broadcast_to(jnp.arange(shape[-1]), shape)
        else:
            counts = jnp.ones(shape, bool) if self.mask is None else self.mask
            inside = (self.places >= 0) & (self.places < rows * cols)
            cells = check_all(inside | ~counts, self.places, _WRONG_PLACE)
        cells = jnp.clip(cells, 0, rows * cols - 1)
        return cells // cols, cells % cols

    def take(self, indices: Int[Array | np.ndarray, " subset"]) -> "Tokens":
        """Selects some of the patch tokens. Class token and registers stay.

        **Arguments:**

        - `indices`: the indices of the patch tokens to keep, counted from zero.

        **Returns:**

        `Tokens` with the `places` of these patches, so that their positions stay correct.

        **Raises:** `ValueError` for a batch of tokens, or if an index is out of range. Inside `jax.jit` the error comes
        when the program runs.
        """
        if self.patches.ndim != 2:
            raise ValueError(
                f"take needs the tokens of one image, got patches of shape {self.patches.shape}: use "
                "jax.vmap(lambda tokens, indices: tokens.take(indices))"
            )
        indices = jnp.asarray(indices)
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
            own_grid=self.own_grid,
        )

    def at_places(self, table: Float[Array, "cells width"]) -> Float[Array, "patches width"]:
        """Picks the row of each patch token from a table with a row for each cell. Use it in a position of your own.

        **Arguments:**

        - `table`: one row for each cell of the grid, row-major.

        **Returns:**

        One row for each patch token: that of its cell.

        **Raises:** `ValueError` if a place is not a cell of the grid (inside `jax.jit` when the program runs), or for
        tokens with an `own_grid`.
        """
        if self.own_grid is not None:
            raise ValueError(
                "at_places needs tokens on the grid of the table, got tokens with an own_grid: compute the rows of the "
                "table from tokens.coordinates and tokens.own_grid"
            )
        if self.places is None:
            return table
        cells, places = table.shape[0], self.places
        return table[check_all((places >= 0) & (places < cells), places, f"{_WRONG_PLACE}, {cells}")]

    def with_sequence(self, sequence: Float[Array, "*batch tokens dim"]) -> "Tokens":
        """Replaces the values of the tokens: the inverse of `sequence`.

        **Arguments:**

        - `sequence`: the same number of tokens, in the same order. The width may differ.

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
            own_grid=self.own_grid,
        )

    def map(
        self, function: Callable[[Float[Array, "*batch tokens dim"]], Float[Array, "*batch tokens dim"]]
    ) -> "Tokens":
        """Applies a function to all tokens.

        **Arguments:**

        - `function`: takes `sequence` and returns an array with the same number of tokens.

        **Returns:**

        `Tokens` with the values that the function returns.
        """
        return self.with_sequence(function(self.sequence))
