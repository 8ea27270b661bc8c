"""The stacked blocks of an encoder: seen one by one, and run one after the other."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar, cast, final, overload

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped

from ..nn import REMAT_POLICIES, Edit, Execution, Intermediate, Tap, check_intermediates, gather_arrays, to_dtype
from ._block import Block

_Extra = TypeVar("_Extra")
Recorded = dict[Intermediate, Float[Array, "layers ..."]]
"""Intermediates by name, stacked over the blocks."""
Apply = Callable[
    [Block, Float[Array, "tokens dim"], _Extra, Float[Array, ""] | None, Tap, PRNGKeyArray | None],
    Float[Array, "tokens dim"],
]
"""Runs one block: on the tokens, with the block's own extra arrays, the rate of stochastic depth, a tap and a key."""
_Layer = tuple[Block, _Extra, Float[Array, ""] | None, Int[Array, ""] | None, PRNGKeyArray | None]
_Step = Callable[[Float[Array, "tokens dim"], _Layer[_Extra]], tuple[Float[Array, "tokens dim"], Recorded]]


@final
class Blocks:
    """Access to single blocks of an encoder, whose parameters are stacked: `model.blocks`.

    `blocks[3]` is the fourth block with a copy of its parameters. To change the parameters of the model use
    `eqx.tree_at` on `model.backbone.encoder.stack`.
    """

    def __init__(self, stack: Block):
        """**Arguments:**

        - `stack`: a `Block` whose arrays have a leading axis over depth.
        """
        self._stack = stack

    def __repr__(self) -> str:
        return f"<Blocks: {len(self)} of {self._stack.norm1.weight.shape[-1]} channels>"

    def __len__(self) -> int:
        return self._stack.norm1.weight.shape[0]

    @overload
    def __getitem__(self, index: int) -> Block: ...
    @overload
    def __getitem__(self, index: slice) -> list[Block]: ...
    def __getitem__(self, index: int | slice) -> Block | list[Block]:
        """Selects blocks.

        **Arguments:**

        - `index`: the index of a block, counted from zero, or from the end if negative; or a slice.

        **Returns:**

        The block; for a slice a list of blocks.

        **Raises:** `IndexError` if there is no such block.
        """
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"there is no block {index}: the encoder has {len(self)}, from 0 to {len(self) - 1}")

        return cast(Block, _take_block(self._stack, jnp.asarray(index % len(self))))

    def __iter__(self) -> Iterator[Block]:
        return (self[i] for i in range(len(self)))


@jax.jit  # one program for all arrays and every index, where indexing would compile one for each
def _take_block(stack: Block, index: Int[Array, ""]) -> Block:
    def take(leaf: Shaped[Array, "depth ..."]) -> Shaped[Array, "..."]:
        return cast(Array, jax.lax.dynamic_index_in_dim(leaf, index, keepdims=False))

    return cast(Block, jax.tree.map(take, stack))


def run_blocks(
    apply: Apply[_Extra],
    stack: Block,
    x: Float[Array, "tokens dim"],
    extra: _Extra,
    *,
    drop_path: float = 0.0,
    execution: Execution,
    at: Sequence[Intermediate] = (),
    layers: Sequence[int] | None = None,
    edit: Mapping[Intermediate, Edit] | None = None,
    key: PRNGKeyArray | None = None,
) -> tuple[Float[Array, "tokens dim"], Recorded]:
    """Runs the blocks one after the other.

    **Arguments:**

    - `apply`: runs one block.
    - `stack`: the blocks, stacked.
    - `x`: the tokens.
    - `extra`: arrays that `apply` wants for each block, stacked as the blocks are.
    - `drop_path`: the rate of stochastic depth in the last block; it grows linearly from zero in the first.
    - `execution`: how the loop is computed.
    - `at`: the names of the intermediates to record.
    - `layers`: the blocks to record them in; `None` for all. Blocks after the last of these do not run.
    - `edit`: functions that replace intermediates, by name.
    - `key`: for dropout and stochastic depth; `None` means inference.

    **Returns:**

    The tokens after the last block that ran, and the intermediates, stacked over `layers`.

    **Raises:** `IndexError` if there is no such block; `ValueError` for a name that no intermediate has.
    """
    edit = {} if edit is None else edit
    check_intermediates(at, edit)
    depth = len(Blocks(stack))
    rates = jnp.linspace(0.0, drop_path, depth) if drop_path else None
    numbers = jnp.arange(depth) if edit else None
    keys = None if key is None else jax.random.split(key, depth)
    picked = None if layers is None else [check_layer(layer, depth) for layer in layers]

    def run_block(x: Float[Array, "tokens dim"], layer: _Layer[_Extra]) -> tuple[Float[Array, "tokens dim"], Recorded]:
        block, extra, rate, number, key = layer
        tap = Tap(at, edit, number)
        block, extra = gather_arrays((to_dtype(block, x.dtype), extra))
        x = apply(block, x, extra, rate, tap, key)
        return x, tap.recorded

    # Without a policy, a loop keeps whatever its backward pass could use, most of it cheap to compute again: for Ti/16
    # at batch 8 that is 441 MiB instead of 194, and a training step takes 1.16 to 1.19 times as long (two CPU cores).
    policy = REMAT_POLICIES[execution.remat]
    step = cast(_Step[_Extra], jax.checkpoint(run_block, policy=policy, prevent_cse=not execution.scan))
    stacked = (stack, extra, rates, numbers, keys)
    if picked is not None:
        depth = max(picked, default=-1) + 1

        def take_first(leaf: Shaped[Array, "blocks ..."]) -> Shaped[Array, "depth ..."]:
            return leaf[:depth]

        stacked = jax.tree.map(take_first, stacked)
    unroll = 1 if execution.scan else max(depth, 1)
    x, recorded = jax.lax.scan(step, x, stacked, length=depth, unroll=unroll)
    if picked is None:
        return x, recorded
    return x, {name: recorded[name][jnp.asarray(picked, int)] for name in at}


def check_layer(layer: int, depth: int) -> int:
    """The number of a block counted from zero, or an `IndexError` if there is no such block."""
    if not -depth <= layer < depth:
        raise IndexError(f"layers must be in [-{depth}, {depth}), got {layer}: there are {depth} blocks")
    return layer % depth
