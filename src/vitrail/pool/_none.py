"""The pool `none`."""

import dataclasses
from typing import ClassVar, final

import equinox as eqx
from jaxtyping import Array, Float, PRNGKeyArray

from .._tokens import Tokens
from ._base import AbstractPool
from ._read import read_patches


@final
class NoPool(AbstractPool):
    """All tokens, prefix first, for dense tasks. The head then acts on each token.

    Use it for segmentation, for detection, or to pool elsewhere. A patch that does not count gives zeros. It needs no
    class token and has no parameters; its rows follow the order of the patches.
    """

    out_dim: int = eqx.field(static=True)
    needs_class_token: ClassVar[bool] = False
    order_invariant: ClassVar[bool] = False

    def __init__(self, dim: int):
        self.out_dim = dim

    def __call__(self, tokens: Tokens, *, key: PRNGKeyArray | None = None) -> Float[Array, "tokens {self.out_dim}"]:
        patches, _ = read_patches(tokens)
        return dataclasses.replace(tokens, patches=patches).sequence
