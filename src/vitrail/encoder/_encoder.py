"""The stack of blocks."""

from collections.abc import Callable, Iterator
from typing import Final, TypeVar, cast, final, overload

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from .._init import Init
from .._layers import GATHERED, PRODUCT, LayerNorm, dropout, split_key, to_dtype
from .._tokens import Rotation
from ._block import Block
from ._options import EncoderOptions, EncoderSize, WindowOptions
from ._window import RelativePosition, Surroundings

_Record = TypeVar("_Record")
_Place = tuple[Bool[Array, ""], Int[Array, ""]]
"""Whether a block looks at all tokens, and how many such blocks, or such as do not, came before it."""
_Layer = tuple[Block, Float[Array, ""] | None, PRNGKeyArray | None, _Place | None]
_KEPT: Final = {"products": (PRODUCT, GATHERED), "attention": (GATHERED,), "blocks": ()}
_Step = Callable[[Float[Array, "tokens dim"], _Layer], tuple[Float[Array, "tokens dim"], _Record]]


@final
class Blocks:
    """The blocks one by one: a view of stacked parameters for people.

    `blocks[3]` is the fourth block with its own parameters, sliced out of the stack; writing to it does not write
    to the stack, for which there is `eqx.tree_at` on `model.backbone.encoder.stack`.
    """

    def __init__(self, stack: Block):
        """**Arguments:**

        - `stack`: a `Block` whose every array has a leading axis over depth.
        """
        self._stack = stack

    def __len__(self) -> int:
        return self._stack.norm1.weight.shape[0]

    @overload
    def __getitem__(self, index: int) -> Block: ...
    @overload
    def __getitem__(self, index: slice) -> list[Block]: ...
    def __getitem__(self, index: int | slice) -> Block | list[Block]:
        """**Arguments:**

        - `index`: of the block from zero, from the end where it is negative; or a slice.

        **Returns:**

        The block, or a list of them.

        **Raises:** `IndexError` where there is no such block.
        """
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"there is no block {index}: the encoder has {len(self)}, from 0 to {len(self) - 1}")

        def take(leaf: Float[Array, "depth ..."]) -> Float[Array, "..."]:
            return leaf[index]

        return jax.tree.map(take, self._stack)

    def __iter__(self) -> Iterator[Block]:
        return (self[i] for i in range(len(self)))


