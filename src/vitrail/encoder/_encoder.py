"""The encoder: a stack of blocks."""

from collections.abc import Mapping, Sequence
from typing import final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from ..nn import (
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
    split_blocks,
    split_key,
)
from ._block import Block
from ._blocks import Blocks, Recorded, run_blocks
from ._options import EncoderOptions, EncoderSize


@final
class Encoder(eqx.Module):
    """The blocks of a Transformer. Their parameters are stacked: every array has a leading axis over depth.

    It takes any sequence of tokens. [`Execution.scan`][vitrail.Execution] selects whether the blocks run in a loop, of
    which one block is compiled, or one after the other.
    """

    pre_norm: Norm | None
    stack: Block
    options: EncoderOptions = eqx.field(static=True)
    depth: int = eqx.field(static=True)  # also where an optimiser hides the arrays of the stack

    def __init__(self, size: EncoderSize, *, options: EncoderOptions, init: Init, key: PRNGKeyArray):
        """**Arguments:**

        - `size`: width, depth, heads and the MLP's width.
        - `options`: biases, norms, activation and scales.
        - `init`: draws the weights.
        - `key`: the random key of the weights.

        **Raises:** `ValueError` if the width does not divide into heads.
        """
        self.pre_norm = make_norm(options.norm, size.dim, eps=options.norm_eps) if options.pre_norm else None
        self.stack = make_stack(size, options=options, init=init, key=key)
        self.options = options
        self.depth = size.depth

    def list_stacks(self) -> dict[str, tuple[int, ...]]:
        """The numbers of the blocks along the first axis of each field that is a stack."""
        return {"stack": tuple(range(self.depth))}

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
        mask: Bool[Array, " tokens"] | Bool[Array, "tokens tokens"] | None = None,
        position: InAttention | None = None,
        execution: Execution = Execution(),
        dropout: Dropout = Dropout(),
        edit: Mapping[Intermediate, Edit] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "tokens dim"]:
        """Applies the blocks.

        **Arguments:**

        - `x`: the tokens, with their positions.
        - `mask`: true for each token that counts, `(tokens,)`. The values of the other tokens, NaN included, have no
            effect. Or true for each pair of a query (row) and a key (column) that counts, `(tokens, tokens)`, such as a
            causal mask. `None` if all count.
        - `position`: a rotation of queries and keys, or a bias of their scores, for all blocks or for each block.
        - `execution`: how the blocks are computed. The dtype is that of `x`, whatever `compute_dtype` is.
        - `dropout`: what is dropped in training.
        - `edit`: functions that replace intermediates, by name, as for [`Backbone`][vitrail.Backbone.__call__].
        - `key`: for dropout and stochastic depth; `None` means inference.

        **Returns:**

        The tokens after the last block, before the final norm. Ignore the rows where `mask` is false.
        """
        return self._run(x, mask, position, execution, dropout, (), None, edit, key)[0]

    def activations(
        self,
        x: Float[Array, "tokens dim"],
        *,
        at: Sequence[Intermediate],
        layers: Sequence[int] | None = None,
        mask: Bool[Array, " tokens"] | Bool[Array, "tokens tokens"] | None = None,
        position: InAttention | None = None,
        execution: Execution = Execution(),
        dropout: Dropout = Dropout(),
        edit: Mapping[Intermediate, Edit] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Recorded:
        """Returns intermediates of the blocks.

        **Arguments:**

        - `x`: the tokens, as for `__call__`.
        - `at`: the names of the intermediates: see [`INTERMEDIATES`][vitrail.INTERMEDIATES].
        - `layers`: the blocks, counted from zero, or from the end if negative; `None` for all.
        - `mask`, `position`, `execution`, `dropout`, `edit`, `key`: as for `__call__`.

        **Returns:**

        The intermediates by name. Each array has a leading axis over `layers`.

        **Raises:** `IndexError` if there is no such block; `ValueError` for an unknown name.
        """
        return self._run(x, mask, position, execution, dropout, at, layers, edit, key)[1]

    def _run(
        self,
        x: Float[Array, "tokens dim"],
        mask: Bool[Array, " tokens"] | Bool[Array, "tokens tokens"] | None,
        position: InAttention | None,
        execution: Execution,
        dropout: Dropout,
        at: Sequence[Intermediate],
        layers: Sequence[int] | None,
        edit: Mapping[Intermediate, Edit] | None,
        key: PRNGKeyArray | None,
    ) -> tuple[Float[Array, "tokens dim"], Recorded]:
        dropout_key, blocks_key = split_key(key, 2)
        of_each, of_all = split_blocks(position)
        if mask is not None and mask.ndim == 1:  # zeros keep what a masked token holds out of the gradient, too
            x = jnp.where(mask[:, None], x, jnp.zeros_like(x))
        x = drop_elements(x, dropout.rate, key=dropout_key)
        if self.pre_norm is not None:
            x = self.pre_norm(x)

        def apply(
            block: Block,
            x: Float[Array, "tokens dim"],
            own: InAttention | None,
            rate: Float[Array, ""] | None,
            tap: Tap,
            key: PRNGKeyArray | None,
        ) -> Float[Array, "tokens dim"]:
            return block(
                x,
                mask=mask,
                position=eqx.combine(own, of_all),
                strategy=execution.attention,
                dropout_rate=dropout.rate,
                drop_path_rate=rate,
                tap=tap,
                key=key,
            )

        return run_blocks(
            apply,
            self.stack,
            x,
            of_each,
            drop_path=dropout.drop_path,
            execution=execution,
            at=at,
            layers=layers,
            edit=edit,
            key=blocks_key,
        )


def make_stack(size: EncoderSize, *, options: EncoderOptions, init: Init, key: PRNGKeyArray) -> Block:
    """Fresh blocks, stacked."""

    def make_block(key: PRNGKeyArray) -> Block:
        return Block(size, options=options, init=init, key=key)

    return eqx.filter_vmap(make_block)(jax.random.split(key, size.depth))
