"""DPT's reassembling of tokens into maps."""

from typing import Literal, final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._check import check_above_zero
from ..nn import ACTIVATIONS, ActivationName, Conv, Init, Linear, Upscale, split_key
from ._base import check_class_token

ClassTokenUse = Literal["ignore", "add", "project"]
"""What DPT does with the class token."""


@final
class Reassemble(eqx.Module):
    """Makes a map of the tokens of one block: reads the class token, changes the width, and resizes (Ranftl et al.,
    section 3)."""

    read: Linear | None
    project: Linear
    resize: Upscale | Conv | None
    refine: Conv
    class_token: ClassTokenUse = eqx.field(static=True)
    activation: ActivationName = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        width: int,
        out_dim: int,
        *,
        scale: float,
        class_token: ClassTokenUse,
        activation: ActivationName,
        init: Init,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `dim`: the width of a token.
        - `width`: the number of channels in between.
        - `out_dim`: the number of channels of the map.
        - `scale`: how many cells a side a patch gets, or the reciprocal of how many patches a side a cell gets.
        - `class_token`: whether it is ignored, added to each patch token, or projected together with it.
        - `activation`: what follows that projection.
        - `init`: draws the weights.
        - `key`: the random key of the weights.
        """
        read_key, project_key, resize_key, refine_key = split_key(key, 4)
        projects = class_token == "project"
        self.read = Linear(2 * dim, dim, weight_init=init.mlp, key=read_key) if projects else None
        self.project = Linear(dim, width, weight_init=init.mlp, key=project_key)
        self.resize = _make_resize(width, scale, init, key=resize_key)
        self.refine = Conv(width, out_dim, bias=False, weight_init=init.mlp, key=refine_key)
        self.class_token = class_token
        self.activation = activation

    def __call__(
        self, x: Float[Array, "rows cols dim"], class_token: Float[Array, " dim"] | None
    ) -> Float[Array, "height width out_dim"]:
        """**Arguments:**

        - `x`: the patch tokens.
        - `class_token`: of the same block; `None` if there is none.

        **Returns:**

        The map.
        """
        if self.class_token != "ignore":
            check_class_token(f"class_token={self.class_token!r}", class_token is not None)
            assert class_token is not None
            everywhere = jnp.broadcast_to(class_token, x.shape)
            if self.read is None:
                x = x + everywhere
            else:
                x = ACTIVATIONS[self.activation](self.read(jnp.concatenate([x, everywhere], axis=-1)))
        x = self.project(x)
        return self.refine(x if self.resize is None else self.resize(x))


def _make_resize(width: int, scale: float, init: Init, *, key: PRNGKeyArray) -> Upscale | Conv | None:
    """What resizes a map by a whole number or the reciprocal of one."""
    check_above_zero(scales=scale)
    if scale == 1:
        return None
    whole = scale if scale > 1 else 1 / scale
    if whole != round(whole):
        raise ValueError(f"scales must be whole numbers or reciprocals of them, got {scale}: DPT has 4, 2, 1 and 0.5")
    if scale > 1:
        return Upscale(width, width, factor=round(whole), weight_init=init.mlp, key=key)
    return Conv(width, width, stride=round(whole), weight_init=init.mlp, key=key)
