"""The dense readout `linear`."""

from typing import final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._tokens import Tokens
from ..nn import TRUNC_NORMAL, FrozenBatchNorm, Init, Linear, resample
from ._base import AbstractDenseReadout, check_class_token, check_layers


@final
class LinearReadout(AbstractDenseReadout):
    r"""A linear layer for each patch, then bilinear upsampling to the pixels of the image.

    $y_i = W\,[x_i^{(1)}; \dots; x_i^{(L)}] + b$ with the tokens of $L$ blocks of one patch $i$ side by side, by choice
    each with the class token of its block behind it.

    Use it to see what a frozen backbone knows, as DINOv2 evaluates: the last block alone, or the last four
    concatenated. For finer maps use `dpt`.

    ??? cite

        Oquab et al., *DINOv2: Learning Robust Visual Features without Supervision*, TMLR 2024, arXiv:2304.07193,
        section 7.4, and the `BNHead` of its code.
    """

    norm_inputs: FrozenBatchNorm | None
    linear: Linear
    layers: tuple[int, ...] = eqx.field(static=True)
    norm: bool = eqx.field(static=True)
    use_class_token: bool = eqx.field(static=True)
    out_dim: int = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        *,
        depth: int,
        num_classes: int | None,
        class_token: bool = False,
        init: Init = TRUNC_NORMAL,
        layers: tuple[int, ...] = (-1,),
        norm: bool = True,
        use_class_token: bool = False,
        batch_norm: bool = False,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `dim`: the width of a token.
        - `depth`: the number of blocks.
        - `num_classes`: the number of classes; `None` for one channel.
        - `class_token`: whether there is a class token.
        - `init`: draws the weights.
        - `layers`: the blocks whose tokens are concatenated, in this order.
        - `norm`: whether the final norm is applied to them.
        - `use_class_token`: whether the class token is concatenated to each patch token.
        - `batch_norm`: whether the concatenated tokens are normalised with the running mean and variance of a
            checkpoint, as in DINOv2's heads for segmentation.
        - `key`: the random key of the weights.

        **Raises:** `ValueError` if a layer is not a block, or if `use_class_token` is true for a model without a class
        token.
        """
        check_layers(layers, depth)
        if use_class_token:
            check_class_token("use_class_token=True", class_token)
        width = dim * len(layers) * (1 + use_class_token)
        self.out_dim = 1 if num_classes is None else num_classes
        self.norm_inputs = FrozenBatchNorm(width) if batch_norm else None
        self.linear = Linear(width, self.out_dim, weight_init=init.head, key=key)
        self.layers = layers
        self.norm = norm
        self.use_class_token = use_class_token

    def __call__(
        self, tokens: Tokens, *, image_size: tuple[int, int], key: PRNGKeyArray | None = None
    ) -> Float[Array, "height width {self.out_dim}"]:
        x = tokens.patch_grid
        if self.use_class_token:
            check_class_token("the readout", tokens.class_token is not None)
            assert tokens.class_token is not None
            x = jnp.concatenate([x, jnp.broadcast_to(tokens.class_token[:, None, None], x.shape)], axis=-1)
        x = jnp.moveaxis(x, 0, -2).reshape(*tokens.grid, -1)
        if self.norm_inputs is not None:
            x = self.norm_inputs(x)
        return resample(self.linear(x), image_size, "bilinear")
