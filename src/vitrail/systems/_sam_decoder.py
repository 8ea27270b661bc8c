"""SAM's mask decoder."""

from typing import ClassVar, Final, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from ..nn import (
    ACTIVATIONS,
    MLP,
    ActivationName,
    Attention,
    AttentionStrategy,
    Init,
    LayerNorm,
    Linear,
    ParameterKinds,
    Upscale,
    split_key,
)

FINAL_EPS: Final = 1e-5
"""What the norm after the last block adds to the variance, in Meta's code and in Hugging Face's."""
_UPSCALE_EPS: Final = 1e-6


@final
class TwoWayBlock(eqx.Module):
    """Prompts attend to each other and to the image, and the image to them; a norm follows each step.

    ??? cite

        Kirillov et al., *Segment Anything*, ICCV 2023, arXiv:2304.02643, appendix A, and its `transformer.py`.
    """

    attention: Attention
    norm1: LayerNorm
    to_image: Attention
    norm2: LayerNorm
    mlp: MLP
    norm3: LayerNorm
    from_image: Attention
    norm4: LayerNorm
    is_first: bool = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        inner_dim: int,
        mlp_dim: int,
        activation: ActivationName,
        norm_eps: float,
        is_first: bool,
        init: Init,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `dim`: the width of a token.
        - `num_heads`: of each attention.
        - `inner_dim`: the width of the attention between prompts and image.
        - `mlp_dim`, `activation`: of the MLP.
        - `norm_eps`: what the norms add to the variance.
        - `is_first`: whether it is the first block, whose tokens are their own positions: its attention of prompts to
            each other adds none, and replaces the tokens.
        - `init`: draws the weights.
        - `key`: the random key of the weights.
        """
        own_key, to_key, mlp_key, from_key = split_key(key, 4)
        self.attention = Attention(dim, num_heads, init=init, key=own_key)
        self.to_image = Attention(dim, num_heads, inner_dim=inner_dim, init=init, key=to_key)
        self.mlp = MLP(dim, mlp_dim, activation=activation, init=init, key=mlp_key)
        self.from_image = Attention(dim, num_heads, inner_dim=inner_dim, init=init, key=from_key)
        self.norm1, self.norm2, self.norm3, self.norm4 = (LayerNorm(dim, eps=norm_eps) for _ in range(4))
        self.is_first = is_first

    def __call__(
        self,
        tokens: Float[Array, "tokens dim"],
        image: Float[Array, "patches dim"],
        *,
        token_positions: Float[Array, "tokens dim"],
        image_positions: Float[Array, "patches dim"],
        mask: Bool[Array, " tokens"],
        strategy: AttentionStrategy = "auto",
    ) -> tuple[Float[Array, "tokens dim"], Float[Array, "patches dim"]]:
        """**Arguments:**

        - `tokens`, `image`: the tokens of prompts and masks, and of the image.
        - `token_positions`, `image_positions`: what is added to them wherever they are compared.
        - `mask`: true for each token of a prompt that counts.
        - `strategy`: how attention is computed, as in `Execution`.

        **Returns:**

        The new tokens, and those of the image.
        """
        if self.is_first:
            tokens = self.attention(tokens, mask=mask, strategy=strategy)
        else:
            q = tokens + token_positions
            tokens = tokens + self.attention(q, q, values=tokens, mask=mask, strategy=strategy)
        tokens = self.norm1(tokens)
        k = image + image_positions
        tokens = self.norm2(tokens + self.to_image(tokens + token_positions, k, values=image, strategy=strategy))
        tokens = self.norm3(tokens + self.mlp(tokens))
        q = tokens + token_positions
        image = self.norm4(image + self.from_image(k, q, values=tokens, mask=mask, strategy=strategy))
        return tokens, image


@final
class Perceptron(eqx.Module):
    """Linear layers with ReLU between them."""

    layers: tuple[Linear, ...]

    def __init__(self, dims: tuple[int, ...], *, init: Init, key: PRNGKeyArray):
        """**Arguments:**

        - `dims`: the widths, from what it reads to what it returns.
        - `init`: draws the weights.
        - `key`: the random key of the weights.
        """
        keys = split_key(key, len(dims) - 1)
        pairs = zip(dims[:-1], dims[1:], keys, strict=True)
        self.layers = tuple(Linear(a, b, weight_init=init.mlp, key=key) for a, b, key in pairs)

    def __call__(self, x: Float[Array, " in_dim"]) -> Float[Array, " out_dim"]:
        """**Arguments:**

        - `x`: a vector.

        **Returns:**

        Another.
        """
        for layer in self.layers[:-1]:
            x = jax.nn.relu(layer(x))
        return self.layers[-1](x)


@final
class MaskDecoder(eqx.Module):
    r"""SAM's mask decoder. It turns the tokens of an image and of a prompt into masks and their predicted quality.

    The decoder has a learned token for each mask and one for the quality. They join the tokens of the prompt, and
    two-way blocks let them attend to the image and the image to them. The tokens of the image are then upscaled by four
    to vectors $x_{rc}$. A perceptron turns the token of each mask into a vector $w$, and the logits of the mask are
    $w \cdot x_{rc}$.

    ??? cite

        Kirillov et al., *Segment Anything*, ICCV 2023, arXiv:2304.02643, appendix A, and its `mask_decoder.py`.
    """

    parameter_kinds: ClassVar[ParameterKinds] = {"quality_token": "token", "mask_tokens": "token"}

    quality_token: Float[Array, " dim"]
    mask_tokens: Float[Array, "masks dim"]
    blocks: tuple[TwoWayBlock, ...]
    to_image: Attention
    norm: LayerNorm
    upscale1: Upscale
    upscale_norm: LayerNorm
    upscale2: Upscale
    weigh: Perceptron
    quality: Perceptron

    def __init__(
        self,
        dim: int,
        *,
        num_masks: int,
        depth: int,
        num_heads: int,
        inner_dim: int,
        mlp_dim: int,
        activation: ActivationName,
        norm_eps: float,
        quality_depth: int,
        quality_dim: int,
        init: Init,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `dim`: the width of a token, a multiple of 8.
        - `num_masks`: the number of masks.
        - `depth`: the number of blocks.
        - `num_heads`, `inner_dim`, `mlp_dim`, `activation`, `norm_eps`: the options of each block: its attention heads,
            the width of its attention to and from the image, the hidden width and the activation of its MLP, and what
            its norms add to the variance.
        - `quality_depth`, `quality_dim`: the number of layers that predict the quality, and their hidden width.
        - `init`: draws the weights.
        - `key`: the random key of the weights.
        """
        keys = split_key(key, 8)
        self.quality_token = init.position(keys[0], (1, dim), jnp.dtype(jnp.float32))[0]
        self.mask_tokens = init.position(keys[1], (num_masks, dim), jnp.dtype(jnp.float32))
        self.blocks = tuple(
            TwoWayBlock(
                dim,
                num_heads,
                inner_dim=inner_dim,
                mlp_dim=mlp_dim,
                activation=activation,
                norm_eps=norm_eps,
                is_first=i == 0,
                init=init,
                key=block_key,
            )
            for i, block_key in enumerate(split_key(keys[2], depth))
        )
        self.to_image = Attention(dim, num_heads, inner_dim=inner_dim, init=init, key=keys[3])
        self.norm = LayerNorm(dim, eps=FINAL_EPS)
        self.upscale1 = Upscale(dim, dim // 4, factor=2, weight_init=init.mlp, key=keys[4])
        self.upscale_norm = LayerNorm(dim // 4, eps=_UPSCALE_EPS)
        self.upscale2 = Upscale(dim // 4, dim // 8, factor=2, weight_init=init.mlp, key=keys[5])

        def make_perceptron(key: PRNGKeyArray) -> Perceptron:
            return Perceptron((dim, dim, dim, dim // 8), init=init, key=key)

        self.weigh = eqx.filter_vmap(make_perceptron)(jax.random.split(keys[6], num_masks))
        self.quality = Perceptron((dim, *(quality_dim,) * (quality_depth - 1), num_masks), init=init, key=keys[7])

    def __call__(
        self,
        image: Float[Array, "rows cols dim"],
        prompt: Float[Array, "points dim"],
        *,
        positions: Float[Array, "rows cols dim"],
        mask: Bool[Array, " points"],
        strategy: AttentionStrategy = "auto",
    ) -> tuple[Float[Array, "masks four_rows four_cols"], Float[Array, " masks"]]:
        """**Arguments:**

        - `image`: the tokens of the image, with what a mask in the prompt adds to them.
        - `prompt`: the tokens of the points.
        - `positions`: of the tokens of the image.
        - `mask`: true for each point that counts.
        - `strategy`: how attention is computed, as in `Execution`.

        **Returns:**

        The logits of the masks, and the predicted intersection over union of each with the object.
        """
        rows, cols, dim = image.shape
        num_own = 1 + len(self.mask_tokens)
        own = jnp.concatenate([self.quality_token[None], self.mask_tokens, prompt])
        mask = jnp.concatenate([jnp.ones(num_own, bool), mask])
        tokens, patches, places = own, image.reshape(-1, dim), positions.reshape(-1, dim)
        for block in self.blocks:
            tokens, patches = block(
                tokens, patches, token_positions=own, image_positions=places, mask=mask, strategy=strategy
            )
        gathered = self.to_image(tokens + own, patches + places, values=patches, strategy=strategy)
        tokens = self.norm(tokens + gathered)
        fine = self._upscale(patches.reshape(rows, cols, dim))
        weights = eqx.filter_vmap(Perceptron.__call__)(self.weigh, tokens[1:num_own])
        return jnp.einsum("md,rcd->mrc", weights, fine), self.quality(tokens[0])

    def _upscale(self, x: Float[Array, "rows cols dim"]) -> Float[Array, "four_rows four_cols eighth_dim"]:
        gelu = ACTIVATIONS["gelu"]
        return gelu(self.upscale2(gelu(self.upscale_norm(self.upscale1(x)))))
