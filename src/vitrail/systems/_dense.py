"""Dense prediction: an image model and a dense readout."""

import dataclasses
from dataclasses import dataclass
from typing import final

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from .._check import check_classes, check_positive, describe_result, is_jax_array
from .._keep import KEEP, Keep
from .._spec import PartSpec
from .._tokens import Tokens
from ..dense import READOUTS, AbstractDenseReadout, DenseContext, DenseReadoutFactory
from ..images import Preprocess
from ..model import JSONConfig, ViT, ViTConfig
from ..nn import INITS, Dropout, Execution, split_key, to_dtype, to_jax
from ._base import AbstractSystem


@final
class Dense(AbstractSystem):
    """Predicts a map over the image: the scores of classes for each pixel, or a depth.

    The readout takes the tokens of some blocks of the image model, in one forward pass. The pool and the head of the
    image model are not used. It takes one image; batch it with `jax.vmap(dense)(images)`.
    """

    image: ViT
    readout: AbstractDenseReadout
    config: "DenseConfig" = eqx.field(static=True)

    def __init__(self, image: ViT, readout: AbstractDenseReadout, config: "DenseConfig"):
        """**Arguments:**

        - `image`: the image model.
        - `readout`: turns its tokens into a map.
        - `config`: the configuration of the model.
        """
        self.image = image
        self.readout = readout
        self.config = config

    def __call__(
        self, image: Shaped[Array | np.ndarray, "..."], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "height width {self.readout.out_dim}"]:
        """Computes the map of an image.

        **Arguments:**

        - `image`: one image, `Float[Array, "height width channels"]`, of the size and channels of the image model.
        - `key`: for what is random in training; `None` means inference.

        **Returns:**

        The map in float32: logits of the classes, or one channel. It has the size of the image, unless the readout
        returns another size (`upsampling="double"` of `dpt`).

        **Raises:** `ValueError` or `TypeError` if the image does not fit.
        """
        backbone_key, readout_key = split_key(key, 2)
        backbone = self.image.backbone
        found = backbone.activations(image, layers=self.readout.layers, norm=self.readout.norm, key=backbone_key)[
            "tokens"
        ]
        tokens = Tokens.from_sequence(
            found,
            backbone.grid,
            class_token=backbone.class_token is not None,
            num_registers=backbone.num_registers,
        )
        readout = to_dtype(self.readout, found.dtype)
        result = readout(tokens, image_size=backbone.image_size, key=readout_key)
        if not is_jax_array(result) or result.ndim != 3 or result.shape[-1] != self.readout.out_dim:
            raise ValueError(
                f"the dense readout {type(self.readout).__name__} must return (height, width, {self.readout.out_dim}) "
                f"by its out_dim, got {describe_result(result)}: fix that class"
            )
        return result.astype(jnp.float32)

    def replaced(
        self,
        *,
        readout: str | PartSpec | DenseReadoutFactory | Keep = KEEP,
        num_classes: int | Keep | None = KEEP,
        classes: tuple[str, ...] | Keep | None = KEEP,
        preprocess: Preprocess | Keep | None = KEEP,
        key: PRNGKeyArray | None = None,
    ) -> "Dense":
        """What `vitrail.replace` returns for this model.

        **Arguments:** those of [`replace`][vitrail.replace].

        **Returns:**

        A new model. Its configuration describes the new parts.

        **Raises:** `ValueError` if there is a new readout and no key; and what building the readout raises.
        """
        before = self.config
        if classes is KEEP and num_classes not in (KEEP, before.num_classes):
            classes = None
        image = before.image if preprocess is KEEP else dataclasses.replace(before.image, preprocess=preprocess)
        config = dataclasses.replace(
            before,
            image=image,
            readout=before.readout if readout is KEEP else readout,
            num_classes=before.num_classes if num_classes is KEEP else num_classes,
            classes=before.classes if classes is KEEP else classes,
        )
        model = dataclasses.replace(to_jax(self.image), config=image)
        if readout is KEEP and config.num_classes == before.num_classes:
            return Dense(model, to_jax(self.readout), config)
        if key is None:
            raise ValueError(
                "vitrail.replace() needs a key for the weights of a new readout, got None: pass key=jax.random.key(0)"
            )
        return Dense(model, config.build_readout(model, key=key), config)

    def resized(self, image_size: int | tuple[int, int], *, patch_size: int | tuple[int, int] | None = None) -> "Dense":
        image = self.image.resized(image_size, patch_size=patch_size)
        return Dense(image, self.readout, dataclasses.replace(self.config, image=image.config, picture_size=None))


