"""The stack of blocks."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar, cast, final, overload

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from .._init import Init
from .._layers import GATHERED, PRODUCT, LayerNorm, dropout, split_key, to_dtype
from .._tokens import Rotation, Tokens
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
class Blocks(Sequence[Block]):
    """The blocks one by one: a view of stacked parameters for people.

    `blocks[3]` is the fourth block with its own parameters, sliced out of the stack; writing to it does not write
    to the stack, for which there is `eqx.tree_at` on `model.encoder.stack`.
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
    def blocks(self) -> Blocks:
        """The blocks one by one: `encoder.blocks[3]`, `len(encoder.blocks)`, a `for` loop."""
        return Blocks(self.stack)

    def __call__(self, tokens: Tokens, *, rotation: Rotation | None = None, key: PRNGKeyArray | None = None) -> Tokens:
        """**Arguments:**

        - `tokens`: with their positions.
        - `rotation`: of queries and keys, where the position is rotary.
        - `key`: for dropout and stochastic depth; `None` means inference.

        **Returns:**

        The tokens after the last block, before the final norm.
        """
        sequence, _ = self._run(tokens, rotation, key, lambda block, before, after: None)
        return tokens.with_sequence(sequence)

    def outputs(self, tokens: Tokens, *, rotation: Rotation | None = None) -> Float[Array, "depth tokens dim"]:
        """**Arguments:**

        - `tokens`: with their positions.
        - `rotation`: of queries and keys, where the position is rotary.

        **Returns:**

        The tokens after every block, prefix first.
        """
        _, outputs = self._run(tokens, rotation, None, lambda block, before, after: after)
        return outputs

    def attention(
        self, tokens: Tokens, *, rotation: Rotation | None = None
    ) -> Float[Array, "depth heads tokens tokens"]:
        """**Arguments:**

        - `tokens`: with their positions.
        - `rotation`: of queries and keys, where the position is rotary.

        **Returns:**

        The attention weights of every block and head, rows (queries) summing to one, prefix first.

        **Raises:** `ValueError` where the encoder has windows.
        """

        def weights(
            block: Block, before: Float[Array, "tokens dim"], after: Float[Array, "tokens dim"]
        ) -> Float[Array, "heads tokens tokens"]:
            return block.attention.weights(block.norm1(before), rotation=rotation)

        if self.options.windows is not None:
            raise ValueError(
                "attention cannot be shown for an encoder with windows, whose blocks do not look at all tokens: take "
                "model.features(image, layers=...) for what they give"
            )
        return self._run(tokens, rotation, None, weights)[1]

    def _run(
        self,
        tokens: Tokens,
        rotation: Rotation | None,
        key: PRNGKeyArray | None,
        record: Callable[[Block, Float[Array, "tokens dim"], Float[Array, "tokens dim"]], _Record],
    ) -> tuple[Float[Array, "tokens dim"], _Record]:
        """Runs all blocks and keeps what `record` makes of each: of the block, its input and its output."""
        depth = len(self.blocks)
        dropout_key, blocks_key = split_key(key, 2)
        x = dropout(tokens.sequence, self.options.dropout, key=dropout_key)
        if self.pre_norm is not None:
            x = self.pre_norm(x)
        rates = jnp.linspace(0.0, self.options.drop_path, depth) if self.options.drop_path else None
        keys = None if blocks_key is None else jax.random.split(blocks_key, depth)

        def run_block(x: Float[Array, "tokens dim"], layer: _Layer) -> tuple[Float[Array, "tokens dim"], _Record]:
            stacked, rate, key, place = layer
            block = to_dtype(stacked, x.dtype)

            def within(surroundings: Surroundings | None) -> Float[Array, "tokens dim"]:
                return block(x, rotation=rotation, surroundings=surroundings, drop_path_rate=rate, key=key)

            after = within(None) if place is None else self._look(tokens, place, within)
            return after, record(block, x, after)

        # Left alone, a loop keeps whatever its backward pass could use, most of it cheap to compute again: for Ti/16 at
        # batch 8 that is 441 MiB instead of 194, and a training step takes 1.16 to 1.19 times as long (two CPU cores).
        policy = jax.checkpoint_policies.save_only_these_names(*_KEPT[self.options.remat])
        step = cast(_Step[_Record], jax.checkpoint(run_block, policy=policy, prevent_cse=not self.options.scan))
        return jax.lax.scan(
            step, x, (self.stack, rates, keys, self._places(tokens, rotation)), unroll=1 if self.options.scan else depth
        )

    def _places(
        self, tokens: Tokens, rotation: Rotation | None
    ) -> tuple[Bool[Array, " depth"], Int[Array, " depth"]] | None:
        """For each block, whether it looks at all tokens, and its number among its like; `None` without windows."""
        windows = self.options.windows
        if windows is None:
            return None
        if tokens.num_prefix:
            raise ValueError(
                f"tokens must have no prefix before windows, but {tokens.num_prefix} prefix tokens came: take a pool "
                "that needs no class token, and num_registers=0"
            )
        if rotation is not None:
            raise ValueError(
                "position must not be rotary before windows, but a rotation of queries and keys came: take another "
                "position, or the windows' own with relative_grid"
            )
        is_global = np.isin(np.arange(len(self.blocks)), windows.global_blocks)
        return jnp.asarray(is_global), jnp.asarray(np.where(is_global, np.cumsum(is_global), np.cumsum(~is_global)) - 1)

    def _look(
        self, tokens: Tokens, place: _Place, within: Callable[[Surroundings], Float[Array, "tokens dim"]]
    ) -> Float[Array, "tokens dim"]:
        """Runs a block on all tokens or within windows. One loop has both, so that each is compiled once."""
        is_global, number = place

        def pick(leaf: Float[Array, "blocks ..."]) -> Float[Array, "..."]:
            return leaf[number]

        def take(positions: RelativePosition | None) -> RelativePosition | None:
            return to_dtype(jax.tree.map(pick, positions), tokens.patches.dtype)

        def run(window: int | None, positions: RelativePosition | None) -> Callable[[], Float[Array, "tokens dim"]]:
            return lambda: within(Surroundings(tokens.grid, window, take(positions)))

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
