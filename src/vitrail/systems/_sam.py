"""Segment Anything: from an image and a prompt to masks."""

import dataclasses
from typing import final

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped

from ..images import to_picture
from ..model import Backbone, ViT
from ..nn import to_dtype
from ._base import AbstractSystem
from ._sam_config import SegmentAnythingConfig
from ._sam_decoder import MaskDecoder
from ._sam_geometry import Box, Labels, Points, check_mask, enlarge_masks, place_prompt
from ._sam_prompt import NOTHING, PromptEncoder


@final
class EmbeddedImage(eqx.Module):
    """A picture that a `SegmentAnything` has read, for any number of prompts."""

    tokens: Float[Array, "rows cols dim"]
    size: tuple[int, int] = eqx.field(static=True)
    scaled_size: tuple[int, int] = eqx.field(static=True)

    def __init__(self, tokens: Float[Array, "rows cols dim"], size: tuple[int, int], scaled_size: tuple[int, int]):
        """**Arguments:**

        - `tokens`: of the image, in rows and columns.
        - `size`: height and width of the picture, in whose pixels prompts and masks are.
        - `scaled_size`: height and width that it was scaled to, before it was padded.
        """
        self.tokens = tokens
        self.size = size
        self.scaled_size = scaled_size


@final
class Segmentation(eqx.Module):
    """The masks that a prompt asks for."""

    masks: Bool[Array, "masks height width"]
    quality: Float[Array, " masks"]
    logits: Float[Array, "masks rows cols"]

    def __init__(
        self,
        masks: Bool[Array, "masks height width"],
        quality: Float[Array, " masks"],
        logits: Float[Array, "masks rows cols"],
    ):
        """**Arguments:**

        - `masks`: true in the object, at the size of the picture.
        - `quality`: how well each mask is predicted to fit, as its intersection over union with the object.
        - `logits`: the masks as the model computes them, 4 x 4 numbers for each patch, above zero in the object. One of
            them can go with the next prompt.
        """
        self.masks = masks
        self.quality = quality
        self.logits = logits

    @property
    def best(self) -> int:
        """The number of the mask with the highest predicted quality."""
        return int(jnp.argmax(self.quality))