@dataclass(frozen=True, kw_only=True)
class DenseConfig(JSONConfig):
    """Describes a model for dense prediction by names and plain values."""

    image: ViTConfig
    """The image model."""
    readout: str | PartSpec | DenseReadoutFactory = "linear"
    """The dense readout: a registered name, a `PartSpec`, or a class or `functools.partial`, which cannot be written as
    JSON."""
    num_classes: int | None = None
    """The number of classes of a pixel; `None` for one channel of numbers, as a depth."""
    classes: tuple[str, ...] | None = None
    """The names of the classes, one for each; `None` if they are not known."""
    picture_size: tuple[int, int] | None = None
    """Height and width in pixels that pictures are scaled to; `None` for those of the image model. DPT on ADE20K reads
    pictures of 480 pixels with an image model of 384, whose positions are resampled."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.picture_size is not None:
            check_positive(picture_size=self.picture_size)
        check_classes(self.classes, self.num_classes)

    def build(self, *, execution: Execution = Execution(), dropout: Dropout = Dropout(), key: PRNGKeyArray) -> Dense:
        """Builds the model.

        **Arguments:**

        - `execution`: how the model is computed.
        - `dropout`: what is dropped in training.
        - `key`: the random key of the weights.

        **Returns:**

        A `Dense` with fresh weights.

        **Raises:** what `ViTConfig.build` raises; `ValueError` if the readout does not fit the image model.
        """
        image_key, readout_key = split_key(key)
        image = self.image.build(execution=execution, dropout=dropout, key=image_key)
        return Dense(image, self.build_readout(image, key=readout_key), self)

    def build_readout(self, image: ViT, *, key: PRNGKeyArray) -> AbstractDenseReadout:
        """Builds the readout alone.

        **Arguments:**

        - `image`: the image model that it reads.
        - `key`: the random key of the weights.

        **Returns:**

        A readout with fresh weights.

        **Raises:** what `build` raises.
        """
        context = DenseContext(
            dim=image.config.size.dim,
            depth=image.config.size.depth,
            class_token=image.backbone.class_token is not None,
            num_classes=self.num_classes,
            init=INITS[image.config.init],
        )
        return READOUTS.build(self.readout, context, key=key)


def make_dense(
    image: ViT,
    readout: str | PartSpec | DenseReadoutFactory = "linear",
    *,
    num_classes: int | None = None,
    classes: tuple[str, ...] | None = None,
    key: PRNGKeyArray,
) -> Dense:
    """Makes a model for dense prediction of an image model and a fresh readout.

    !!! example

        ```python
        image = vitrail.load("dinov2/")
        readout = vitrail.READOUTS.configure("linear", layers=(-4, -3, -2, -1))
        dense = vitrail.make_dense(image, readout, num_classes=21, key=key)
        ```

    **Arguments:**

    - `image`: the image model. It keeps its arrays; its pool and its head are not used.
    - `readout`: the dense readout: a registered name, a `PartSpec`, a class, or a `functools.partial` of one.
    - `num_classes`: the number of classes of a pixel; `None` for one channel of numbers, as a depth.
    - `classes`: the names of the classes, `None` if they are not known.
    - `key`: for the weights of the readout.

    **Returns:**

    A `Dense`.

    **Raises:** `ValueError` if the readout does not fit the image model; and what `READOUTS.build` raises.
    """
    config = DenseConfig(image=image.config, readout=readout, num_classes=num_classes, classes=classes)
    return Dense(image, config.build_readout(image, key=key), config)
