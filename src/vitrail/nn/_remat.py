"""What a training step keeps of the forward pass for its backward pass."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, Literal, cast

import jax
import jax.ad_checkpoint
from jaxtyping import Array, Float

PRODUCT: Final = "product"
"""The name of the results of matrix products, and of the tokens between the two branches of a block."""
ATTENDED: Final = "attended"
"""The name of what attention returns before its projection."""

Remat = Literal["products", "attention", "blocks"]
"""The names of the policies in `REMAT_POLICIES`."""

_keep_only = jax.checkpoint_policies.save_only_these_names

REMAT_POLICIES: Final[Mapping[Remat, Callable[..., Any]]] = MappingProxyType(
    {"products": _keep_only(PRODUCT, ATTENDED), "attention": _keep_only(ATTENDED), "blocks": _keep_only()}
)
"""What each policy keeps of a block for the backward pass, which computes the rest again."""


def checkpoint_name(x: Float[Array, "*shape"], name: str) -> Float[Array, "*shape"]:
    """Gives an array the name that the policies know it by; its values do not change."""
    return cast(Array, jax.ad_checkpoint.checkpoint_name(x, name))


def prevent_fusion(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Keeps XLA from fusing the computation of an array with what uses it; its values do not change.

    XLA's CPU backend fuses the norm of many tokens into the product that follows, which is then a third slower: without
    this a forward pass of S/16 at batch 32 takes 1.11 times as long, a training step 1.04 times (two CPU cores); at
    batch 8 and below it changes nothing.
    """
    return cast(Array, jax.lax.optimization_barrier(x))
