"""SAM's encoder: attention within windows, and positions relative to the query."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import cast, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from .._check import join_names
from ..nn import (
    WITHIN_ATTENTION,
    Attention,
    Dropout,
    Edit,
    Execution,
    InAttention,
    Init,
    Intermediate,
    Norm,
    Tap,
    drop_elements,
    make_norm,
    split_key,
    to_dtype,
    to_jax,
)
from ._block import Block
from ._blocks import Blocks, Recorded, run_blocks
from ._encoder import make_stack
from ._options import EncoderOptions, EncoderSize, WindowOptions
from ._relative import RelativePosition

_Role = tuple[Bool[Array, ""], Int[Array, ""]]
"""Whether a block looks at all tokens, and its number among the blocks that do, or that do not."""


@final
class WindowedEncoder(eqx.Module):
    """An encoder with attention within square windows of the image. In a few blocks the attention reads all tokens.

    It takes one token for each cell of its grid, in order, and no other tokens. Its attention may have relative
    positions.

    ??? cite

        Li et al., *Exploring Plain Vision Transformer Backbones for Object Detection*, ECCV 2022, arXiv:2203.16527;
        Kirillov et al., *Segment Anything*, ICCV 2023, arXiv:2304.02643, and its `image_encoder.py`.
    """

    pre_norm: Norm | None
    stack: Block
    window_positions: RelativePosition | None
    global_positions: RelativePosition | None
    options: EncoderOptions = eqx.field(static=True)
    windows: WindowOptions = eqx.field(static=True)
    grid: tuple[int, int] = eqx.field(static=True)
    depth: int = eqx.field(static=True, init=False)  # also where an optimiser hides the arrays of the stack

    def __init__(
        self,
        *,
        pre_norm: Norm | None,
        stack: Block,
        window_positions: RelativePosition | None,
        global_positions: RelativePosition | None,
        options: EncoderOptions,
        windows: WindowOptions,
        grid: tuple[int, int],
    ):
        """**Arguments:**

        - `pre_norm`: the norm before the first block; `None` for none.
        - `stack`: the blocks, with a leading axis over depth in each array.
        - `window_positions`, `global_positions`: the relative positions of the blocks with windows and of those
            without, stacked over these blocks; `None` for none.
        - `options`: as in `Encoder`.
        - `windows`: the size of the windows, and the blocks without windows.
        - `grid`: rows and columns of patches.
        """
        self.pre_norm = pre_norm
        self.stack = stack
        self.window_positions = window_positions
        self.global_positions = global_positions
        self.options = options
        self.windows = windows
        self.grid = grid
        self.depth = len(self.blocks)

    def list_stacks(self) -> dict[str, tuple[int, ...]]:
        """The numbers of the blocks along the first axis of each field that is a stack."""
        blocks = tuple(range(self.depth))
        everywhere = set(self.windows.global_blocks)
        return {
            "stack": blocks,
            "window_positions": tuple(block for block in blocks if block not in everywhere),
            "global_positions": tuple(block for block in blocks if block in everywhere),
        }

    @property
    def dim(self) -> int:
        """The width of a token."""
        return self.stack.norm1.weight.shape[-1]

    @property
    def blocks(self) -> Blocks:
        """The blocks one by one: `encoder.blocks[3]`, `len(encoder.blocks)`, a `for` loop."""
        return Blocks(self.stack)

    def resized(self, grid: tuple[int, int]) -> "WindowedEncoder":
        """Changes the grid.

        **Arguments:**

        - `grid`: the new rows and columns of patches.

        **Returns:**

        The encoder for that grid, with the same arrays. Relative positions are interpolated in each call.
        """
        return dataclasses.replace(self, grid=grid)

    def __call__(
        self,
        x: Float[Array, "tokens dim"],
        *,
        mask: Bool[Array, " tokens"] | None = None,
        position: InAttention | None = None,
        execution: Execution = Execution(),
        dropout: Dropout = Dropout(),
        edit: Mapping[Intermediate, Edit] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "tokens dim"]:
        """**Arguments:**

        - `x`: the tokens, with their positions, row-major over the grid.
        - `mask`, `position`: must be `None`: windows need all tokens, and have positions of their own.
        - `execution`, `dropout`, `edit`, `key`: as in `Encoder`.

        **Returns:**

        The tokens after the last block, before the final norm.

        **Raises:** `ValueError` if the tokens do not fill the grid, if there is a mask or a position that acts within
        attention, or for an edit within the attention.
        """
        return self._run(x, mask, position, execution, dropout, (), None, edit, key)[0]

    def activations(
        self,
        x: Float[Array, "tokens dim"],
        *,
        at: Sequence[Intermediate],
        layers: Sequence[int] | None = None,
        mask: Bool[Array, " tokens"] | None = None,
        position: InAttention | None = None,
        execution: Execution = Execution(),
        dropout: Dropout = Dropout(),
        edit: Mapping[Intermediate, Edit] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Recorded:
        """**Arguments:** those of `Encoder.activations`.

        **Returns:**

        The intermediates by name, stacked over `layers`.

        **Raises:** what `__call__` raises; `ValueError` for an intermediate within the attention, which has another
        shape in each kind of block.
        """
        return self._run(x, mask, position, execution, dropout, at, layers, edit, key)[1]

    def _run(
        self,
        x: Float[Array, "tokens dim"],
        mask: Bool[Array, " tokens"] | None,
        position: InAttention | None,
        execution: Execution,
        dropout: Dropout,
        at: Sequence[Intermediate],
        layers: Sequence[int] | None,
        edit: Mapping[Intermediate, Edit] | None,
        key: PRNGKeyArray | None,
    ) -> tuple[Float[Array, "tokens dim"], Recorded]:
        self._check(x, mask, position, [*at, *(edit or {})])
        dropout_key, blocks_key = split_key(key, 2)
        x = drop_elements(x, dropout.rate, key=dropout_key)
        if self.pre_norm is not None:
            x = self.pre_norm(x)

        def apply(
            block: Block,
            x: Float[Array, "tokens dim"],
            role: _Role,
            rate: Float[Array, ""] | None,
            tap: Tap,
            key: PRNGKeyArray | None,
        ) -> Float[Array, "tokens dim"]:
            attended = self._attend(block.attention, block.start(x), role, execution)
            return block.finish(x, attended, dropout_rate=dropout.rate, drop_path_rate=rate, tap=tap, key=key)

        return run_blocks(
            apply,
            self.stack,
            x,
            self._number_blocks(),
            drop_path=dropout.drop_path,
            execution=execution,
            at=at,
            layers=layers,
            edit=edit,
            key=blocks_key,
        )

    def _check(
        self,
        x: Float[Array, "tokens dim"],
        mask: Bool[Array, " tokens"] | None,
        position: InAttention | None,
        names: list[Intermediate],
    ) -> None:
        if self.grid[0] * self.grid[1] != x.shape[0]:
            raise ValueError(
                f"windows need one token for each cell of the grid {self.grid}, got {x.shape[0]} tokens: use a pool "
                "that needs no class token, num_registers=0, and all patches"
            )
        if mask is not None or position is not None:
            raise ValueError(
                "windows take neither a mask nor a position that acts within attention, got "
                f"{type(position).__name__ if mask is None else 'a mask'}: "
                "use all patches, and another position or the windows' own (relative_grid)"
            )
        if within := [name for name in names if name in WITHIN_ATTENTION]:
            raise ValueError(
                f"an encoder with windows cannot show or edit {join_names(within)}, which have another shape in a "
                "block with windows than in one without: use 'tokens' or 'attention_branch'"
            )

    def _number_blocks(self) -> tuple[Bool[Array, " depth"], Int[Array, " depth"]]:
        """For each block, whether it looks at all tokens, and its number among the blocks that do, or that do not."""
        is_global = np.isin(np.arange(len(self.blocks)), self.windows.global_blocks)
        number = np.where(is_global, np.cumsum(is_global), np.cumsum(~is_global)) - 1
        return jnp.asarray(is_global), jnp.asarray(number)

    def _attend(
        self, attention: Attention, x: Float[Array, "tokens dim"], role: _Role, execution: Execution
    ) -> Float[Array, "tokens dim"]:
        """Attention to all tokens, or within windows. One loop over the blocks has both, so that each is compiled
        once."""
        is_global, number = role

        def pick(positions: RelativePosition | None) -> RelativePosition | None:
            def take(leaf: Float[Array, "blocks ..."]) -> Float[Array, "..."]:
                return leaf[number]

            return to_dtype(jax.tree.map(take, to_jax(positions)), x.dtype)

        def attend(
            x: Float[Array, "tokens dim"], positions: RelativePosition | None, grid: tuple[int, int]
        ) -> Float[Array, "tokens dim"]:
            bias = None if positions is None else functools.partial(positions, grid=grid)
            return attention(x, bias=bias, strategy=execution.attention)

        def attend_everywhere() -> Float[Array, "tokens dim"]:
            return attend(x, pick(self.global_positions), self.grid)

        def attend_in_windows() -> Float[Array, "tokens dim"]:
            size, positions = self.windows.size, pick(self.window_positions)

            def attend_in_window(window: Float[Array, "tokens dim"]) -> Float[Array, "tokens dim"]:
                return attend(window, positions, (size, size))

            return from_windows(jax.vmap(attend_in_window)(to_windows(x, self.grid, size)), self.grid, size)

        if not self.windows.global_blocks:
            return attend_in_windows()
        if len(self.windows.global_blocks) == len(self.blocks):
            return attend_everywhere()
        return cast(Array, jax.lax.cond(is_global, attend_everywhere, attend_in_windows))


def make_windowed_encoder(
    size: EncoderSize,
    *,
    options: EncoderOptions,
    windows: WindowOptions,
    grid: tuple[int, int],
    init: Init,
    key: PRNGKeyArray,
) -> WindowedEncoder:
    """A windowed encoder with fresh weights; relative positions start at zero.

    **Raises:** `ValueError` if the width does not divide into heads, or there is no such global block.
    """
    check_blocks(windows.global_blocks, size.depth)
    window_positions = global_positions = None
    if windows.relative_grid is not None:
        num_global, head_dim = len(windows.global_blocks), size.dim // size.num_heads
        side = windows.size, windows.size
        window_positions = _stack_positions(RelativePosition(side, head_dim), size.depth - num_global)
        global_positions = _stack_positions(RelativePosition(windows.relative_grid, head_dim), num_global)
    return WindowedEncoder(
        pre_norm=make_norm(options.norm, size.dim, eps=options.norm_eps) if options.pre_norm else None,
        stack=make_stack(size, options=options, init=init, key=key),
        window_positions=window_positions,
        global_positions=global_positions,
        options=options,
        windows=windows,
        grid=grid,
    )


def to_windows(
    x: Float[Array, "tokens dim"], grid: tuple[int, int], size: int
) -> Float[Array, "windows window_tokens dim"]:
    """The tokens window by window. Windows that reach beyond the grid are filled up with zeros."""
    rows, cols = (-(-n // size) for n in grid)
    padding = ((0, rows * size - grid[0]), (0, cols * size - grid[1]), (0, 0))
    padded = jnp.pad(x.reshape(*grid, -1), padding)
    return padded.reshape(rows, size, cols, size, -1).transpose(0, 2, 1, 3, 4).reshape(rows * cols, size * size, -1)


def from_windows(
    windows: Float[Array, "windows window_tokens dim"], grid: tuple[int, int], size: int
) -> Float[Array, "tokens dim"]:
    """The inverse of `to_windows`: what the filling gave is left out."""
    rows, cols = (-(-n // size) for n in grid)
    laid = windows.reshape(rows, cols, size, size, -1).transpose(0, 2, 1, 3, 4).reshape(rows * size, cols * size, -1)
    return laid[: grid[0], : grid[1]].reshape(grid[0] * grid[1], -1)


def _stack_positions(positions: RelativePosition, number: int) -> RelativePosition | None:
    """The same positions `number` times, stacked; `None` for none."""
    if number == 0:
        return None

    def repeat(leaf: Float[Array, "..."]) -> Float[Array, "number ..."]:
        return jnp.broadcast_to(leaf, (number, *leaf.shape))

    return jax.tree.map(repeat, positions)


def check_blocks(global_blocks: tuple[int, ...], depth: int) -> None:
    """Raises a `ValueError` if one of the blocks does not exist, or is given twice."""
    if len(set(global_blocks)) < len(global_blocks) or not all(0 <= block < depth for block in global_blocks):
        raise ValueError(
            f"global_blocks must be different blocks from 0 to {depth - 1}, got {global_blocks}: count from zero"
        )