@final
class Encoder(eqx.Module):
    """The blocks of a ViT, their parameters stacked: every array has a leading axis over depth.

    One layout serves a loop (`scan=True`), which compiles one block whatever the depth, and a straight line of blocks
    (`scan=False`), as well as sharding and rematerialisation.
    """

    pre_norm: LayerNorm | None
    stack: Block
    window_positions: RelativePosition | None
    global_positions: RelativePosition | None
    options: EncoderOptions = eqx.field(static=True)

    def __init__(self, size: EncoderSize, *, options: EncoderOptions, init: Init, key: PRNGKeyArray):
        """**Arguments:**

        - `size`: width, depth, heads and the MLP's width.
        - `options`: all the rest.
        - `init`: draws the weights.
        - `key`: for the weights.

        **Raises:** `ValueError` where the width does not divide into heads, or there is no such global block.
        """
        self.pre_norm = LayerNorm(size.dim, eps=options.norm_eps) if options.pre_norm else None

        def make_block(key: PRNGKeyArray) -> Block:
            return Block(size, options=options, init=init, key=key)

        self.stack = eqx.filter_vmap(make_block)(jax.random.split(key, size.depth))
        windows = options.windows
        self.window_positions = self.global_positions = None
        if windows is not None:
            check_blocks(windows.global_blocks, size.depth)
        if windows is not None and windows.relative_grid is not None:
            num_global, head_dim = len(windows.global_blocks), size.dim // size.num_heads
            side = windows.size, windows.size
            self.window_positions = _stacked(RelativePosition(side, head_dim), size.depth - num_global)
            self.global_positions = _stacked(RelativePosition(windows.relative_grid, head_dim), num_global)
        self.options = options

    @property
    def dim(self) -> int:
        """The width of a token."""
        return self.stack.norm1.weight.shape[-1]

    @property
    def blocks(self) -> Blocks:
        """The blocks one by one: `encoder.blocks[3]`, `len(encoder.blocks)`, a `for` loop."""
        return Blocks(self.stack)

    def __call__(
        self,
        x: Float[Array, "tokens dim"],
        *,
        mask: Bool[Array, " tokens"] | None = None,
        rotation: Rotation | None = None,
        grid: tuple[int, int] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "tokens dim"]:
        """**Arguments:**

        - `x`: the tokens, with their positions.
        - `mask`: true for each token that counts; `None` if all count. What the others hold, NaN included, changes
            nothing.
        - `rotation`: of queries and keys, if the position is rotary.
        - `grid`: rows and columns of the tokens, for an encoder with windows.
        - `key`: for dropout and stochastic depth; `None` means inference.

        **Returns:**

        The tokens after the last block, before the final norm. Rows where `mask` is false mean nothing.

        **Raises:** `ValueError` if the encoder has windows and gets a mask, a rotation, or tokens that do not fill the
        grid.
        """
        return self._run(x, mask, rotation, grid, key, lambda block, before, after: None)[0]

    def outputs(
        self,
        x: Float[Array, "tokens dim"],
        *,
        mask: Bool[Array, " tokens"] | None = None,
        rotation: Rotation | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Float[Array, "depth tokens dim"]:
        """**Arguments:** those of a call.

        **Returns:**

        The tokens after every block.
        """
        return self._run(x, mask, rotation, grid, None, lambda block, before, after: after)[1]

    def attention(
        self,
        x: Float[Array, "tokens dim"],
        *,
        mask: Bool[Array, " tokens"] | None = None,
        rotation: Rotation | None = None,
    ) -> Float[Array, "depth heads tokens tokens"]:
        """**Arguments:** those of a call.

        **Returns:**

        The attention weights of every block and head, in float32; rows (queries) sum to one.

        **Raises:** `ValueError` if the encoder has windows.
        """

        def weights(
            block: Block, before: Float[Array, "tokens dim"], after: Float[Array, "tokens dim"]
        ) -> Float[Array, "heads tokens tokens"]:
            return block.attention.weights(block.norm1(before), mask=mask, rotation=rotation)

        if self.options.windows is not None:
            raise ValueError(
                "attention cannot be shown for an encoder with windows, whose blocks do not look at all tokens: use "
                "model.backbone.features(image, layers=...)"
            )
        return self._run(x, mask, rotation, None, None, weights)[1]

    def _run(
        self,
        x: Float[Array, "tokens dim"],
        mask: Bool[Array, " tokens"] | None,
        rotation: Rotation | None,
        grid: tuple[int, int] | None,
        key: PRNGKeyArray | None,
        record: Callable[[Block, Float[Array, "tokens dim"], Float[Array, "tokens dim"]], _Record],
    ) -> tuple[Float[Array, "tokens dim"], _Record]:
        """Runs all blocks and keeps what `record` makes of each: of the block, its input and its output."""
        depth = len(self.blocks)
        places = self._places(x, mask, rotation, grid)
        dropout_key, blocks_key = split_key(key, 2)
        if mask is not None:  # zeros keep what a masked token holds out of the result and out of the gradient
            x = jnp.where(mask[:, None], x, jnp.zeros_like(x))
        x = dropout(x, self.options.dropout, key=dropout_key)
        if self.pre_norm is not None:
            x = self.pre_norm(x)
        rates = jnp.linspace(0.0, self.options.drop_path, depth) if self.options.drop_path else None
        keys = None if blocks_key is None else jax.random.split(blocks_key, depth)

        def run_block(x: Float[Array, "tokens dim"], layer: _Layer) -> tuple[Float[Array, "tokens dim"], _Record]:
            stacked, rate, key, place = layer
            block = to_dtype(stacked, x.dtype)

            def within(surroundings: Surroundings | None) -> Float[Array, "tokens dim"]:
                return block(x, mask=mask, rotation=rotation, surroundings=surroundings, drop_path_rate=rate, key=key)

            after = within(None) if place is None or grid is None else self._look(x.dtype, grid, place, within)
            return after, record(block, x, after)

        # Left alone, a loop keeps whatever its backward pass could use, most of it cheap to compute again: for Ti/16 at
        # batch 8 that is 441 MiB instead of 194, and a training step takes 1.16 to 1.19 times as long (two CPU cores).
        policy = jax.checkpoint_policies.save_only_these_names(*_KEPT[self.options.remat])
        step = cast(_Step[_Record], jax.checkpoint(run_block, policy=policy, prevent_cse=not self.options.scan))
        return jax.lax.scan(step, x, (self.stack, rates, keys, places), unroll=1 if self.options.scan else depth)

    def _places(
        self,
        x: Float[Array, "tokens dim"],
        mask: Bool[Array, " tokens"] | None,
        rotation: Rotation | None,
        grid: tuple[int, int] | None,
    ) -> tuple[Bool[Array, " depth"], Int[Array, " depth"]] | None:
        """For each block, whether it looks at all tokens, and its number among its like; `None` without windows."""
        windows = self.options.windows
        if windows is None:
            return None
        if grid is None or grid[0] * grid[1] != x.shape[0]:
            raise ValueError(
                f"windows need one token for each cell of the grid, got {x.shape[0]} tokens on the grid {grid}: use a "
                "pool that needs no class token, num_registers=0, and all patches"
            )
        if mask is not None or rotation is not None:
            raise ValueError(
                f"windows take neither a mask nor a rotary position, got {'a rotation' if mask is None else 'a mask'}: "
                "use all patches, and another position or the windows' own (relative_grid)"
            )
        is_global = np.isin(np.arange(len(self.blocks)), windows.global_blocks)
        return jnp.asarray(is_global), jnp.asarray(np.where(is_global, np.cumsum(is_global), np.cumsum(~is_global)) - 1)

    def _look(
        self,
        dtype: jnp.dtype,
        grid: tuple[int, int],
        place: _Place,
        within: Callable[[Surroundings], Float[Array, "tokens dim"]],
    ) -> Float[Array, "tokens dim"]:
        """Runs a block on all tokens or within windows. One loop has both, so that each is compiled once."""
        is_global, number = place

        def pick(leaf: Float[Array, "blocks ..."]) -> Float[Array, "..."]:
            return leaf[number]

        def take(positions: RelativePosition | None) -> RelativePosition | None:
            return to_dtype(jax.tree.map(pick, positions), dtype)

        def run(window: int | None, positions: RelativePosition | None) -> Callable[[], Float[Array, "tokens dim"]]:
            return lambda: within(Surroundings(grid, window, take(positions)))

        windows = cast(WindowOptions, self.options.windows)
        everywhere, inside = run(None, self.global_positions), run(windows.size, self.window_positions)
        if not windows.global_blocks:
            return inside()
        if len(windows.global_blocks) == len(self.blocks):
            return everywhere()
        return cast(Array, jax.lax.cond(is_global, everywhere, inside))


def _stacked(part: RelativePosition, number: int) -> RelativePosition:
    """So many of a part in one, their arrays with a leading axis."""

    def repeat(leaf: Float[Array, "..."]) -> Float[Array, "number ..."]:
        return jnp.broadcast_to(leaf, (number, *leaf.shape))

    return cast(RelativePosition, jax.tree.map(repeat, part))


def check_blocks(global_blocks: tuple[int, ...], depth: int) -> None:
    """Raises a `ValueError` where one of the blocks is not there, or comes twice."""
    if len(set(global_blocks)) < len(global_blocks) or not all(0 <= block < depth for block in global_blocks):
        raise ValueError(
            f"global_blocks must be blocks from 0 to {depth - 1}, each once, but {global_blocks} came: count from zero"
        )
