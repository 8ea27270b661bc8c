"""SAM's prompt encoder: points, boxes and masks as tokens."""

import math
from typing import ClassVar, Final, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..nn import ACTIVATIONS, ActivationName, Init, LayerNorm, Linear, ParameterKinds, draw_normal, split_key
from ..patch import ConvPatchEmbed

NO_POINT: Final = -1
"""The label of the point that stands in for a box where a prompt has none."""
NOTHING: Final = -2
"""The label of what fills a prompt up and is not looked at."""
CORNERS: Final = (2, 3)
"""The labels of the two corners of a box. Those of points are 0 for the background and 1 for the object."""
_LABELS: Final = 4


@final
class MaskEmbed(eqx.Module):
    """Brings a mask to the grid of patches: two convolutions of 2 x 2 that halve it, each with a norm and an
    activation, and a linear layer."""

    first: ConvPatchEmbed
    first_norm: LayerNorm
    second: ConvPatchEmbed
    second_norm: LayerNorm
    project: Linear
    activation: ActivationName = eqx.field(static=True)

    def __init__(
        self, dim: int, channels: int, *, activation: ActivationName, norm_eps: float, init: Init, key: PRNGKeyArray
    ):
        """**Arguments:**

        - `dim`: the width of a token.
        - `channels`: the number of channels before the linear layer.
        - `activation`: after each norm.
        - `norm_eps`: what the norms add to the variance.
        - `init`: draws the weights.
        - `key`: the random key of the weights.
        """
        first_key, second_key, project_key = split_key(key, 3)
        few = channels // 4
        self.first = ConvPatchEmbed(few, patch_size=(2, 2), channels=1, init=init, key=first_key)
        self.first_norm = LayerNorm(few, eps=norm_eps)
        self.second = ConvPatchEmbed(channels, patch_size=(2, 2), channels=few, init=init, key=second_key)
        self.second_norm = LayerNorm(channels, eps=norm_eps)
        self.project = Linear(channels, dim, weight_init=init.mlp, key=project_key)
        self.activation = activation

    def __call__(self, mask: Float[Array, "height width"]) -> Float[Array, "rows cols dim"]:
        """**Arguments:**

        - `mask`: the logits of a mask, four by four for each patch.

        **Returns:**

        What is added to the tokens of the image.
        """
        activate = ACTIVATIONS[self.activation]
        x = activate(self.first_norm(self.first(mask[..., None])))
        return self.project(activate(self.second_norm(self.second(x))))


@final
class PromptEncoder(eqx.Module):
    r"""Turns points, boxes and masks into tokens for SAM's mask decoder.

    The place $p \in [-1, 1]^2$ of a point becomes $[\sin 2\pi pF, \cos 2\pi pF]$ with random frequencies $F$ that are
    not trained. A learned vector for its label is added: background, object, or one of the two corners of a box.

    ??? cite

        Kirillov et al., *Segment Anything*, ICCV 2023, arXiv:2304.02643, appendix A, and its `prompt_encoder.py`;
        Tancik et al., *Fourier Features Let Networks Learn High Frequency Functions*, NeurIPS 2020, arXiv:2006.10739.
    """

    parameter_kinds: ClassVar[ParameterKinds] = {"labels": "token", "no_point": "token", "no_mask": "token"}

    frequencies: Float[Array, "2 half_dim"]
    labels: Float[Array, "4 dim"]
    no_point: Float[Array, " dim"]
    no_mask: Float[Array, " dim"]
    mask: MaskEmbed

    def __init__(
        self,
        dim: int,
        *,
        mask_channels: int = 16,
        mask_activation: ActivationName = "gelu",
        mask_norm_eps: float = 1e-6,
        init: Init,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `dim`: the width of a token, an even number.
        - `mask_channels`, `mask_activation`, `mask_norm_eps`: the options of the convolutions that read a mask, as in
            `SegmentAnythingConfig`.
        - `init`: draws the weights.
        - `key`: the random key of the weights.
        """
        frequencies_key, labels_key, no_point_key, no_mask_key, mask_key = split_key(key, 5)
        float32 = jnp.dtype(jnp.float32)
        self.frequencies = draw_normal(frequencies_key, (2, dim // 2), std=1.0)
        self.labels = init.position(labels_key, (_LABELS, dim), float32)
        self.no_point = init.position(no_point_key, (1, dim), float32)[0]
        self.no_mask = init.position(no_mask_key, (1, dim), float32)[0]
        self.mask = MaskEmbed(
            dim, mask_channels, activation=mask_activation, norm_eps=mask_norm_eps, init=init, key=mask_key
        )

    def __call__(
        self,
        points: Float[Array, "points 2"],
        labels: Int[Array, " points"],
        image_size: tuple[int, int],
    ) -> Float[Array, "points dim"]:
        """**Arguments:**

        - `points`: x and y of each, in pixels of the image that the model reads; whole numbers are the centres of
            pixels.
        - `labels`: 1 for a point of the object and 0 for one of the background; 2 for the top left corner of a box and
            3 for its bottom right corner; -1 where there is no point.
        - `image_size`: height and width of the image.

        **Returns:**

        A token for each point.
        """
        height, width = image_size
        places = self._encode((points + 0.5) / jnp.asarray([[width, height]], points.dtype))
        placed = places + self.labels[jnp.clip(labels, 0, _LABELS - 1)]
        return jnp.where(labels[:, None] < 0, jnp.broadcast_to(self.no_point, placed.shape), placed)

    def encode_grid(self, grid: tuple[int, int]) -> Float[Array, "rows cols dim"]:
        """**Arguments:**

        - `grid`: rows and columns of patches.

        **Returns:**

        The positions of the middles of the patches, as those of points.
        """
        rows, cols = ((jnp.arange(n, dtype=jnp.float32) + 0.5) / n for n in grid)
        x, y = jnp.meshgrid(cols, rows)
        return self._encode(jnp.stack([x, y], axis=-1))

    def embed_mask(
        self, mask: Float[Array, "height width"] | None, grid: tuple[int, int]
    ) -> Float[Array, "rows cols dim"]:
        """**Arguments:**

        - `mask`: the logits of a mask, four by four for each patch; `None` for no mask.
        - `grid`: rows and columns of patches.

        **Returns:**

        What is added to the tokens of the image.
        """
        return jnp.broadcast_to(self.no_mask, (*grid, len(self.no_mask))) if mask is None else self.mask(mask)

    def _encode(self, places: Float[Array, "*batch 2"]) -> Float[Array, "*batch dim"]:
        """The positions of places in [0, 1]."""
        frequencies = jax.lax.stop_gradient(self.frequencies)
        angles = 2 * math.pi * jnp.matmul(2 * places - 1, frequencies, precision="highest")
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
