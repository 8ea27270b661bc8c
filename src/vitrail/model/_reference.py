"""The reference variant in one call: the mean-pool ViT."""

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from .._check import check_divisible, check_finite, check_heads, check_image, check_positive
from ..encoder import EncoderSize
from ._config import ViTConfig


# One program draws the weights and runs the model: a first call takes 0.7 times as long as with two (Ti/16).
@eqx.filter_jit
def _compute_logits(
    config: ViTConfig, key: PRNGKeyArray, image: Float[Array, "height width channels"]
) -> Float[Array, " classes"]:
    return config.build(key=key)(image)


def vit_forward(
    seed: int,
    image: Shaped[Array | np.ndarray, "..."],
    patch_size: int,
    d_model: int,
    num_heads: int,
    d_ff: int,
    num_layers: int,
    num_classes: int,
) -> Float[Array, " classes"]:
    """Computes the logits of a mean-pool ViT with fresh weights, in one call.

    The steps are: patch tokens by a strided convolution, plus a learned position embedding; `num_layers` pre-norm
    blocks; a final LayerNorm; the mean over the patches; one linear layer. To train or keep a model use
    [`vit`][vitrail.vit].

    **Arguments:**

    - `seed`: the seed of the weights, in `[0, 2**32)`. The same seed gives the same logits.
    - `image`: one image, `Float[Array, "height width channels"]`, in JAX or NumPy. Its values are finite, and height
        and width are multiples of `patch_size`. It is converted to float32.
    - `patch_size`: height and width of a patch in pixels.
    - `d_model`: the width of a token, a multiple of `num_heads`.
    - `num_heads`: the number of heads of the attention.
    - `d_ff`: the width of the MLP's hidden layer.
    - `num_layers`: the number of blocks.
    - `num_classes`: the number of logits.

    **Returns:**

    The logits, `(num_classes,)`, in float32.

    **Raises:** `ValueError` if a number is out of range, sizes do not divide, or the image does not have three axes or
    is not finite; `TypeError` if the image is not floating point. Under `jax.jit` an image that is not finite raises
    when the program runs.

    ??? cite

        Dosovitskiy et al., *An Image is Worth 16x16 Words*, ICLR 2021, arXiv:2010.11929; the mean instead of the class
        token: Beyer et al., *Better plain ViT baselines for ImageNet-1k*, 2022, arXiv:2205.01580.
    """
    if isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise ValueError(f"seed must be in [0, 2**32), got {seed}: pass a whole number of 32 bits")
    check_positive(
        patch_size=patch_size,
        d_model=d_model,
        num_heads=num_heads,
        d_ff=d_ff,
        num_layers=num_layers,
        num_classes=num_classes,
    )
    check_image(image, None, None)
    check_heads("d_model", d_model, num_heads)
    height, width, channels = image.shape
    check_divisible("image", (height, width), (patch_size, patch_size))
    image = check_finite(image)

    config = ViTConfig(
        image_size=(height, width),
        patch_size=(patch_size, patch_size),
        channels=channels,
        size=EncoderSize(dim=d_model, depth=num_layers, num_heads=num_heads, mlp_dim=d_ff),
        num_classes=num_classes,
    )
    return _compute_logits(config, jax.random.key(seed), image)
