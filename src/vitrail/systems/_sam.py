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
    """What `SegmentAnything.embed` returns: an encoded picture, for any number of prompts."""

    tokens: Float[Array, "rows cols dim"]
    size: tuple[int, int] = eqx.field(static=True)
    scaled_size: tuple[int, int] = eqx.field(static=True)

    def __init__(self, tokens: Float[Array, "rows cols dim"], size: tuple[int, int], scaled_size: tuple[int, int]):
        """**Arguments:**

        - `tokens`: the patch tokens of the image.
        - `size`: height and width of the picture. Prompts and masks are in its pixels.
        - `scaled_size`: height and width of the picture after scaling and before padding.
        """
        self.tokens = tokens
        self.size = size
        self.scaled_size = scaled_size


@final
class Segmentation(eqx.Module):
    """What `SegmentAnything.segment` returns: masks for a prompt."""

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
        - `quality`: the predicted intersection over union of each mask with the object.
        - `logits`: the masks as the model computes them, 4 x 4 numbers for each patch, positive in the object. Pass one
            of them as `mask` of the next prompt.
        """
        self.masks = masks
        self.quality = quality
        self.logits = logits

    @property
    def best(self) -> int:
        """The index of the mask with the highest predicted quality."""
        return int(jnp.argmax(self.quality))


@final
class SegmentAnything(AbstractSystem):
    """Segment Anything: an image model, a prompt encoder and a mask decoder.

    `embed` encodes a picture once. `segment` then returns the masks for a prompt, and can be called many times.

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

        - `image`: the image model. Only its backbone is used.
        - `prompt`: turns points, boxes and masks into tokens.
        - `decoder`: turns the tokens of the image and of the prompt into masks.
        - `config`: the configuration of the model.
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

        - `tokens`: the tokens of the image, `model.image.backbone(image).patch_grid`.
        - `points`: x and y of each point, in pixels of the image that the model reads.
        - `labels`: 1 for a point of the object and 0 for one of the background; 2 and 3 for the top left and the bottom
            right corner of a box; -2 for padding. A prompt without a box ends with a point of label -1.
        - `mask`: the logits of an earlier mask, of shape `config.mask_size`; `None` for none.
        - `has_mask`: false to ignore `mask`, for a batch in which some prompts have no mask; `None` for true.

        **Returns:**

        The logits of the masks and their predicted quality, in float32: first the single mask for a clear prompt, then
        the `config.num_masks` masks for a prompt that can mean several things.

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
        """Encodes a picture, for any number of prompts. The first call compiles, and the next calls are fast.

        **Arguments:**

        - `picture`: a Pillow picture, or a NumPy array of uint8 or uint16 with shape `(height, width)` or
            `(height, width, channels)`. It can have any size.
        - `key`: for dropout and stochastic depth; `None` means inference.

        **Returns:**

        The tokens of the image and the size of the picture. A picture that EXIF data rotate is rotated first: prompts
        and masks are in pixels of the rotated picture.

        **Raises:** `TypeError` or `ValueError` if the picture is none of these; `ValueError` if
        `config.image.preprocess` does not scale and pad pictures; `MissingExtraError` if Pillow is not installed.
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
        """Returns the masks for a prompt. The first call compiles, and a call with more points may compile again.

        **Arguments:**

        - `image`: as `embed` returns it.
        - `points`: x and y of each point, `(points, 2)`, in pixels of the picture: x to the right and y down, from its
            top left corner.
        - `labels`: for each point, `(points,)`, 1 if it lies in the object and 0 if it lies in the background; `None`
            if all lie in the object.
        - `box`: left, top, right and bottom of a box around the object, `(4,)`, in pixels of the picture.
        - `mask`: the logits of an earlier mask, one of `Segmentation.logits`: floating point, of shape
            `config.mask_size`.
        - `multiple`: whether to return `config.num_masks` masks, for a prompt that can mean several things, such as a
            single point; or one mask, for a clear prompt.

        **Returns:**

        The masks at the size of the picture, their predicted quality, and their logits.

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
        """Resizes masks to the size of the picture, as the original does: to the size that the image model reads, then
        without the padding to the size of the picture, both by bilinear interpolation.

        **Arguments:**

        - `image`: as `embed` returns it.
        - `logits`: those of a `Segmentation`, 4 x 4 numbers for each patch.

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
