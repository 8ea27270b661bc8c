"""SAM's neck, between the last block and the final norm."""

from typing import ClassVar, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._check import check_positive
from .._tokens import Tokens
from ..nn import Init, LayerNorm, Linear, ParameterKinds, split_key

NECK_EPS = 1e-6
"""What the norms of a neck add to the variance, in SAM's code and in timm's. The norms of the blocks may differ."""


@final
class Neck(eqx.Module):
    r"""Two convolutions over the grid of patch tokens that change their width, with a LayerNorm between.

    A $1 \times 1$ convolution, the norm, and a $3 \times 3$ convolution with zero padding; neither has a bias. The
    final norm of the backbone follows, which SAM counts as part of the neck.

    ??? cite

        Kirillov et al., *Segment Anything*, ICCV 2023, arXiv:2304.02643, and its `image_encoder.py`.
    """

    parameter_kinds: ClassVar[ParameterKinds] = {"weight": "matrix"}

    project: Linear
    norm: LayerNorm
    weight: Float[Array, "neck_dim neck_dim 3 3"]

    def __init__(self, dim: int, neck_dim: int, *, init: Init, key: PRNGKeyArray):
        """**Arguments:**

        - `dim`: the width of a token.
        - `neck_dim`: the new width.
        - `init`: draws the weights.
        - `key`: the random key of the weights.
        """
        check_positive(dim=dim, neck_dim=neck_dim)
        project_key, key = split_key(key)
        self.project = Linear(dim, neck_dim, weight_init=init.mlp, bias_init=None, key=project_key)
        self.norm = LayerNorm(neck_dim, eps=NECK_EPS)
        flat = init.patch(key, (neck_dim, 9 * neck_dim), jnp.dtype(jnp.float32))
        self.weight = flat.reshape(neck_dim, neck_dim, 3, 3)

    @property
    def dim(self) -> int:
        """The width of the tokens that it returns."""
        return self.weight.shape[0]

    def __call__(self, tokens: Tokens) -> Tokens:
        """**Arguments:**

        - `tokens`: after the last block, patches alone.

        **Returns:**

        The patch tokens at the neck's width.

        **Raises:** `ValueError` if the tokens have a class token, registers, places or a mask.
        """
        if tokens.num_prefix:
            raise ValueError(
                f"tokens must have no class token and no registers before a neck, got {tokens.num_prefix} of them: a "
                "neck is a convolution over the patches; use a pool that needs no class token, and num_registers=0"
            )
        if tokens.mask is not None:
            raise ValueError(
                "tokens must have no mask before a neck, got one: a convolution mixes neighbours; use all patches"
            )
        x = self.norm(self.project(tokens.patch_grid))
        x = jax.lax.conv_general_dilated(
            x[None], self.weight, (1, 1), "SAME", dimension_numbers=("NHWC", "OIHW", "NHWC")
        )[0]
        neck_dim = x.shape[-1]
        return Tokens(x.reshape(-1, neck_dim), tokens.grid)