@final
class SegmentAnything(AbstractSystem):
    """Segment Anything: an image model, a prompt encoder and a mask decoder.

    `embed` reads a picture once; `segment` then answers prompts on it.

    !!! example

        ```python
        sam = vitrail.load("sam_vit_b.safetensors")
        image = sam.embed(PIL.Image.open("photo.jpg"))
        found = sam.segment(image, points=[(120, 80)])
        found.masks[found.best]  # true in the object, at the size of the photo
        ```

    ??? cite

        Kirillov et al., *Segment Anything*, ICCV 2023, arXiv:2304.02643.
    """

    image: ViT
    prompt: PromptEncoder
    decoder: MaskDecoder
    config: SegmentAnythingConfig = eqx.field(static=True)

    def __init__(self, image: ViT, prompt: PromptEncoder, decoder: MaskDecoder, config: SegmentAnythingConfig):
        """**Arguments:**

        - `image`: the image model, of which the backbone is read.
        - `prompt`: turns points, boxes and masks into tokens.
        - `decoder`: turns both into masks.
        - `config`: what all were built from.
        """
        self.image = image
        self.prompt = prompt
        self.decoder = decoder
        self.config = config

    def __call__(
        self,
        tokens: Float[Array, "rows cols dim"],
        points: Float[Array, "points 2"],
        labels: Int[Array, " points"],
        mask: Float[Array, "height width"] | None = None,
        has_mask: Bool[Array, ""] | None = None,
    ) -> tuple[Float[Array, "masks height width"], Float[Array, " masks"]]:
        """The forward pass after the image model, for one prompt; batch it with `jax.vmap`.

        **Arguments:**

        - `tokens`: of the image: `model.image.backbone(image).patch_grid`, with a key in training.
        - `points`: x and y of each, in pixels of the image that the model reads.
        - `labels`: 1 for a point of the object and 0 for one of the background; 2 and 3 for the top left and the bottom
            right corner of a box; -1 for a point that a prompt without a box has at the end; -2 for what only fills the
            arrays up.
        - `mask`: the logits of an earlier mask; `None` for none.
        - `has_mask`: false where `mask` only fills the array up and is not looked at, as in a batch of which some have
            one; `None` for true.

        **Returns:**

        The logits of the masks and their predicted quality, in float32: first the mask for a clear prompt, then those
        for a prompt that can mean several things.

        **Raises:** `ValueError` if the tokens are not those of an image of this model.
        """
        expected = (*self.config.image.grid, self.config.dim)
        if tokens.shape != expected:
            raise ValueError(
                f"tokens must have shape {expected}, the grid and the width of this model, got {tokens.shape}: embed "
                "the image with the same model"
            )
        grid, execution = (tokens.shape[0], tokens.shape[1]), self.image.backbone.execution
        dtype = jnp.dtype(execution.compute_dtype)
        prompt, decoder = self.prompt, to_dtype(self.decoder, dtype)
        added = prompt.embed_mask(mask, grid)
        if has_mask is not None:
            added = jnp.where(has_mask, added, prompt.embed_mask(None, grid))
        dense = tokens.astype(jnp.float32) + added
        logits, quality = decoder(
            dense.astype(dtype),
            prompt(points, labels, self.config.image.image_size).astype(dtype),
            positions=prompt.encode_grid(grid).astype(dtype),
            mask=labels != NOTHING,
            strategy=execution.attention,
        )
        return logits.astype(jnp.float32), quality.astype(jnp.float32)

    def embed(self, picture: object, *, key: PRNGKeyArray | None = None) -> EmbeddedImage:
        """Reads a picture, for any number of prompts. Each call after the first runs a compiled program.

        **Arguments:**

        - `picture`: a Pillow picture, or a NumPy array of uint8 or uint16 with shape `(height, width)` or
            `(height, width, channels)`, as `Preprocess` takes it. It can have any size.
        - `key`: for dropout and stochastic depth; `None` means inference.

        **Returns:**

        The tokens of the image, with the size of the picture. If EXIF turns the picture, prompts and masks are in
        pixels of the turned one.

        **Raises:** `TypeError` or `ValueError` if the picture is none of these, or if the configuration does not say
        how pictures are prepared; `MissingExtraError` if Pillow is not installed.
        """
        preprocess, image_size = self.config.image.preprocess, self.config.image.image_size
        if preprocess is None or preprocess.fit != "pad":
            raise ValueError(
                f"config.image.preprocess must scale the longer side and pad (fit='pad'), got {preprocess}: load the "
                "model with its settings, or build it with vitrail.Preprocess('pad', 'bilinear', mean, std)"
            )
        upright = to_picture(picture, preprocess.channels)
        size = upright.height, upright.width
        tokens = _embed(self.image.backbone, preprocess(upright, image_size), key)
        return EmbeddedImage(tokens, size, preprocess.compute_padded_size(size, image_size))

    def segment(
        self,
        image: EmbeddedImage,
        *,
        points: Points | None = None,
        labels: Labels | None = None,
        box: Box | None = None,
        mask: Shaped[Array | np.ndarray, "..."] | None = None,
        multiple: bool = True,
    ) -> Segmentation:
        """Answers a prompt. Each call runs a compiled program; prompts with more points may compile another.

        **Arguments:**

        - `image`: as `embed` returns it.
        - `points`: x and y of each, in pixels of the picture: x to the right and y down, from its top left corner.
        - `labels`: for each point, 1 if it lies in the object and 0 if it lies in the background; `None` for all in the
            object.
        - `box`: left, top, right and bottom of a box around the object, in pixels of the picture.
        - `mask`: the logits of an earlier mask, one of `Segmentation.logits`.
        - `multiple`: whether to return several masks, for a prompt that can mean several things, as a single point; or
            one, for a prompt that is clear.

        **Returns:**

        The masks at the size of the picture, and their predicted quality.

        **Raises:** `ValueError` if there is no prompt, if a point or the box is outside the picture, if the box has no
        area, if the mask has another shape, or if another model embedded the picture.
        """
        self._check_image(image)
        places, kinds = place_prompt(image.size, image.scaled_size, points, labels, box, alone=mask is None)
        logits, quality = _decode(self, image.tokens, places, kinds, check_mask(mask, self.config.mask_size))
        chosen = slice(1, None) if multiple else slice(0, 1)
        return Segmentation(self.enlarge(image, logits[chosen]) > 0, quality[chosen], logits[chosen])

    def enlarge(
        self, image: EmbeddedImage, logits: Float[Array, "masks rows cols"]
    ) -> Float[Array, "masks height width"]:
        """Brings masks to the size of the picture, as the original does: to the size that the image model reads, cut to
        what is not padding, to the size of the picture, each by bilinear interpolation.

        **Arguments:**

        - `image`: as `embed` returns it.
        - `logits`: as `Segmentation` has them.

        **Returns:**

        The logits of each pixel of the picture.

        **Raises:** `ValueError` if a model for images of another size embedded the picture.
        """
        self._check_image(image)
        return enlarge_masks(logits, self.config.image.image_size, image.scaled_size, image.size)

    def resized(
        self, image_size: int | tuple[int, int], *, patch_size: int | tuple[int, int] | None = None
    ) -> "SegmentAnything":
        image = self.image.resized(image_size, patch_size=patch_size)
        return dataclasses.replace(self, image=image, config=dataclasses.replace(self.config, image=image.config))

    def _check_image(self, image: EmbeddedImage) -> None:
        image_size = self.config.image.image_size
        scale = min(image_size[0] / image.size[0], image_size[1] / image.size[1])
        if any(abs(scaled - side * scale) > 1 for scaled, side in zip(image.scaled_size, image.size, strict=True)):
            raise ValueError(
                f"image must be embedded by this model, which reads {image_size[0]} x {image_size[1]} pixels, got one "
                f"scaled to {image.scaled_size[0]} x {image.scaled_size[1]}: use the embed of the same model"
            )


@eqx.filter_jit
def _embed(
    backbone: Backbone, image: Float[Array | np.ndarray, "height width channels"], key: PRNGKeyArray | None
) -> Float[Array, "rows cols dim"]:
    return backbone(image, key=key).patch_grid


@eqx.filter_jit
def _decode(
    model: SegmentAnything,
    tokens: Float[Array, "rows cols dim"],
    points: Float[Array, "points 2"],
    labels: Int[Array, " points"],
    mask: Float[Array, "height width"] | None,
) -> tuple[Float[Array, "masks height width"], Float[Array, " masks"]]:
    return model(tokens, points, labels, mask)
